//! What a generic pool has to be able to do.

use std::future::Future;
use std::ops::DerefMut;

use super::ConnectionFactory;
use crate::error::Result;
use crate::net::{Connection, Deadline};

/// A generic pool of connections, as a [`ServerPool`](super::ServerPool) needs it: it does the
/// sizing, the waiting and the keeping of idle connections.
///
/// The connections come from a [`ConnectionFactory`], which also says whether one may be handed out
/// again ([`recycle`](ConnectionFactory::recycle)). What is specified about pools of MongoDB
/// connections beyond that is `ServerPool`'s, the same over every backend.
pub trait Backend: Sized + Send + Sync + 'static {
    /// The generic pool's own settings, other than its size.
    type Config: Clone + Send + Sync + 'static;

    /// A connection in use. Dropped, it goes back to the pool if
    /// [`check_in`](Connection::check_in) says that it may, and else it is closed; its slot is free
    /// at once.
    type Guard: DerefMut<Target = Connection> + Send + Sync + 'static;

    /// The settings' own say about the largest number of connections; `None` leaves it to
    /// `maxPoolSize`.
    fn max_size(config: &Self::Config) -> Option<u32>;

    /// A pool of at most `max_size` connections.
    ///
    /// # Errors
    /// The settings can't be used.
    fn build(factory: ConnectionFactory, max_size: u32, config: &Self::Config) -> Result<Self>;

    /// A connection that is there and can be told to be sound without I/O. Does not overtake those
    /// who wait. Called within tokio's runtime.
    fn try_get(&self) -> Option<Self::Guard>;

    /// A connection, by a deadline: an idle one that passes its check, or a new one. Who asks first
    /// is served first.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`ConnectionFactory::establish`]; or a time-out.
    fn get(&self, deadline: Deadline) -> impl Future<Output = Result<Self::Guard>> + Send;

    /// Closes the idle connections that the factory does not [keep](ConnectionFactory::should_retain),
    /// without a lock of the pool's. To be called from anywhere.
    fn reap(&self);

    /// How full the pool is.
    fn status(&self) -> BackendStatus;

    /// Closes the pool: who waits is told, what is idle is closed, what is in use when it comes
    /// back. To be called from anywhere.
    fn close(&self);
}

/// How full a generic pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendStatus {
    /// The connections that it holds, in use or idle.
    pub size: usize,
    /// The idle ones.
    pub idle: usize,
    /// The callers that wait for a connection.
    pub waiting: usize,
}
