//! Spans, with the attributes of OpenTelemetry.
//!
//! Specification: OpenTelemetry. The names `otel.*` are those that `tracing-opentelemetry` knows.

use std::time::Duration;

use tracing::field::{Empty, display};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Span, debug_span, enabled, span};

use super::Host;
use crate::ServerAddress;
use crate::error::Error;
use crate::event::CommandStartedEvent;

/// A target of its own: with `mongodb::span=debug` there are spans, and not yet the messages, which
/// show of the application's documents.
const SPAN: &str = "mongodb::span";

/// Whether anybody wants spans. Without a subscriber this costs next to nothing.
#[inline]
pub(crate) fn wants_spans() -> bool {
    LevelFilter::current() >= LevelFilter::DEBUG && enabled!(target: SPAN, Level::DEBUG)
}

/// The span of a connection's use, from its check-out to its return; what the specification calls
/// an operation's, whose commands are nested in it.
pub(crate) struct CheckOutSpan {
    span: Span,
    /// The span that it is in.
    outer: Option<span::Id>,
}

impl CheckOutSpan {
    /// In the current span.
    pub(crate) fn begin() -> Self {
        let span = debug_span!(
            target: SPAN,
            "mongodb.check_out",
            otel.name = "check out",
            otel.kind = "internal",
            otel.status_code = Empty,
            exception.message = Empty,
            db.system.name = "mongodb",
            db.client.connection.wait_time = Empty,
            server.address = Empty,
            server.port = Empty,
            db.mongodb.driver_connection_id = Empty,
            db.mongodb.server_connection_id = Empty,
        );
        Self {
            span,
            outer: Span::current().id(),
        }
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// Adds what was checked out, and how long that took.
    pub(crate) fn succeeded(
        &self,
        server: &ServerAddress,
        ids: (u64, Option<i64>),
        time: Duration,
    ) {
        let (driver, server_side) = ids;
        self.span.record("server.address", display(Host(server)));
        self.span.record("server.port", server.port());
        self.span.record("db.mongodb.driver_connection_id", driver);
        self.span
            .record("db.mongodb.server_connection_id", server_side);
        let seconds = time.as_secs_f64();
        self.span.record("db.client.connection.wait_time", seconds);
    }

    /// What a command's span is in now: this, unless the application has opened or left a span
    /// since the check-out.
    fn parent(&self) -> Option<span::Id> {
        let current = Span::current().id();
        match current == self.outer {
            true => self.span.id(),
            false => current,
        }
    }
}

/// The span of one command, in that of its connection's check-out or the current one. It is never entered while the command waits, so
/// that it costs a command nothing where nobody wants it; it ends when the command does.
pub(crate) fn command_span(
    command: &CommandStartedEvent,
    collection: Option<&str>,
    check_out: Option<&CheckOutSpan>,
) -> Span {
    if !wants_spans() {
        return Span::none();
    }
    let (name, database) = (&*command.command_name, &*command.database_name);
    let collection = collection.filter(|_| database != "admin");
    let summary = match collection {
        Some(collection) => format!("{name} {database}.{collection}"),
        None => format!("{name} {database}"),
    };
    let parent = match check_out {
        Some(check_out) => check_out.parent(),
        None => Span::current().id(),
    };
    debug_span!(
        target: SPAN,
        parent: parent,
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
