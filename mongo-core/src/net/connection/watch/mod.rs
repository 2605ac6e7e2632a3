//! One observed command.

use std::time::Duration;

use bson::raw::RawArrayBuf;
use bson::{RawDocument, RawDocumentBuf, rawdoc};
use tokio::task::yield_now;
use tokio::time::Instant;
use tracing::Span;

use super::Identity;
use super::redaction::{is_sensitive, redacted};
use crate::error::{Error, ErrorKind, Result};
use crate::event::logs::{CheckOutSpan, CommandBody};
use crate::event::{
    CommandEvent, CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent, EventHandlers,
    logs,
};
use crate::reply::glance;
use crate::wire::{Limits, OpMsg, ReplyFields, WireError};

/// Observes a command from its start to its end, and reports the end exactly once. If it is dropped
/// before, because the command's future was dropped or its reply was discarded, it reports the
/// command as cancelled.
#[derive(Debug)]
pub(super) struct CommandWatch {
    handlers: EventHandlers,
    /// The event without the command. Taken when the end is reported.
    started: Option<CommandStartedEvent>,
    is_sensitive: bool,
    since: Instant,
    span: Span,
    /// The copy of a long reply, made beforehand.
    copied: Option<RawDocumentBuf>,
}

/// The bytes of a reply that are copied before other tasks run.
const COPIED_AT_ONCE: usize = 1024 * 1024;

impl CommandWatch {
    /// Reports the start of the command in a request that is about to be written, if events, logs
    /// or spans are enabled.
    #[inline]
    pub(super) fn begin(
        identity: &Identity,
        check_out: Option<&CheckOutSpan>,
        operation_id: Option<i64>,
        request: &[u8],
        limits: &Limits,
    ) -> Option<Box<Self>> {
        match identity.events.wants_commands() {
            false => None,
            true => Self::start(identity, check_out, operation_id, request, limits)
                .ok()
                .map(Box::new),
        }
    }

    /// Fails if the request is not an OP_MSG.
    fn start(
        identity: &Identity,
        check_out: Option<&CheckOutSpan>,
        operation_id: Option<i64>,
        request: &[u8],
        limits: &Limits,
    ) -> Result<Self, WireError> {
        let message = OpMsg::parse(request, limits)?;
        let malformed = |_| WireError::Document(0);
        let first = message.body().iter_elements().next();
        let first = first.ok_or(WireError::NoBody)?.map_err(malformed)?;
        let name = first.key().as_str();
        let is_sensitive = is_sensitive(name, message.body());
        let database = message.body().get_str("$db").unwrap_or_default();
        let started = CommandStartedEvent {
            address: identity.server.clone(),
            user: identity.user.clone(),
            driver_connection_id: identity.id,
            server_connection_id: identity.description.connection_id,
            service_id: identity.description.service_id,
            request_id: message.header().request_id,
            operation_id,
            command_name: name.into(),
            database_name: database.into(),
            command: RawDocumentBuf::new(),
        };
        let span = match is_sensitive {
            true => Span::none(),
            false => {
                let body = CommandBody {
                    body: message.body(),
                    collection: collection(message.body()),
                    text_length: identity.events.query_text_length(),
                    whole: &|| whole_command(&message),
                };
                logs::command_span(&started, &body, check_out)
            }
        };
        let handlers = identity.events.clone();
        let event = || {
            let mut started = started.clone();
            if !is_sensitive {
                started.command = whole_command(&message);
            }
            CommandEvent::Started(started)
        };
        span.in_scope(|| handlers.emit_command(event));
        Ok(Self {
            handlers,
            started: Some(started),
            is_sensitive,
            since: Instant::now(),
            span,
            copied: None,
        })
    }

    /// [`end`](Self::end), after a long reply was copied in steps, between which other tasks run. If
    /// the future is dropped, the command is reported as cancelled.
    pub(super) async fn end_in_steps(
        mut self: Box<Self>,
        outcome: &Result<()>,
        reply: Option<&RawDocument>,
    ) {
        self.copy_long(reply).await;
        self.end(outcome, reply);
    }

    /// Copies a long reply for the event.
    pub(super) async fn copy_long(&mut self, reply: Option<&RawDocument>) {
        if let Some(reply) = reply.filter(|reply| reply.as_bytes().len() > COPIED_AT_ONCE)
            && !self.is_sensitive
        {
            self.copied = copied(reply).await;
        }
    }

    /// Reports the end, with the outcome and the reply if there is one.
    pub(super) fn end(mut self, outcome: &Result<()>, reply: Option<&RawDocument>) {
        match outcome {
            Ok(()) => self.succeed(reply),
            Err(error) => self.fail(error),
        }
    }

    /// Reports the end by a reply whose `ok` was not checked yet.
    pub(super) fn end_by_reply(
        self,
        identity: &Identity,
        reply: &RawDocument,
        fields: Option<&ReplyFields>,
    ) {
        let verdict = glance(reply, fields).verdict;
        let outcome = verdict.map_err(|error| identity.name(error));
        self.end(&outcome, Some(reply));
    }

    fn succeed(&mut self, reply: Option<&RawDocument>) {
        let is_sensitive = self.is_sensitive;
        let copied = self.copied.take();
        self.report(|started, duration| {
            CommandEvent::Succeeded(CommandSucceededEvent {
                address: started.address,
                user: started.user,
                driver_connection_id: started.driver_connection_id,
                server_connection_id: started.server_connection_id,
                service_id: started.service_id,
                request_id: started.request_id,
                operation_id: started.operation_id,
                command_name: started.command_name,
                database_name: started.database_name,
                duration,
                reply: match (is_sensitive, copied, reply) {
                    (true, _, _) => RawDocumentBuf::new(),
                    (false, Some(copied), _) => copied,
                    (false, None, Some(reply)) => reply.to_owned(),
                    (false, None, None) => rawdoc! { "ok": 1 },
                },
            })
        });
    }

    fn fail(&mut self, error: &Error) {
        if self.started.is_some() {
            logs::record_failure(&self.span, error);
        }
        let is_sensitive = self.is_sensitive;
        self.report(|started, duration| {
            CommandEvent::Failed(CommandFailedEvent {
                address: started.address,
                user: started.user,
                driver_connection_id: started.driver_connection_id,
                server_connection_id: started.server_connection_id,
                service_id: started.service_id,
                request_id: started.request_id,
                operation_id: started.operation_id,
                command_name: started.command_name,
                database_name: started.database_name,
                duration,
                failure: match is_sensitive {
                    true => redacted(error),
                    false => error.clone(),
                },
            })
        });
    }

    /// Emits the event of the end, once.
    fn report(&mut self, event: impl FnOnce(CommandStartedEvent, Duration) -> CommandEvent) {
        let Some(started) = self.started.take() else {
            return;
        };
        let duration = self.since.elapsed();
        let event = || event(started, duration);
        self.span.in_scope(|| self.handlers.emit_command(event));
    }
}

impl Drop for CommandWatch {
    fn drop(&mut self) {
        if let Some(started) = &self.started {
            let error = Error::new(ErrorKind::Cancelled)
                .at(&started.address)
                .for_user(started.user.as_ref());
            self.fail(&error);
        }
    }
}

async fn copied(reply: &RawDocument) -> Option<RawDocumentBuf> {
    let mut bytes = Vec::with_capacity(reply.as_bytes().len());
    for step in reply.as_bytes().chunks(COPIED_AT_ONCE) {
        bytes.extend_from_slice(step);
        yield_now().await;
    }
    RawDocumentBuf::from_bytes(bytes).ok()
}

/// The collection that a command runs on: its first value, except for commands on a cursor.
fn collection(command: &RawDocument) -> Option<&str> {
    let named = command.get_str("collection").ok();
    named.or_else(|| command.iter().next()?.ok()?.1.as_str())
}

/// The command with its document sequences as arrays.
fn whole_command(message: &OpMsg<'_>) -> RawDocumentBuf {
    let mut command = message.body().to_owned();
    for sequence in message.sequences() {
        let mut documents = RawArrayBuf::new();
        for document in sequence.documents() {
            documents.push(document);
        }
        // The message's own name, which ends at the first zero byte.
        if let Ok(name) = <&bson::raw::CStr>::try_from(sequence.identifier()) {
            command.append(name, documents);
        }
    }
    command
}

#[cfg(test)]
mod tests;
