//! How full pools are, and what they did so far.

use std::sync::Arc;

use super::pool::{ClosedConnections, PoolState, WaitTimes};
use crate::ServerAddress;

/// How full the pool of one server and one credential is, and what it did so far.
///
/// The numbers are read one after the other: while the pool is used they may not add up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The server.
    pub server: ServerAddress,
    /// The credential's user.
    pub user: Option<Arc<str>>,
    /// What the pool does at the moment.
    pub state: PoolState,
    /// The generation that new connections belong to.
    pub generation: u64,
    /// The largest number of connections (`maxPoolSize`); 0 is no limit.
    pub max_size: u32,
    /// The number of connections that is kept (`minPoolSize`).
    pub min_size: u32,
    /// The connections there are: idle, in use, and those that are being made.
    pub size: usize,
    /// Those that are idle.
    pub idle: usize,
    /// Those that are in use, or checked for somebody who asked for one.
    pub in_use: usize,
    /// Those that are being made.
    pub pending: usize,
    /// The callers that wait for a connection, given back or made.
    pub waiting: usize,
    /// The connections that were begun to be made so far.
    pub created: u64,
    /// The connections that were closed so far, by reason.
    pub closed: ClosedConnections,
    /// How long check-outs took so far.
    pub wait_times: WaitTimes,
}
