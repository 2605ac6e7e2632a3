//! The messages to `tracing`.
//!
//! Specification: logging.

mod cmap;
mod command;
mod json;
mod span;

use std::fmt;
use std::time::Duration;

use crate::ServerAddress;
use crate::text::write_printable;

pub(crate) use cmap::{cmap_event, wants_cmap_events};
pub(crate) use command::{command_event, wants_command_events, wants_commands};
pub(crate) use json::Json;
pub use json::set_max_logged_length;
pub(crate) use span::{
    CheckOutSpan, CommandBody, command_span, operation_span, record_failure, transaction_span,
    wants_spans,
};

/// The host, or the path of a Unix domain socket.
pub(crate) struct Host<'a>(pub(crate) &'a ServerAddress);

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ServerAddress::Tcp { host, .. } => write_printable(f, format_args!("{host}")),
            ServerAddress::Unix { path } => write_printable(f, format_args!("{}", path.display())),
        }
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
