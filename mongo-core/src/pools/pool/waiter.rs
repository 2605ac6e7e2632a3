//! A waiter, and the outcome that it is served with.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::PoolInner;
use super::wait_queue::PoolState;
use crate::error::Error;
use crate::net::Connection;
use crate::sync::lock;

/// The pool's side of a waiter.
pub(crate) struct Waiter {
    pub(super) served: oneshot::Sender<Served>,
    /// The runtime of its attempt, unless the application named one.
    pub(super) runtime: Handle,
}

/// The outcome that a waiter is served with.
#[derive(Clone)]
pub(crate) enum Served {
    Connection(Arc<Offered>),
    Failed(Error),
    /// The runtime of its attempt has shut down.
    RuntimeEnded,
}

impl Served {
    pub(crate) fn into_error(self, shared: &PoolInner) -> Error {
        match self {
            Self::Connection(_) => shared.not_ready(),
            Self::Failed(error) => error,
            Self::RuntimeEnded => shared.shut_down(),
        }
    }
}

impl Waiter {
    /// Serves the waiter. If it has left, the connection is dropped here and goes to the next
    /// waiter.
    pub(crate) fn serve(self, served: Served) {
        drop(self.served.send(served));
    }
}

/// A connection sent to a waiter. The waiter may not be polled for a long time, so the pool can
/// take the connection back. Dropping this offers it to the next waiter.
pub(crate) struct Offered {
    connection: Mutex<Option<Connection>>,
    shared: Arc<PoolInner>,
}

impl Offered {
    pub(super) fn new(shared: &Arc<PoolInner>, connection: Connection) -> Arc<Self> {
        let offered = Arc::new(Self {
            connection: Mutex::new(Some(connection)),
            shared: shared.clone(),
        });
        let mut all = shared.offered();
        all.retain(|own| own.strong_count() > 0);
        all.push(Arc::downgrade(&offered));
        offered
    }

    pub(super) fn take(&self) -> Option<Connection> {
        self.lock().take()
    }

    /// Closes the connection if its waiter has not taken it and it must not be handed out.
    pub(crate) fn take_back(&self) {
        let is_over = self.shared.state() == PoolState::Closed;
        // Dropped without the lock.
        let _gone = self
            .lock()
            .take_if(|connection| is_over || connection.is_stale());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        lock(&self.connection)
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        if let Some(connection) = self.take() {
            self.shared.offer(connection);
        }
    }
}
