//! Server discovery and monitoring: what is known of a deployment, and how it changes.
//!
//! Everything here is pure: no I/O, no clock, no task. [`apply`] takes the current
//! [`TopologyDescription`] and an [`Input`]. It returns the next description, the events, and the
//! [`Effect`]s, which the owner of the monitors and pools carries out. [`Heartbeat`] is one
//! server's monitor, and [`RttProbe`] measures its round trip times while hellos are awaited.
//!
//! Specification: server discovery and monitoring.

mod application_error;
mod change;
mod check;
mod effect;
mod error;
pub(crate) mod event;
mod heartbeat;
mod hello;
mod pacing;
mod probe;
mod round_trip_time;
mod scan;
mod server_description;
mod server_type;
mod settings;
mod srv_polling;
mod topology_description;
mod transition;
mod update;

#[cfg(test)]
mod tests;

pub use crate::handshake::TopologyVersion;
pub use application_error::{ApplicationError, ErrorPhase};
#[cfg(feature = "net")]
pub(crate) use check::lacks_hello;
pub use check::{Check, MIN_HEARTBEAT_FREQUENCY, MonitorSettings};
pub use effect::{CheckReason, Effect, Transition};
pub use error::{CompatibilityError, ElectionTuple, SdamError};
pub use heartbeat::{Heartbeat, Output};
#[cfg(feature = "net")]
pub(crate) use hello::is_long_hello;
pub use probe::{ProbeOutput, RttProbe};
pub use round_trip_time::RoundTripTime;
pub use scan::{COOL_DOWN, SCAN_FREQUENCY, Scan, Selection, Turn};
pub use server_description::ServerDescription;
pub use server_type::{ServerType, TopologyType};
pub use settings::TopologySettings;
pub use srv_polling::SrvPolling;
pub use topology_description::TopologyDescription;
pub use transition::{Input, apply};

pub use crate::error::{RETRYABLE_ERROR, SYSTEM_OVERLOADED_ERROR};
