//! The options of all selections from one topology.

use std::time::Duration;

use super::ServerSelector;
use crate::uri::ClientOptions;

/// The options of all selections from one topology.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SelectionOptions {
    /// The width of the latency window: how much slower than the fastest suitable server a server
    /// may be (`localThresholdMS`). Default 15 ms.
    pub local_threshold: Duration,
    /// The time between two checks of a server (`heartbeatFrequencyMS`). Default 10 s.
    pub heartbeat_frequency: Duration,
    /// The application's selector (`serverSelector`). Every selection calls it, before the
    /// criterion's own. None by default.
    pub selector: Option<ServerSelector>,
}

impl Default for SelectionOptions {
    fn default() -> Self {
        Self {
            local_threshold: Duration::from_millis(15),
            heartbeat_frequency: Duration::from_secs(10),
            selector: None,
        }
    }
}

/// Without a selector: connection strings have none.
impl From<&ClientOptions> for SelectionOptions {
    fn from(options: &ClientOptions) -> Self {
        Self {
            local_threshold: options.local_threshold,
            heartbeat_frequency: options.heartbeat_frequency,
            selector: None,
        }
    }
}
