use std::cell::Cell;

use mongo_core::pools::{CheckBudget, ConnectionFactory, DEFAULT_WAIT_TIMEOUT, catch_panics};
use mongo_core::{Connection, Deadline, Error};

tokio::task_local! {
    /// A new connection that bb8 customizes on the task of its caller: bb8 has no other way to run
    /// its customizer.
    static MADE: Cell<Option<Connection>>;
}

/// bb8's [`ManageConnection`](bb8::ManageConnection) for the connections to one server.
///
/// It serves the first host of the URI, as with `directConnection=true`. Clones share their state:
/// give each pool its own manager.
#[derive(Clone, Debug)]
pub struct MongoConnectionManager {
    factory: ConnectionFactory,
    /// Whether a [`Pool`](crate::Pool) makes and checks the connections, on its callers' tasks.
    pub(crate) has_front: bool,
}

mongo_core::adapter_manager!(MongoConnectionManager);

impl MongoConnectionManager {
    /// Runs bb8's customizer for a new connection, on the current task.
    pub(crate) async fn customize(
        bb8: &bb8::Pool<Self>,
        made: Connection,
    ) -> Result<Connection, Error> {
        let customizing = MADE.scope(Cell::new(Some(made)), bb8.dedicated_connection());
        catch_panics("customizer", customizing).await
    }
}

/// For a manager with your own connector, executor or name: build the factory first.
impl From<ConnectionFactory> for MongoConnectionManager {
    fn from(factory: ConnectionFactory) -> Self {
        Self {
            factory,
            has_front: false,
        }
    }
}

impl bb8::ManageConnection for MongoConnectionManager {
    type Connection = Connection;
    type Error = Error;

    async fn connect(&self) -> Result<Connection, Error> {
        if let Ok(Some(made)) = MADE.try_with(Cell::take) {
            return Ok(made);
        }
        let deadline = Deadline::after(DEFAULT_WAIT_TIMEOUT);
        self.factory.establish(deadline).await
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), Error> {
        let (deadline, mut budget) = (Deadline::never(), CheckBudget::default());
        // Boxed: it would enlarge the future of each check-out, also of those that do not call it.
        Box::pin(self.factory.recycle(connection, deadline, &mut budget)).await
    }

    /// Called when a connection is returned, and before one is added.
    #[inline]
    fn has_broken(&self, connection: &mut Connection) -> bool {
        match self.has_front {
            // The guard has checked it in. That it became stale since is for the next check: what bb8
            // closes by itself is counted as idle.
            true => connection.is_closed(),
            false => !connection.check_in(),
        }
    }
}
