//! The pool of one server and one credential, without the generic pool that keeps its idle connections.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::RecyclingMethod;
use super::server_cap::CapShare;
use crate::error::Error;
use crate::net::{Connection, ConnectionState, Establisher, Tasks, TopologyShared};
use crate::operation::ClientContext;

mod attempt;
mod connect;
mod connections;
mod counters;
mod hooks;
mod params;
mod recycle;
mod shared_queue;
mod state;
mod unserved;
mod wait_queue;

#[cfg(test)]
mod interleavings;

/// What the shared queue is built on.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(super) use std::sync::{Mutex, MutexGuard};

    pub(super) use crate::sync::lock;
}

use connections::ConnectionSet;
pub(super) use counters::Counters;
pub use counters::{ClosedConnections, PinReason, WAIT_TIME_BOUNDS, WaitTimes};
pub(super) use params::{FactoryConfig, PoolParams};
pub use recycle::CheckBudget;
use shared_queue::SharedQueue;
pub(super) use wait_queue::Limits;
pub use wait_queue::PoolState;
use wait_queue::WaitQueue;

/// The state of a pool that its handles and its connections share.
pub(super) struct PoolInner {
    pub(super) establisher: Establisher,
    recycling_method: RecyclingMethod,
    max_idle_time: Option<Duration>,
    max_lifetime: Option<Duration>,
    next_id: AtomicU64,
    last_failure: Mutex<Option<Failure>>,
    /// The error that last cleared the pool or one of its services.
    cleared_for: Mutex<Option<Error>>,
    pub(super) queue: SharedQueue<PoolInner>,
    /// Takes an idle connection out of the generic pool, if it has one.
    pub(super) idle_source: OnceLock<IdleSource>,
    /// The runtime of attempts and sockets, if the application named one.
    runtime: Option<Handle>,
    /// The tasks of attempts.
    tasks: Arc<Tasks>,
    cap: Option<CapShare>,
    takes_writes: Arc<AtomicBool>,
    topology: Option<Arc<TopologyShared>>,
    /// The options and the sessions of operations.
    client: Arc<ClientContext>,
    /// Whether errors clear the pool even without a topology.
    clears_itself: bool,
    links: ConnectionSet,
    pub(super) counters: Counters,
    /// Whether `PoolCreated` was emitted.
    is_announced: AtomicBool,
    /// Whether the state is final: a new pool's state is not before `is_announced`.
    is_settled: AtomicBool,
    /// Notified when waiters have to check the pool's state again.
    recheck: Notify,
    /// Closes idle connections of the generic pool that must not be kept, if there is one.
    reaper: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Called when there may be too few connections.
    wake: Option<Wake>,
    this: Weak<PoolInner>,
}

pub(super) type IdleSource = Box<dyn Fn() -> Option<Connection> + Send + Sync>;

type Queue = WaitQueue<Connection, Arc<ConnectionState>>;

/// Wakes the task that keeps up the smallest size of pools.
pub(super) type Wake = Arc<dyn Fn() + Send + Sync>;

pub(super) struct Failure {
    pub(super) at: Instant,
    pub(super) error: Error,
}

impl Failure {
    /// The failure, if it is not older than `after`.
    pub(super) fn since(failure: &Option<Self>, after: Duration) -> Option<Error> {
        let recent = failure
            .as_ref()
            .filter(|failure| failure.at.elapsed() <= after);
        recent.map(|failure| failure.error.clone())
    }
}
