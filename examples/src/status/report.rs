//! The numbers that the page shows.

use std::time::Duration;

use mongo_core::pools::{PoolState, PoolStatus, WAIT_TIME_BOUNDS};
use mongo_core::sdam::{ServerDescription, ServerType};
use mongo_core::select::Criterion;
use serde::Serialize;

use super::RecentEvent;
use super::events::{RecentEvents, bounded, now, shown_of_server};
use crate::backend::Pools;

/// The most servers in a report.
pub(super) const MAX_SERVERS: usize = 100;
/// The most pools in a report.
pub(super) const MAX_POOLS: usize = 200;

/// All that the page shows. Times are in milliseconds, moments since the Unix epoch.
#[derive(Serialize)]
pub(super) struct Report {
    time: u64,
    topology: Topology,
    pools: Vec<Pool>,
    /// Pools that are left out: those without callers that wait, and with the fewest connections
    /// in use.
    pools_omitted: usize,
    /// The sums over all pools, those that are left out included.
    totals: Numbers,
    /// The bounds of the buckets of `wait_times`.
    wait_time_bounds: [f64; WAIT_TIME_BOUNDS.len()],
    events: Vec<RecentEvent>,
}

#[derive(Serialize)]
struct Topology {
    #[serde(rename = "type")]
    kind: &'static str,
    set_name: Option<String>,
    /// Whether a server can be selected for writes.
    is_writable: bool,
    /// Why no operation can run.
    error: Option<String>,
    /// Callers that wait for a suitable server. They have no pool yet.
    waiting: usize,
    servers: Vec<Server>,
    /// Servers that are left out: unknown ones are not.
    servers_omitted: usize,
}

#[derive(Serialize)]
struct Server {
    address: String,
    #[serde(rename = "type")]
    kind: &'static str,
    round_trip_time: Option<f64>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Pool {
    server: String,
    user: Option<String>,
    state: &'static str,
    max_size: u32,
    #[serde(flatten)]
    numbers: Numbers,
}

#[derive(Default, Serialize)]
struct Numbers {
    size: usize,
    idle: usize,
    in_use: usize,
    pending: usize,
    waiting: usize,
    created: u64,
    closed_stale: u64,
    closed_idle: u64,
    closed_error: u64,
    closed_pool: u64,
    /// Check-outs that found a connection at once, then those of each bucket.
    wait_times: [u64; WAIT_TIME_BOUNDS.len() + 2],
}

impl Report {
    /// The current state. Does not wait.
    pub(super) fn new(pools: &Pools, events: &RecentEvents) -> Self {
        let mut status = pools.status();
        let mut totals = Numbers::default();
        for pool in &status {
            totals.add(&Numbers::new(pool));
        }
        let pools_omitted = status.len().saturating_sub(MAX_POOLS);
        if pools_omitted > 0 {
            status.sort_by_key(|pool| {
                let is_calm = pool.state == PoolState::Ready;
                std::cmp::Reverse((pool.waiting, !is_calm, pool.in_use))
            });
            status.truncate(MAX_POOLS);
        }
        status.sort_by(|a, b| (&a.server, &a.user).cmp(&(&b.server, &b.user)));
        Self {
            time: now(),
            topology: Topology::new(pools),
            pools: status.iter().map(Pool::new).collect(),
            pools_omitted,
            totals,
            wait_time_bounds: WAIT_TIME_BOUNDS.map(millis),
            events: events.newest_first(),
        }
    }
}

impl Topology {
    fn new(pools: &Pools) -> Self {
        let snapshot = pools.topology().snapshot();
        let known = snapshot.topology();
        let mut servers: Vec<_> = known.servers().iter().collect();
        if servers.len() > MAX_SERVERS {
            servers.sort_by_key(|server| server.server_type != ServerType::Unknown);
        }
        let writable = snapshot.suitable(&Criterion::write(), &[]);
        Self {
            kind: known.topology_type().as_str(),
            set_name: known.set_name().map(bounded),
            is_writable: writable.is_ok_and(|servers| !servers.is_empty()),
            error: known.compatibility_error().map(bounded),
            waiting: pools.topology().waiting_selections(),
            servers: servers
                .iter()
                .take(MAX_SERVERS)
                .map(|server| Server::new(server))
                .collect(),
            servers_omitted: known.servers().len().saturating_sub(MAX_SERVERS),
        }
    }
}

impl Server {
    fn new(server: &ServerDescription) -> Self {
        Self {
            address: bounded(&server.address),
            kind: server.server_type.as_str(),
            round_trip_time: server.round_trip_time.map(millis),
            error: server.error.as_ref().map(shown_of_server).map(bounded),
        }
    }
}

impl Pool {
    fn new(pool: &PoolStatus) -> Self {
        Self {
            server: bounded(&pool.server),
            user: pool.user.as_ref().map(bounded),
            state: match pool.state {
                PoolState::Ready => "ready",
                PoolState::Closed => "closed",
                _ => "paused",
            },
            max_size: pool.max_size,
            numbers: Numbers::new(pool),
        }
    }
}

impl Numbers {
    fn new(pool: &PoolStatus) -> Self {
        let mut wait_times = [pool.wait_times.at_once; WAIT_TIME_BOUNDS.len() + 2];
        wait_times[1..].copy_from_slice(&pool.wait_times.buckets);
        Self {
            size: pool.size,
            idle: pool.idle,
            in_use: pool.in_use,
            pending: pool.pending,
            waiting: pool.waiting,
            created: pool.created,
            closed_stale: pool.closed.stale,
            closed_idle: pool.closed.idle,
            closed_error: pool.closed.error,
            closed_pool: pool.closed.pool_closed,
            wait_times,
        }
    }

    fn add(&mut self, other: &Self) {
        self.size += other.size;
        self.idle += other.idle;
        self.in_use += other.in_use;
        self.pending += other.pending;
        self.waiting += other.waiting;
        self.created += other.created;
        self.closed_stale += other.closed_stale;
        self.closed_idle += other.closed_idle;
        self.closed_error += other.closed_error;
        self.closed_pool += other.closed_pool;
        for (sum, count) in self.wait_times.iter_mut().zip(other.wait_times) {
            *sum += count;
        }
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 1e2
}
