//! How soon a client finds a new primary: this workspace's topology and the official `mongodb`
//! crate, side by side in one run.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench failover            # 300 elections for each
//! cargo bench -p mongo-testkit --bench failover -- 1000
//! ```
//! Each client watches a scripted replica set of its own on loopback, streaming on. In turn, one
//! set's primary steps down, its client notices that there is none, an operation begins to wait for
//! one, and a secondary is elected. At that moment its streaming hello reports the election, and
//! the time begins. The output is the time until:
//! - an event names the new primary;
//! - the waiting selection finds it. The official crate has no public selection: there it is the
//!   moment when the waiting operation's predicate (`SelectionCriteria::Predicate`) accepts the new
//!   primary. That is before its selection returns, so the figure favours that crate. Here it is
//!   when `Topology::select` has returned to the waiting task;
//! - a `ping` on an open connection to it is answered.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bson::doc;
use mongo_core::event::SdamEvent;
use mongo_core::net::Topology;
use mongo_core::pools::ConnectionFactory;
use mongo_core::select::Criterion;
use mongo_core::{ClientOptions, Connection, Deadline};
use mongo_testkit::Deployment;
use mongodb::event::EventHandler;
use mongodb::event::sdam::SdamEvent as TheirEvent;
use mongodb::options::{ClientOptions as TheirOptions, SelectionCriteria};
use mongodb::{Client, ServerType};
use tokio::sync::watch;

const ROUNDS: usize = 300;
const MEMBERS: usize = 3;
/// The pause between the start of the wait and the election.
const PAUSE: Duration = Duration::from_millis(2);
/// The limit for waits: only a lost operation takes this long.
const LIMIT: Duration = Duration::from_secs(30);

/// The primary in a client's last event, and the event's time.
type View = watch::Receiver<(Option<String>, Instant)>;

/// The times at which an operation found its server, and got its reply.
struct Done {
    selected: Instant,
    answered: Instant,
}

/// A client that watches a replica set.
trait Subject {
    const NAME: &'static str;
    async fn connect(set: &Deployment) -> Self;
    fn view(&self) -> View;
    /// An operation that needs a primary, which will be `primary`.
    fn operate(&self, primary: String) -> impl Future<Output = Done> + Send + 'static;
    async fn close(self);
}

struct Ours {
    topology: Topology,
    view: View,
    /// Open connections to each member, as in a warm pool.
    connections: HashMap<String, Arc<tokio::sync::Mutex<Connection>>>,
}

impl Subject for Ours {
    const NAME: &'static str = "mongo-core";

    async fn connect(set: &Deployment) -> Self {
        let (sender, view) = watch::channel((None, Instant::now()));
        let options = ClientOptions::parse(&set.uri()).expect("a URI");
        let topology = Topology::builder(options)
            .event_handler(move |event| {
                if let SdamEvent::TopologyDescriptionChanged(event) = event {
                    let primary = event.new_description.primary();
                    let primary = primary.map(|server| server.address.to_string());
                    sender.send_replace((primary, Instant::now()));
                }
            })
            .build()
            .expect("a topology");
        topology.connect().expect("connected");
        let mut connections = HashMap::new();
        for member in 0..MEMBERS {
            let uri = format!("mongodb://{}", set.address(member));
            let options = ClientOptions::parse(&uri).expect("a URI");
            let factory = ConnectionFactory::builder(options).build();
            let connection = factory
                .expect("a factory")
                .establish(Deadline::after(LIMIT))
                .await
                .expect("a connection");
            connections.insert(set.address(member), Arc::new(connection.into()));
        }
        Self {
            topology,
            view,
            connections,
        }
    }

    fn view(&self) -> View {
        self.view.clone()
    }

    fn operate(&self, primary: String) -> impl Future<Output = Done> + Send + 'static {
        let topology = self.topology.clone();
        let connection = self.connections[&primary].clone();
        async move {
            let server = topology.select_by(LIMIT, &Criterion::write(), &[]).await;
            let selected = Instant::now();
            assert_eq!(server.expect("a primary").address().to_string(), primary);
            let ping = doc! { "ping": 1 };
            let mut connection = connection.lock().await;
            let reply = connection.run_command_by(LIMIT, "admin", &ping).await;
            reply.expect("a reply");
            Done {
                selected,
                answered: Instant::now(),
            }
        }
    }

    async fn close(self) {
        self.topology.close().await;
    }
}

struct Official {
    client: Client,
    view: View,
}

impl Official {
    fn wait_for(&self, is_it: Predicate) -> impl Future<Output = ()> + Send + 'static {
        let database = self.client.database("admin");
        async move {
            let criteria = SelectionCriteria::Predicate(is_it);
            let ping = mongodb::bson::doc! { "ping": 1 };
            let operation = database.run_command(ping).selection_criteria(criteria);
            operation.await.expect("a reply");
        }
    }
}

type Predicate = Arc<dyn Send + Sync + Fn(&mongodb::ServerInfo<'_>) -> bool>;

impl Subject for Official {
    const NAME: &'static str = "mongodb 3.9.1";

    async fn connect(set: &Deployment) -> Self {
        let (sender, view) = watch::channel((None, Instant::now()));
        let mut options = TheirOptions::parse(set.uri()).await.expect("a URI");
        options.server_selection_timeout = Some(LIMIT);
        options.sdam_event_handler = Some(EventHandler::callback(move |event| {
            if let TheirEvent::TopologyDescriptionChanged(event) = event {
                let servers = event.new_description.servers();
                let mut servers = servers.into_iter();
                let primary =
                    servers.find(|(_, server)| server.server_type() == ServerType::RsPrimary);
                let primary = primary.map(|(address, _)| address.to_string());
                sender.send_replace((primary, Instant::now()));
            }
        }));
        let client = Client::with_options(options).expect("a client");
        let official = Self { client, view };
        for member in 0..MEMBERS {
            let address = set.address(member);
            let is_it: Predicate = Arc::new(move |server| server.address().to_string() == address);
            official.wait_for(is_it).await;
        }
        official
    }

    fn view(&self) -> View {
        self.view.clone()
    }

    fn operate(&self, primary: String) -> impl Future<Output = Done> + Send + 'static {
        let first = Arc::new(OnceLock::new());
        let found = first.clone();
        let operation = self.wait_for(Arc::new(move |server| {
            // Its events come before selections know the change, so the old primary may be
            // selected.
            let is_it = server.server_type() == ServerType::RsPrimary
                && server.address().to_string() == primary;
            if is_it {
                found.get_or_init(Instant::now);
            }
            is_it
        }));
        async move {
            operation.await;
            let answered = Instant::now();
            let selected = *first.get().expect("a selected server");
            Done { selected, answered }
        }
    }

    async fn close(self) {
        self.client.shutdown().await;
    }
}

/// The times since the election, in the order of the output.
type Sample = [Duration; 3];

struct Bench<S> {
    set: Deployment,
    subject: S,
    primary: usize,
    samples: Vec<Sample>,
}

impl<S: Subject> Bench<S> {
    async fn start() -> Self {
        let set = Deployment::replica_set("rs").members(MEMBERS).start().await;
        let subject = S::connect(&set).await;
        let first = set.address(0);
        wait(&mut subject.view(), |primary| primary == Some(&first)).await;
        Self {
            set,
            subject,
            primary: 0,
            samples: Vec::new(),
        }
    }

    async fn fail_over(&mut self) {
        let (down, up) = (self.primary, (self.primary + 1) % MEMBERS);
        let (was, is) = (self.set.address(down), self.set.address(up));
        let mut view = self.subject.view();
        self.set.step_down(down);
        wait(&mut view, |primary| primary != Some(&was)).await;
        let waiting = tokio::spawn(self.subject.operate(is.clone()));
        tokio::time::sleep(PAUSE).await;
        assert!(!waiting.is_finished(), "there was no primary");
        let elected = Instant::now();
        self.set.elect(up);
        let done = tokio::time::timeout(LIMIT, waiting).await;
        let done = done.expect("in time").expect("no panic");
        let told = wait(&mut view, |primary| primary == Some(&is)).await;
        self.primary = up;
        self.samples
            .push([told, done.selected, done.answered].map(|moment| moment - elected));
    }

    async fn finish(self) {
        for (place, what) in ["event", "selected", "answered"].into_iter().enumerate() {
            let mut times: Vec<Duration> = self.samples.iter().map(|all| all[place]).collect();
            times.sort();
            let [p50, p99, most] = [50, 99, 100].map(|percent| {
                let rank = (times.len() * percent).div_ceil(100);
                times[rank - 1].as_secs_f64() * 1e6
            });
            println!(
                "{:<16} {what:<10} {:>10} {p50:>10.0} {p99:>10.0} {most:>10.0}",
                S::NAME,
                times.len()
            );
        }
        self.subject.close().await;
        self.set.shutdown().await;
    }
}

/// The time at which the view became as wanted.
async fn wait(view: &mut View, is_wanted: impl Fn(Option<&String>) -> bool) -> Instant {
    let wanted = view.wait_for(|(primary, _)| is_wanted(primary.as_ref()));
    let seen = tokio::time::timeout(LIMIT, wanted).await;
    seen.expect("an event in time").expect("a client").1
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let asked = std::env::args().find_map(|argument| argument.parse().ok());
    let rounds: usize = asked.unwrap_or(ROUNDS).max(1);
    let mut ours = Bench::<Ours>::start().await;
    let mut official = Bench::<Official>::start().await;
    for _ in 0..rounds {
        ours.fail_over().await;
        official.fail_over().await;
    }
    println!(
        "{:<16} {:<10} {:>10} {:>10} {:>10} {:>10}",
        "microseconds", "until", "elections", "p50", "p99", "most"
    );
    ours.finish().await;
    official.finish().await;
}
