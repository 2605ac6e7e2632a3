//! Deployments of several scripted servers: replica sets, shards behind mongos, a load balancer.
//!
//! [`ReplicaSetState`] is a pure state machine of the members' roles. Each member is a
//! [`ScriptedServer`] that takes its role from it, and has its own script and fail point.

mod balancer;
mod builder;
mod config;
mod control;
mod hello;
mod process;
mod seat;
mod state;
#[cfg(test)]
mod tests;
mod world;

pub use builder::{DeploymentBuilder, MemberSpec};
pub use config::{ConfigEntry, MemberKind, SetConfig};
pub use control::Deployment;
pub(crate) use process::MAX_WIRE_VERSION;
pub use process::Process;
pub(crate) use seat::{KnownVersion, Seat, is_write};
pub use state::{ReplicaSetState, Standing};

#[cfg(doc)]
use crate::ScriptedServer;
