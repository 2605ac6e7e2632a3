//! Pools of connections, over a generic pool of the user's choice, and what such a pool needs.
//!
//! The generic pool does the sizing, the waiting and the keeping. A [`ConnectionFactory`] makes the
//! connections, says whether one may be handed out, and names what went wrong; a [`ServerPool`] is
//! the specification's pool of one server and one credential, over a [`Backend`]; [`Pools`] keeps
//! those of a whole deployment.

mod backend;
mod config;
pub mod duration;
mod factory;
mod follow;
mod guard;
mod options;
mod pool;
mod registry;
mod server_cap;
mod server_pool;
mod source;
mod status;

pub use crate::callback::catch_panics;
pub use backend::{Backend, BackendStatus};

pub use config::{
    DEFAULT_COMMAND_TIMEOUT, DEFAULT_DRAIN_TIMEOUT, DEFAULT_MAX_SIZE, DEFAULT_WAIT_TIMEOUT,
    LARGEST_SIZE, ManagerConfig, RecyclingMethod, UNLIMITED_SIZE,
};
pub use factory::{ConnectionFactory, ConnectionFactoryBuilder};
pub use guard::PooledConnection;
pub use options::{
    DEFAULT_CLOSE_TIMEOUT, DEFAULT_MAINTENANCE_INTERVAL, DEFAULT_UNUSED_TIMEOUT, PoolsConfig,
};
use pool::Limits;
pub use pool::{CheckBudget, ClosedConnections, PinReason, PoolState, WAIT_TIME_BOUNDS, WaitTimes};
pub use registry::{Pools, PoolsBuilder};
pub use server_pool::ServerPool;
pub use source::{RedactedUrl, client_options, max_size, wait_timeout};
pub use status::PoolStatus;
