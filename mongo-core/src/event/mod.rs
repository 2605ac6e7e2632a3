//! What happened, for those who want to watch.

mod cmap;
mod command;
mod handlers;
mod sdam;

pub use cmap::{
    CheckOutFailedReason, CmapEvent, ConnectionCheckOutFailedEvent, ConnectionCheckOutStartedEvent,
    ConnectionCheckedInEvent, ConnectionCheckedOutEvent, ConnectionClosedEvent,
    ConnectionClosedReason, ConnectionCreatedEvent, ConnectionReadyEvent, PoolClearedEvent,
    PoolClosedEvent, PoolCreatedEvent, PoolCreatedOptions, PoolReadyEvent,
};
pub use command::{CommandEvent, CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent};
pub use handlers::{EventHandler, EventHandlers};
pub use sdam::{
    SdamEvent, ServerClosedEvent, ServerDescriptionChangedEvent, ServerHeartbeatFailedEvent,
    ServerHeartbeatStartedEvent, ServerHeartbeatSucceededEvent, ServerOpeningEvent,
    TopologyClosedEvent, TopologyDescriptionChangedEvent, TopologyOpeningEvent,
};
