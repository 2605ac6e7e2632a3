//! Connection pools over a generic pool of the user's choice, and the parts that such a pool needs.
//!
//! The generic pool limits the size, queues callers and keeps idle connections. A
//! [`ConnectionFactory`] makes the connections, checks them before they are handed out, and adds
//! the server and the user to errors. A [`ServerPool`] is the specification's pool of one server
//! and one credential, over a [`Backend`]. [`Pools`] holds the pools of a whole deployment.
//!
//! # The path of one `get()`
//! Paths are relative to this directory; `deadpool` and `bb8` are the `src` directories of the
//! adapters.
//!
//! 1. `Pools::get` (`registry/mod.rs`) calls `get_with` (`registry/check_out.rs`) for writes.
//! 2. `Pools::begin` (`registry/check_out.rs`) selects a server (`select_quietly`) and tries its
//!    pool: `ServerPool::try_get` (`server_pool/mod.rs`) calls `Backend::try_get`.
//!    - deadpool: `try_get` (`deadpool/backend.rs`) polls `timeout_get` once.
//!    - bb8: `get_now` (`bb8/pool.rs`) takes a slot and an idle connection.
//!    - Both call `PoolInner::recycle_now` (`pool/recycle.rs`), a check without I/O.
//! 3. Otherwise `Pools::find` (`registry/check_out.rs`) loops within one deadline: `choose` selects
//!    a server and finds its pool (`Registry::pool`, `registry/members.rs`).
//! 4. `ServerPool::get_while`, `wait` (`server_pool/mod.rs`) emit events and poll `Backend::get`.
//!    They stop once the pool is paused, cleared or closed, or its server is no longer suitable.
//!    - deadpool: `Pool::queue` (`deadpool/pool.rs`), then `Manager::recycle` for an idle
//!      connection or `Manager::create` (`deadpool/manager.rs`).
//!    - bb8: `get_by` (`bb8/pool.rs`), then `check` (`bb8/shared.rs`) for an idle connection or
//!      `connect` (`bb8/pool.rs`).
//! 5. `PoolInner::recycle` (`pool/recycle.rs`) checks an idle connection: drain, socket, ping.
//! 6. Otherwise `PoolInner::establish` (`pool/connect.rs`) enters the `SharedQueue`
//!    (`pool/shared_queue.rs`). Its `pump` serves the first waiter with an available connection, or
//!    begins an `Attempt`.
//! 7. `Attempt::run` (`pool/attempt.rs`) makes the connection with `Establisher::establish`, which
//!    ends with the application's `on_connect`. It adds the connection's `PoolHandle`, and offers it
//!    to the queue. A failure goes to the waiter, and to the topology unless it is the credential's
//!    or the application's.
//! 8. `PooledConnection::new` (`guard.rs`) wraps the backend's guard and counts it as in use.
//! 9. Its `Drop` calls `PoolInner::check_in` (`pool/hooks.rs`) and drops the backend's guard
//!    (`deadpool/connection.rs`; `put_back`, `bb8/shared.rs`). `Connection::check_in` says whether
//!    the connection may go back. If so, it goes to a waiter (`ConnectionFactory::offer`) or
//!    becomes idle; else it is closed (`PoolHooks::dropped`). `after_check_in` makes room for other
//!    pools.
//!
//! # The path of one `command()`
//! 1. `Command::into_future` (`operation/mod.rs`) makes a `Run` (`operation/run.rs`), whose
//!    `run_attempts` loops: `check_out` selects and checks out as above, with the servers to avoid.
//! 2. `attempt_on` takes a session (`ClientContext`, `crate::operation`), computes `maxTimeMS`, and
//!    calls `Connection::attempt` (`crate::net::operation`). That adds the fields
//!    (`Request::prepare`), runs the command, and tells the session.
//! 3. After an error, `Retry::failed` (`crate::operation`) decides: stop, or again after a pause.
//! 4. A `Cursor` keeps its server and session, and fetches by the same `Run`.
//! 5. What a dropped cursor or session leaves open on the server is a `Leftover`: it waits in a
//!    bounded queue (`registry/leftovers.rs`), whose tasks send it.
//!
//! # Glossary
//! - `Pools`: a handle for one credential on a registry of pools, over one topology.
//! - `Registry`: the state that all handles share: servers, tenants, topology, background tasks.
//! - `Tenant`: one credential and its pools, by server.
//! - `ServerPool`: the pool of one server and one credential.
//! - `Backend`: a generic pool (deadpool or bb8) under a `ServerPool`.
//! - `ConnectionFactory`: makes and checks connections for a generic pool.
//! - `PoolInner`: the state of a `ServerPool` that its handles and its connections share.
//! - `Establisher`: opens the transport, says hello and authenticates.
//! - `WaitQueue`: orders waiters, available connections and attempts; it does no I/O.
//! - `SharedQueue`: a `WaitQueue` behind its lock, with the connections that waiters are served with.
//! - `Waiter`: a caller in the wait queue, known by its ticket.
//! - `Attempt`: a task that makes one connection; it outlives its waiter.
//! - `PoolHandle`: a connection's reference to its pool, with its expiry and its span.
//! - `ConnectionState`: flags that a pool sets on its connection: perished, interrupted, detached.
//! - `PoolHooks`: the calls of a connection to its pool: failed, checked in, idle, dropped.
//! - `ConnectionSet`: all connections of a pool, pending ones included, to interrupt them.
//! - `ServerCap`: the limits of one server across the pools of all credentials.
//! - `CheckBudget`: the time that drains and pings may take in one check-out.
//! - `Deadline`: the one moment by which a check-out must end.
//! - `Generation`: the clear count at which a connection was made; a later clear makes it stale.

mod adapter;
mod backend;
mod builder;
mod config;
#[doc(hidden)]
pub mod duration;
mod factory;
mod follow;
mod guard;
mod operation;
mod options;
mod pool;
mod registry;
mod server_cap;
mod server_pool;
mod source;
mod status;

#[doc(hidden)]
pub use adapter::ConfigForm;
pub use adapter::{BackendConfig, QueueMode, Timeouts};
pub use backend::Backend;
pub use builder::PoolsBuilder;

pub use config::{
    DEFAULT_COMMAND_TIMEOUT, DEFAULT_DRAIN_TIMEOUT, DEFAULT_MAX_SIZE, DEFAULT_WAIT_TIMEOUT,
    LARGEST_SIZE, ManagerConfig, RecyclingMethod, UNLIMITED_SIZE,
};
pub use factory::{ConnectionFactory, ConnectionFactoryBuilder};
pub use guard::PooledConnection;
pub use operation::{Cursor, OnPools, Session, SuspendedCursor, TransactionFuture};
pub use options::{
    DEFAULT_CLOSE_TIMEOUT, DEFAULT_MAINTENANCE_INTERVAL, DEFAULT_UNUSED_TIMEOUT, PoolsConfig,
};
use pool::Limits;
pub use pool::{CheckBudget, ClosedConnections, PinReason, PoolState, WAIT_TIME_BOUNDS, WaitTimes};
pub use registry::Pools;
pub use server_pool::ServerPool;
pub use status::PoolStatus;

// What the configurations of the two adapters share.
#[doc(hidden)]
pub use crate::callback::catch_panics;
#[doc(hidden)]
pub use source::{
    RedactedUrl, check_url, checked_max_size, client_options, max_size, wait_timeout,
};
