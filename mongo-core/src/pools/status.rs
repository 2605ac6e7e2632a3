//! The status of pools: their size and their counters.

use std::sync::Arc;

use super::pool::{ClosedConnections, PoolState, WaitTimes};
use crate::ServerAddress;

/// The status of the pool of one server and one credential: its size and its counters.
///
/// The numbers are read one after the other, so they may not add up while the pool is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The server.
    pub server: ServerAddress,
    /// The credential's user.
    pub user: Option<Arc<str>>,
    /// The state of the pool.
    pub state: PoolState,
    /// The generation that new connections belong to.
    pub generation: u64,
    /// The largest number of connections (`maxPoolSize`); 0 is no limit.
    pub max_size: u32,
    /// The smallest number of connections (`minPoolSize`).
    pub min_size: u32,
    /// All connections: idle, in use and pending.
    pub size: usize,
    /// Idle connections.
    pub idle: usize,
    /// Connections in use, including those that are being checked for a caller.
    pub in_use: usize,
    /// Pending connections: those that are being made.
    pub pending: usize,
    /// The callers that wait for a returned or a new connection.
    pub waiting: usize,
    /// The connections created so far, counted when they begin to be made.
    pub created: u64,
    /// The connections closed so far, by reason.
    pub closed: ClosedConnections,
    /// How long check-outs took so far.
    pub wait_times: WaitTimes,
}
