//! Events of topologies, pools, connections and commands.
//!
//! Events of a topology go to the topology's handlers, those of pools, connections and commands to
//! [`EventHandlers`]. All of them are also logged by `tracing` at level DEBUG, with the messages
//! and fields of the specifications, with or without handlers:
//!
//! | target | contents |
//! |---|---|
//! | `mongodb::topology`, `mongodb::server_selection` | topologies, their monitors and selections (a selection that waits is at level INFO) |
//! | `mongodb::connection` | connections and their pools; `user` distinguishes the pools of one server |
//! | `mongodb::command` | commands and replies, as extended JSON of at most 1,000 characters, or the length that [`set_max_logged_length`] or the environment variable `MONGODB_LOG_MAX_DOCUMENT_LENGTH` sets |
//! | `mongodb::span` | no messages; a span `mongodb.command` for each command, with OpenTelemetry's attributes and without the command's contents. With [`Pools`](crate::pools::Pools) it is within a span `mongodb.check_out`, from the check-out to the check-in of the connection |

mod cmap;
mod command;
mod handlers;
#[cfg(feature = "net")]
pub(crate) mod logs;
#[cfg(feature = "metrics")]
mod metrics;

pub use crate::sdam::event::{
    SdamEvent, ServerClosedEvent, ServerDescriptionChangedEvent, ServerHeartbeatFailedEvent,
    ServerHeartbeatStartedEvent, ServerHeartbeatSucceededEvent, ServerOpeningEvent,
    TopologyClosedEvent, TopologyDescriptionChangedEvent, TopologyOpeningEvent,
};
pub use cmap::{
    CheckOutFailedReason, CmapEvent, ConnectionCheckOutFailedEvent, ConnectionCheckOutStartedEvent,
    ConnectionCheckedInEvent, ConnectionCheckedOutEvent, ConnectionClosedEvent,
    ConnectionClosedReason, ConnectionCreatedEvent, ConnectionReadyEvent, PoolClearedEvent,
    PoolClosedEvent, PoolCreatedEvent, PoolCreatedOptions, PoolReadyEvent,
};
pub use command::{CommandEvent, CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent};
pub use handlers::{EventHandler, EventHandlers};
#[cfg(feature = "net")]
pub use logs::set_max_logged_length;
#[cfg(feature = "metrics")]
pub use metrics::MetricsRecorder;
