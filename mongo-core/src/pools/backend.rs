//! The interface to a generic pool.

use std::future::Future;
use std::ops::DerefMut;

use super::ConnectionFactory;
use crate::error::Result;
use crate::net::{Connection, Deadline};

/// A generic pool of connections under a [`ServerPool`](super::ServerPool): it limits the size,
/// queues callers and keeps idle connections.
///
/// The connections come from a [`ConnectionFactory`], which also checks whether one may be handed
/// out again ([`recycle`](ConnectionFactory::recycle)). `ServerPool` implements the rest of the
/// specification, the same over every backend.
pub trait Backend: Sized + Send + Sync + 'static {
    /// The generic pool's own settings, other than its size.
    type Config: Clone + Send + Sync + 'static;

    /// A connection in use. When dropped, it goes back to the pool if
    /// [`check_in`](Connection::check_in) returns true; otherwise it is closed. Its slot is free at
    /// once.
    type Guard: DerefMut<Target = Connection> + Send + Sync + 'static;

    /// The largest number of connections by these settings; `None` leaves it to `maxPoolSize`.
    fn max_size(config: &Self::Config) -> Option<u32>;

    /// Builds a pool of at most `max_size` connections.
    ///
    /// # Errors
    /// The settings can't be used.
    fn build(factory: ConnectionFactory, max_size: u32, config: &Self::Config) -> Result<Self>;

    /// Takes an idle connection that passes its check without I/O. Does not overtake waiting
    /// callers. May be called outside of a Tokio runtime.
    fn try_get(&self) -> Option<Self::Guard>;

    /// Waits for a connection until a deadline: an idle one that passes its check, or a new one.
    /// Callers are served first in, first out.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// See [`ConnectionFactory::establish`]; or a time-out.
    fn get(&self, deadline: Deadline) -> impl Future<Output = Result<Self::Guard>> + Send;

    /// Closes the idle connections that the factory does not
    /// [retain](ConnectionFactory::should_retain), without holding a lock of the pool. May be
    /// called from anywhere.
    fn reap(&self);

    /// Closes the pool: waiting callers get an error, idle connections are closed, and those in use
    /// when they are returned. May be called from anywhere.
    fn close(&self);
}
