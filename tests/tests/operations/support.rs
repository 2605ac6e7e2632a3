use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::auth::Credential;
use mongo_core::bson::{Document, doc};
use mongo_core::event::{CommandEvent, EventHandlers};
use mongo_core::net::Connection;
use mongo_core::operation::{ClientSession, OperationKind, SessionOptions, TransactionOptions};
use mongo_core::pools::{Backend, Cursor, Pools, PoolsBuilder, PoolsConfig, Session};
use mongo_core::{ClientOptions, Error};
use mongo_testkit::{Action, Deployment, DeploymentBuilder, ErrorReply, Matcher, SimNetwork, User};
use tokio::time::timeout;

#[path = "../common/eventually.rs"]
mod eventually;
pub(crate) use eventually::eventually;
#[path = "../common/over_sim.rs"]
mod over_sim;
pub(crate) use over_sim::OverSim;

/// The limit for waits in tests.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Makes tests of each function for both backends, on a paused clock and a network in memory.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        on_both!(@instance deadpool, mongo_deadpool::Pool, $($name)*);
        on_both!(@instance bb8, mongo_bb8::Pool, $($name)*);
    };
    (@instance $module:ident, $backend:ty, $($name:ident)*) => {
        mod $module {
            $(
                #[tokio::test(start_paused = true)]
                async fn $name() {
                    let run = super::$name::<$backend>();
                    let limit = crate::support::LIMIT * 60;
                    tokio::time::timeout(limit, run).await.expect("in time");
                }
            )*
        }
    };
}

/// Started commands, in order.
#[derive(Clone, Default)]
pub(crate) struct Commands(Arc<Mutex<Vec<Started>>>);

struct Started {
    server: String,
    operation: Option<i64>,
    command: Document,
}

impl Commands {
    pub(crate) fn handlers(&self) -> EventHandlers {
        let kept = self.clone();
        EventHandlers::new().on_command(move |event| {
            if let CommandEvent::Started(started) = event {
                let command = Document::try_from(&*started.command).expect("a document");
                let mut commands = kept.0.lock().expect("no panic");
                commands.push(Started {
                    server: started.address.to_string(),
                    operation: started.operation_id,
                    command,
                });
            }
        })
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        self.0.lock().expect("no panic").clear();
    }

    /// The commands of a name, in order.
    pub(crate) fn of(&self, name: &str) -> Vec<Document> {
        self.map(name, |own| own.command.clone())
    }

    pub(crate) fn servers_of(&self, name: &str) -> Vec<String> {
        self.map(name, |own| own.server.clone())
    }

    /// The ids of their operations.
    pub(crate) fn operations_of(&self, name: &str) -> Vec<Option<i64>> {
        self.map(name, |own| own.operation)
    }

    fn map<T>(&self, name: &str, take: impl FnMut(&Started) -> T) -> Vec<T> {
        let commands = self.0.lock().expect("no panic");
        let own = commands.iter().filter(|own| own.command.contains_key(name));
        own.map(take).collect()
    }
}

/// Members on a network in memory, and pools over them that keep their commands.
pub(crate) struct World<B: Backend> {
    pub(crate) set: Deployment,
    pub(crate) pools: Pools<B>,
    pub(crate) commands: Commands,
    pub(crate) network: SimNetwork,
}

/// Inserts a document in a session.
pub(crate) async fn insert<B: Backend>(
    pools: &Pools<B>,
    session: &mut Session<B>,
) -> Result<(), Error> {
    let insert = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let write = pools.command("db", &insert).kind(OperationKind::Write);
    write.session(session).await?.check_write()
}

impl<B: Backend> World<B> {
    pub(crate) async fn ping(&self) -> Result<(), Error> {
        let ping = self.pools.command("db", &doc! { "ping": 1 });
        ping.await.map(drop)
    }

    /// Connections in use, of all pools.
    pub(crate) fn in_use(&self) -> usize {
        self.pools.status().iter().map(|pool| pool.in_use).sum()
    }

    /// A write in a session whose reply is late, and whose future is dropped.
    pub(crate) async fn cancelled_insert(&self, session: &mut Session<B>) {
        let slow = Matcher::command("insert").times(1);
        let slow = slow.then(Action::Delay(Duration::from_secs(5)));
        self.set.server(0).script().add(slow);
        let short = timeout(Duration::from_millis(300), insert(&self.pools, session));
        short.await.expect_err("slow");
    }

    pub(crate) fn session(&self) -> Session<B> {
        let session = self.pools.start_session(SessionOptions::default());
        session.expect("a session")
    }
}

impl<B: Backend<Config: Default>> World<B> {
    /// A replica set of three members, whose primary is the first.
    pub(crate) async fn replica_set(options: &str) -> Self {
        let network = SimNetwork::new(5);
        let set = Deployment::replica_set("rs").members(3).network(&network);
        Self::over(set.start().await, &network, options)
    }

    pub(crate) async fn sharded(routers: usize, options: &str) -> Self {
        let network = SimNetwork::new(5);
        let set = Deployment::sharded(routers).network(&network);
        Self::over(set.start().await, &network, options)
    }

    pub(crate) async fn load_balanced(options: &str) -> Self {
        let network = SimNetwork::new(5);
        let set = Deployment::load_balanced(1).network(&network);
        Self::over(set.start().await, &network, options)
    }

    pub(crate) async fn standalone(options: &str) -> Self {
        let network = SimNetwork::new(5);
        let set = Deployment::standalones(1).network(&network);
        Self::over(set.start().await, &network, options)
    }

    pub(crate) fn over(set: Deployment, network: &SimNetwork, options: &str) -> Self {
        Self::configured(set, network, options, PoolsConfig::default())
    }

    pub(crate) fn configured(
        set: Deployment,
        network: &SimNetwork,
        options: &str,
        config: PoolsConfig,
    ) -> Self {
        let commands = Commands::default();
        let uri = set.uri();
        let joint = if uri.contains('?') { '&' } else { '?' };
        let uri = format!("{uri}{joint}{options}");
        let mut options = ClientOptions::parse(&uri).expect("a connection string");
        options.allow_plain_without_tls = true;
        let builder: PoolsBuilder<B> = Pools::builder(options);
        let pools = builder
            .connector(Arc::new(OverSim(network.clone())))
            .event_handlers(commands.handlers())
            .config(config)
            .build()
            .expect("pools");
        Self {
            set,
            pools,
            commands,
            network: network.clone(),
        }
    }

    /// Fails commands on the first server: `data` as in `failCommand`.
    pub(crate) fn fail(&self, times: i32, data: Document) {
        self.set.fail_commands(0, doc! { "times": times }, data);
    }

    /// Fails ends of transactions on the first server, with an error or by dropping the connection.
    pub(crate) fn fail_ends(&self, times: u64, command: &str, error: Option<ErrorReply>) {
        let server = self.set.server(0);
        server.script().clear();
        let matcher = Matcher::command(command).times(times);
        server.script().add(match error {
            Some(error) => matcher.then(Action::Error(error)),
            None => matcher.drop_connection(),
        });
    }
}

/// Waits until a check-out waits for a connection of a full pool.
pub(crate) async fn one_waits<B: Backend>(pools: &Pools<B>) {
    let waiting = || pools.status().iter().map(|own| own.waiting).sum::<usize>();
    eventually("a waiter", || waiting() == 1).await;
}

/// A transaction with one write.
pub(crate) async fn begun<B: Backend>(world: &World<B>) -> Session<B> {
    begun_by(&world.pools).await
}

/// The same, by a handle of any credential.
pub(crate) async fn begun_by<B: Backend>(pools: &Pools<B>) -> Session<B> {
    let session = pools.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    session
        .start_transaction(TransactionOptions::default())
        .expect("a transaction");
    insert(pools, &mut session).await.expect("a write");
    session
}

/// The same, on a connection.
pub(crate) async fn begun_on(connection: &mut Connection) -> ClientSession {
    let session = connection.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    session
        .start_transaction(TransactionOptions::default())
        .expect("a transaction");
    let insert = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let write = connection.command("db", &insert).session(&mut session);
    write.await.map(drop).expect("a reply");
    session
}

pub(crate) async fn no_transaction<B: Backend>(world: &World<B>) {
    let open = || world.set.server(0).open_transactions();
    eventually("no transaction on the server", || open() == 0).await;
}

pub(crate) async fn with_orders<B: Backend<Config: Default>>() -> World<B> {
    let world = World::<B>::replica_set("").await;
    let orders = (0..10).map(|id| doc! { "_id": id });
    world.set.insert("shop.orders", orders);
    world
}

pub(crate) fn find() -> Document {
    doc! { "find": "orders", "batchSize": 3, "sort": { "_id": 1 } }
}

pub(crate) async fn open<B: Backend>(world: &World<B>) -> Cursor<'_, B> {
    let find = world.pools.command("shop", &find());
    let find = find.kind(OperationKind::Read).batch_size(3);
    find.cursor().await.expect("a cursor")
}

pub(crate) async fn behind_a_balancer<B: Backend<Config: Default>>(options: &str) -> World<B> {
    let world = World::<B>::load_balanced(options).await;
    let orders = (0..10).map(|id| doc! { "_id": id });
    world.set.insert("shop.orders", orders);
    world
}

/// A member with two users, and a handle for the first one.
pub(crate) async fn with_users<B: Backend<Config: Default>>(
    config: PoolsConfig,
) -> (World<B>, Pools<B>) {
    with_users_of(Deployment::replica_set("rs").members(1), "", config).await
}

pub(crate) async fn with_users_of<B: Backend<Config: Default>>(
    set: DeploymentBuilder,
    options: &str,
    config: PoolsConfig,
) -> (World<B>, Pools<B>) {
    let network = SimNetwork::new(5);
    let set = set.network(&network);
    let set = set.user(User::new("one", "first").iterations(4096));
    let set = set.user(User::new("two", "second").iterations(4096));
    let world = World::configured(set.start().await, &network, options, config);
    let pools = world.pools.with_credential(credential("one", "first"));
    (world, pools.expect("a handle"))
}

pub(crate) fn credential(name: &str, password: &str) -> Credential {
    Credential::new(name, password).with_source("admin")
}
