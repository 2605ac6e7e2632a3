use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mongo_core::handshake::DriverInfo;
use mongo_core::pools::{
    CheckBudget, ConnectionFactory, DEFAULT_WAIT_TIMEOUT, ManagerConfig, catch_panics,
};
use mongo_core::uri::ClientOptions;
use mongo_core::{Connection, Deadline, Error, ErrorKind};

tokio::task_local! {
    /// The check-out for which a [`Pool`](crate::Pool) connects: bb8 can't pass it to the manager.
    static CONNECT: Connect;
}

/// One connect on the caller's task.
struct Connect {
    deadline: Deadline,
    budget: Cell<CheckBudget>,
    /// A returned connection, which has already been customized.
    returned: Cell<Option<Connection>>,
}

/// bb8's [`ManageConnection`](bb8::ManageConnection) for the connections to one server.
///
/// It serves the first host of the URI, as with `directConnection=true`. Clones share their state:
/// give each pool its own manager.
#[derive(Clone, Debug)]
pub struct MongoConnectionManager {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    factory: ConnectionFactory,
    create_timeout: Duration,
    recycle_timeout: Option<Duration>,
    /// Whether a [`Pool`](crate::Pool) connects and checks on its callers' tasks; bb8 then does
    /// neither itself.
    has_front: AtomicBool,
}

impl MongoConnectionManager {
    /// A manager for a connection string, with the default configuration.
    ///
    /// # Errors
    /// The connection string can't be used, or needs a feature that is not supported.
    pub fn new(url: &str) -> Result<Self, Error> {
        Self::from_config(ClientOptions::parse(url)?, ManagerConfig::default())
    }

    /// A manager for client options.
    ///
    /// # Errors
    /// The options need a feature that is not supported.
    pub fn from_config(options: ClientOptions, config: ManagerConfig) -> Result<Self, Error> {
        Self::with_timeouts(options, config, None, None)
    }

    /// The factory that makes and checks the connections.
    pub fn factory(&self) -> &ConnectionFactory {
        &self.shared.factory
    }

    /// With the bounds of [`Timeouts`](crate::Timeouts).
    pub(crate) fn with_timeouts(
        options: ClientOptions,
        config: ManagerConfig,
        create: Option<Duration>,
        recycle: Option<Duration>,
    ) -> Result<Self, Error> {
        let factory = ConnectionFactory::builder(options)
            .config(config)
            .driver_info(driver_info())
            .build()?;
        Ok(Self::bounded(factory, create, recycle))
    }

    pub(crate) fn bounded(
        factory: ConnectionFactory,
        create: Option<Duration>,
        recycle: Option<Duration>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                factory,
                create_timeout: create.unwrap_or(DEFAULT_WAIT_TIMEOUT),
                recycle_timeout: recycle,
                has_front: AtomicBool::new(false),
            }),
        }
    }

    /// From now on a [`Pool`](crate::Pool) connects and checks.
    pub(crate) fn set_front(&self) {
        self.shared.has_front.store(true, Ordering::Relaxed);
    }

    fn has_front(&self) -> bool {
        self.shared.has_front.load(Ordering::Relaxed)
    }

    /// Makes and customizes a connection through bb8, on the current task, or returns one that was
    /// given back.
    ///
    /// Safe to drop: the factory keeps what it makes.
    pub(crate) async fn connect_in(
        &self,
        pool: &bb8::Pool<Self>,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Result<Connection, Error> {
        let connect = Connect {
            deadline,
            budget: Cell::new(*budget),
            returned: Cell::new(None),
        };
        let connecting = async {
            let made = catch_panics("customizer", pool.dedicated_connection()).await;
            *budget = CONNECT.with(|connect| connect.budget.get());
            match CONNECT.with(|connect| connect.returned.take()) {
                Some(returned) => Ok(returned),
                None => made,
            }
        };
        CONNECT.scope(connect, connecting).await
    }

    /// Checks an idle connection, within `timeouts.recycle` and the budget of a check-out.
    pub(crate) async fn check(
        &self,
        connection: &mut Connection,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Result<(), Error> {
        let deadline = deadline.within(self.shared.recycle_timeout);
        // Boxed: rare, and would enlarge every check-out's future.
        Box::pin(self.shared.factory.recycle(connection, deadline, budget)).await
    }
}

/// This crate's entry in the handshake's metadata, which the server logs.
pub(crate) fn driver_info() -> DriverInfo {
    DriverInfo::new(env!("CARGO_PKG_NAME")).with_version(env!("CARGO_PKG_VERSION"))
}

/// For a manager with your own connector, executor or name: build the factory first.
impl From<ConnectionFactory> for MongoConnectionManager {
    fn from(factory: ConnectionFactory) -> Self {
        Self::bounded(factory, None, None)
    }
}

impl bb8::ManageConnection for MongoConnectionManager {
    type Connection = Connection;
    type Error = Error;

    async fn connect(&self) -> Result<Connection, Error> {
        let factory = &self.shared.factory;
        let front = CONNECT.try_with(|connect| connect.deadline);
        let deadline = match front {
            Ok(deadline) => deadline,
            // bb8 would connect in its own task, for a caller that connects itself.
            Err(_) if self.has_front() => {
                let text = "this pool connects only on the tasks of its callers";
                return Err(factory.name(ErrorKind::Pool(text.to_owned())));
            }
            Err(_) => Deadline::never(),
        };
        let deadline = deadline.within(Some(self.shared.create_timeout));
        let budget = CONNECT.try_with(|connect| connect.budget.get());
        let mut budget = budget.unwrap_or_default();
        let established = factory.establish_within(deadline, &mut budget).await;
        let _ = CONNECT.try_with(|connect| connect.budget.set(budget));
        let connection = established?;
        if connection.is_new() || front.is_err() {
            return Ok(connection);
        }
        // An error keeps bb8 from customizing it again.
        CONNECT.with(|connect| connect.returned.set(Some(connection)));
        Err(factory.name(ErrorKind::Cancelled))
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), Error> {
        match self.has_front() {
            true => Ok(()),
            false => match self.shared.factory.recycle_now(connection) {
                Some(checked) => checked,
                None => {
                    let mut budget = CheckBudget::default();
                    self.check(connection, Deadline::never(), &mut budget).await
                }
            },
        }
    }

    /// Called when a connection is returned, and before one is added.
    #[inline]
    fn has_broken(&self, connection: &mut Connection) -> bool {
        match self.has_front() {
            // The guard has checked it in. That it became stale since is for the next check: what bb8
            // closes by itself is counted as idle.
            true => connection.is_closed(),
            false => !connection.check_in(),
        }
    }
}
