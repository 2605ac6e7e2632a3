//! What happened, for those who want to watch.

mod sdam;

pub use sdam::{
    SdamEvent, ServerClosedEvent, ServerDescriptionChangedEvent, ServerHeartbeatFailedEvent,
    ServerHeartbeatStartedEvent, ServerHeartbeatSucceededEvent, ServerOpeningEvent,
    TopologyClosedEvent, TopologyDescriptionChangedEvent, TopologyOpeningEvent,
};
