//! The messages of commands. Specification: command logging and monitoring.

use tracing::level_filters::LevelFilter;
use tracing::{Level, debug, enabled};

use super::span::wants_spans;
use super::{Host, Json, milliseconds};
use crate::event::CommandEvent;

/// The specification's component `command`.
const COMMAND: &str = "mongodb::command";

/// Whether any subscriber is interested in commands. Without one, the cost is negligible.
#[inline]
pub(crate) fn wants_commands() -> bool {
    // One load if no subscriber is interested in that level.
    LevelFilter::current() >= LevelFilter::DEBUG && (wants_command_events() || wants_spans())
}

pub(crate) fn wants_command_events() -> bool {
    enabled!(target: COMMAND, Level::DEBUG)
}

/// Logs an event.
pub(crate) fn command_event(event: &CommandEvent) {
    match event {
        CommandEvent::Started(event) => debug!(
            target: COMMAND,
            commandName = &*event.command_name,
            databaseName = &*event.database_name,
            requestId = event.request_id,
            operationId = event.operation_id,
            driverConnectionId = event.driver_connection_id,
            serverConnectionId = event.server_connection_id,
            serverHost = %Host(&event.address), serverPort = event.address.port(),
            serviceId = event.service_id.map(display),
            command = %Json(&event.command),
            "Command started"
        ),
        CommandEvent::Succeeded(event) => debug!(
            target: COMMAND,
            commandName = &*event.command_name,
            databaseName = &*event.database_name,
            requestId = event.request_id,
            operationId = event.operation_id,
            driverConnectionId = event.driver_connection_id,
            serverConnectionId = event.server_connection_id,
            serverHost = %Host(&event.address), serverPort = event.address.port(),
            serviceId = event.service_id.map(display),
            durationMS = milliseconds(event.duration),
            reply = %Json(&event.reply),
            "Command succeeded"
        ),
        CommandEvent::Failed(event) => debug!(
            target: COMMAND,
            commandName = &*event.command_name,
            databaseName = &*event.database_name,
            requestId = event.request_id,
            operationId = event.operation_id,
            driverConnectionId = event.driver_connection_id,
            serverConnectionId = event.server_connection_id,
            serverHost = %Host(&event.address), serverPort = event.address.port(),
            serviceId = event.service_id.map(display),
            durationMS = milliseconds(event.duration),
            failure = %event.failure,
            "Command failed"
        ),
    }
}
