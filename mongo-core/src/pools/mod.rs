//! What a pool needs of MongoDB: a factory of connections, and the configuration of managers.
//!
//! The generic pool does the sizing, the waiting and the reaping. This module makes the
//! connections, says whether one may be handed out, and names what went wrong.

mod config;
pub mod duration;
mod factory;
mod source;

pub use config::{
    DEFAULT_COMMAND_TIMEOUT, DEFAULT_DRAIN_TIMEOUT, DEFAULT_MAX_SIZE, DEFAULT_WAIT_TIMEOUT,
    ManagerConfig, RecyclingMethod, UNLIMITED_SIZE,
};
pub use factory::{
    ClosedConnections, ConnectionFactory, ConnectionFactoryBuilder, PinReason, PoolState,
    WAIT_TIME_BOUNDS, WaitTimes,
};
pub use source::{RedactedUrl, client_options};
