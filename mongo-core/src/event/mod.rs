//! What happened, for those who want to watch.
//!
//! Events of a topology go to its own handlers, those of connections and commands to
//! [`EventHandlers`]. `tracing` is told of all of them at level DEBUG, in the messages and fields of
//! the specifications, whether or not there are handlers:
//!
//! | target | what |
//! |---|---|
//! | `mongodb::topology`, `mongodb::server_selection` | a topology, its monitors, its selections (which wait at level INFO) |
//! | `mongodb::connection` | connections and their pools; `user` tells the pools of one server apart |
//! | `mongodb::command` | commands and replies, as extended JSON of at most 1,000 characters, or what [`set_max_logged_length`] or the environment variable `MONGODB_LOG_MAX_DOCUMENT_LENGTH` says |
//! | `mongodb::span` | no messages: a span `mongodb.command` for each command, with OpenTelemetry's attributes and nothing that the command says; with [`Pools`](crate::pools::Pools) it is in a span `mongodb.check_out`, from the check-out to the connection's return |

mod cmap;
mod command;
mod handlers;
#[cfg(feature = "metrics")]
mod metrics;
mod sdam;

#[cfg(feature = "net")]
pub use crate::logs::set_max_logged_length;
pub use cmap::{
    CheckOutFailedReason, CmapEvent, ConnectionCheckOutFailedEvent, ConnectionCheckOutStartedEvent,
    ConnectionCheckedInEvent, ConnectionCheckedOutEvent, ConnectionClosedEvent,
    ConnectionClosedReason, ConnectionCreatedEvent, ConnectionReadyEvent, PoolClearedEvent,
    PoolClosedEvent, PoolCreatedEvent, PoolCreatedOptions, PoolReadyEvent,
};
pub use command::{CommandEvent, CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent};
pub use handlers::{EventHandler, EventHandlers};
#[cfg(feature = "metrics")]
pub use metrics::MetricsRecorder;
pub use sdam::{
    SdamEvent, ServerClosedEvent, ServerDescriptionChangedEvent, ServerHeartbeatFailedEvent,
    ServerHeartbeatStartedEvent, ServerHeartbeatSucceededEvent, ServerOpeningEvent,
    TopologyClosedEvent, TopologyDescriptionChangedEvent, TopologyOpeningEvent,
};
