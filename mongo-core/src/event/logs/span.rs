//! Spans, with the attributes of OpenTelemetry.
//!
//! Specification: OpenTelemetry. `tracing-opentelemetry` interprets the names `otel.*`.

use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf};
use tracing::field::{Empty, debug, display};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Span, debug_span, enabled, span};

use super::Host;
use super::json::JsonUpTo;
use crate::ServerAddress;
use crate::error::Error;
use crate::event::CommandStartedEvent;

/// A separate target: `mongodb::span=debug` enables the spans without the messages, which show
/// parts of the application's documents.
const SPAN: &str = "mongodb::span";

/// Whether any subscriber is interested in spans. Without one, the cost is negligible.
#[inline]
pub(crate) fn wants_spans() -> bool {
    LevelFilter::current() >= LevelFilter::DEBUG && enabled!(target: SPAN, Level::DEBUG)
}

/// The span of a connection's use, from its check-out to its check-in; the spans of its commands are
/// nested in it. Within an operation, which has a span of its own, it is that of the check-out.
pub(crate) struct CheckOutSpan {
    span: Span,
    /// The parent span.
    outer: Option<span::Id>,
}

impl CheckOutSpan {
    /// Begins a span within the current one.
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

    /// Records the connection that was checked out, and the duration of the check-out.
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

    /// The parent of a command's span: this span, unless the application has entered or left a span
    /// since the check-out.
    fn parent(&self) -> Option<span::Id> {
        let current = Span::current().id();
        match current == self.outer {
            true => self.span.id(),
            false => current,
        }
    }
}

/// The span of an operation: the check-outs and commands of all its attempts are nested in it.
pub(crate) fn operation_span(
    parent: Option<&Span>,
    name: &str,
    database: &str,
    collection: Option<&str>,
) -> Span {
    let summary = match collection {
        Some(collection) => format!("{name} {database}.{collection}"),
        None => format!("{name} {database}"),
    };
    let parent = parent.and_then(Span::id).or_else(|| Span::current().id());
    debug_span!(
        target: SPAN,
        parent: parent,
        "mongodb.operation",
        otel.name = summary,
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = "mongodb",
        db.namespace = database,
        db.collection.name = collection,
        db.operation.name = name,
        db.operation.summary = summary,
        db.response.status_code = Empty,
        "exception.type" = Empty,
        exception.message = Empty,
        exception.stacktrace = Empty,
    )
}

/// The span of a transaction, in which its operations are nested.
pub(crate) fn transaction_span() -> Span {
    match wants_spans() {
        true => debug_span!(
            target: SPAN,
            "mongodb.transaction",
            otel.name = "transaction",
            db.system.name = "mongodb",
        ),
        false => Span::none(),
    }
}

/// What a command's span shows of the command.
pub(crate) struct CommandBody<'a> {
    pub(crate) body: &'a RawDocument,
    pub(crate) collection: Option<&'a str>,
    /// The most characters of its text; 0 shows none.
    pub(crate) text_length: usize,
    /// The whole command, with its document sequences.
    pub(crate) whole: &'a dyn Fn() -> RawDocumentBuf,
}

impl CommandBody<'_> {
    /// The session's id, as a UUID.
    fn session(&self) -> Option<String> {
        let id = self.body.get_document("lsid").ok()?.get_binary("id").ok()?;
        let hex: String = id.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let part = |place: std::ops::Range<usize>| hex.get(place);
        let parts = [
            part(0..8)?,
            part(8..12)?,
            part(12..16)?,
            part(16..20)?,
            part(20..32)?,
        ];
        Some(parts.join("-"))
    }

    /// The cursor of `getMore` and `killCursors`.
    fn cursor(&self) -> Option<i64> {
        let first = |cursors: &bson::RawArray| cursors.into_iter().next()?.ok()?.as_i64();
        let killed = || first(self.body.get_array("cursors").ok()?);
        self.body.get_i64("getMore").ok().or_else(killed)
    }

    /// The command without what is the driver's own.
    fn text(&self) -> Option<String> {
        let hidden = ["lsid", "$db", "$clusterTime", "signature"];
        (self.text_length > 0).then(|| {
            let mut shown = RawDocumentBuf::new();
            let whole = (self.whole)();
            for (name, value) in whole.iter().map_while(Result::ok) {
                if !hidden.contains(&name.as_str()) {
                    shown.append(name, value);
                }
            }
            JsonUpTo(&shown, self.text_length).to_string()
        })
    }
}

/// The span of one command, within the span of its connection's check-out or the current one. It is
/// not entered while the command waits, so that it is free if no subscriber is interested. It ends
/// with the command.
pub(crate) fn command_span(
    command: &CommandStartedEvent,
    body: &CommandBody<'_>,
    check_out: Option<&CheckOutSpan>,
) -> Span {
    if !wants_spans() {
        return Span::none();
    }
    let (name, database) = (&*command.command_name, &*command.database_name);
    let collection = body.collection.filter(|_| database != "admin");
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
        db.query.text = body.text(),
        db.mongodb.cursor_id = body.cursor(),
        db.mongodb.lsid = body.session(),
        db.mongodb.txn_number = body.body.get_i64("txnNumber").ok(),
        db.response.status_code = Empty,
        "exception.type" = Empty,
        exception.message = Empty,
        exception.stacktrace = Empty,
        server.address = %Host(&command.address),
        server.port = command.address.port(),
        network.transport = transport(&command.address),
        db.mongodb.driver_connection_id = command.driver_connection_id,
        db.mongodb.server_connection_id = command.server_connection_id,
    )
}

/// Records an error in a span.
pub(crate) fn record_failure(span: &Span, error: &Error) {
    if span.is_disabled() {
        return;
    }
    span.record("otel.status_code", "ERROR");
    let kind = format!("{:?}", error.kind());
    let kind = kind.split(|letter: char| !letter.is_alphanumeric()).next();
    span.record("exception.type", kind);
    span.record("exception.message", display(error));
    // There is no stack trace: the kinds of the error and of its causes.
    span.record("exception.stacktrace", debug(error));
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
