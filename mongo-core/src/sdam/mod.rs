//! Server discovery and monitoring: what is known of a deployment, and how it changes.
//!
//! Everything here is pure: no I/O, no clock, no task.
//!
//! Specification: server discovery and monitoring.

mod error;
mod round_trip_time;
mod server_description;
mod server_type;
mod topology_description;

pub use crate::handshake::TopologyVersion;
pub use error::{CompatibilityError, ElectionTuple, SdamError};
pub use round_trip_time::RoundTripTime;
pub use server_description::ServerDescription;
pub use server_type::{ServerType, TopologyType};
pub use topology_description::TopologyDescription;
