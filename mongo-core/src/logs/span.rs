//! Spans, with the attributes of OpenTelemetry.
//!
//! Specification: OpenTelemetry. The names `otel.*` are those that `tracing-opentelemetry` knows.

use tracing::field::{Empty, display};
use tracing::{Level, Span, debug_span, enabled};

use super::Host;
use crate::ServerAddress;
use crate::error::Error;
use crate::event::CommandStartedEvent;

/// A target of its own: with `mongodb::span=debug` there are spans, and not yet the messages, which
/// show of the application's documents.
const SPAN: &str = "mongodb::span";

pub(super) fn wants_spans() -> bool {
    enabled!(target: SPAN, Level::DEBUG)
}

/// The span of one command, in the current one. It is never entered while the command waits, so
/// that it costs a command nothing where nobody wants it; it ends when the command does.
pub(crate) fn command_span(command: &CommandStartedEvent, collection: Option<&str>) -> Span {
    if !wants_spans() {
        return Span::none();
    }
    let (name, database) = (&*command.command_name, &*command.database_name);
    let collection = collection.filter(|_| database != "admin");
    let summary = match collection {
        Some(collection) => format!("{name} {database}.{collection}"),
        None => format!("{name} {database}"),
    };
    debug_span!(
        target: SPAN,
        "mongodb.command",
        otel.name = name,
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = "mongodb",
        db.namespace = database,
        db.collection.name = collection,
        db.operation.name = name,
        db.command.name = name,
        db.query.summary = summary,
        db.response.status_code = Empty,
        exception.message = Empty,
        server.address = %Host(&command.address),
        server.port = command.address.port(),
        network.transport = transport(&command.address),
        db.mongodb.driver_connection_id = command.driver_connection_id,
        db.mongodb.server_connection_id = command.server_connection_id,
    )
}

/// Adds to a span why what it spans failed.
pub(crate) fn record_failure(span: &Span, error: &Error) {
    if span.is_disabled() {
        return;
    }
    span.record("otel.status_code", "ERROR");
    span.record("exception.message", display(error));
    if let Some(code) = error.code() {
        span.record("db.response.status_code", display(code));
    }
}

fn transport(address: &ServerAddress) -> &'static str {
    match address {
        ServerAddress::Tcp { .. } => "tcp",
        ServerAddress::Unix { .. } => "unix",
    }
}
