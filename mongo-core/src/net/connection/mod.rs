use std::pin::pin;

use serde::Serialize;
use tokio::time::Instant;

use super::deadline::Deadline;
use crate::ServerAddress;
use crate::error::{ClosedReason, Error, ErrorKind, Result, Wait};
use crate::handshake::ConnectionDescription;
use crate::reply::{glance, write_concern_failure};
use crate::wire::{Limits, MsgFlags, Readiness};
use auth_exchange::ReauthState;
use channel::Channel;
use pool_handle::PoolHandle;
use reply::Reply;

mod auth_exchange;
mod bound;
pub(super) mod channel;
pub(super) mod compression;
pub(super) mod connect_clock;
mod drain;
pub(super) mod establish;
pub(super) mod generations;
mod identity;
mod messages;
pub(super) mod metadata;
pub(super) mod on_connect;
pub(super) mod pool_handle;
mod pooled;
mod quiet;
mod reauthentication;
mod redaction;
pub(super) mod reply;
mod silence;
pub(super) mod suspicion;
mod watch;

use bound::{Alarm, Ended, bound};
pub(crate) use identity::Identity;
use watch::CommandWatch;

/// The server's code for a credential that has expired: `ReauthenticationRequired`.
const REAUTHENTICATION_REQUIRED: i32 = 391;

/// A connection to one server that has completed the handshake and authentication. It runs raw
/// commands.
///
/// The calling task does the I/O; nothing is spawned. One buffer serves each command and its reply.
/// Requests are not pipelined: a connection runs one command at a time.
///
/// # Cancellation
/// Every future of this type may be dropped at any time, and may time out at any time. A later
/// command never reads the reply to an earlier one. If the request was not fully written, the
/// connection is closed. If it was, its reply is outstanding: the next command, or the pool at the
/// next check-out, drains it within a limit (`drain_timeout`, default 100 ms, and 1 MiB) or closes
/// the connection. A closed connection fails every command with [`ErrorKind::ConnectionClosed`]; a
/// pool does not hand it out again.
///
/// # Large messages
/// A reply of many megabytes is decompressed and checked in steps of one or two milliseconds, and a
/// command is compressed in such steps. Other tasks run between the steps. Serialising a command
/// and deserialising a reply are not split into steps.
///
/// # Events
/// Each command is reported to [`EventHandlers`](crate::event::EventHandlers), logs and spans, if
/// any of them is enabled: its start, and its success or failure. A command whose future is dropped
/// fails with [`ErrorKind::Cancelled`]. Each OP_MSG of [`send`](Self::send) is reported likewise:
/// it succeeds with its first reply, or at once if it expects none. If another command or a
/// check-in discards its reply, it fails with `Cancelled`. A command that is never sent is not
/// reported.
#[derive(Debug)]
pub struct Connection {
    // Boxed, because pools move their connections at every check-out and check-in.
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    channel: Channel,
    identity: Identity,
    /// The state for a reauthentication, if the connection was authenticated.
    proof: Option<ReauthState>,
    pool_handle: Option<PoolHandle>,
    /// The command that was sent and whose reply has not been received yet.
    watch: Option<Box<CommandWatch>>,
    /// The operation that runs commands on it.
    operation_id: Option<i64>,
    /// The timer that bounds its commands.
    alarm: Alarm,
    idle_since: Instant,
    /// The number of this connection's last check-in, and the number of the pool's last check-in
    /// when a command began on it.
    checked_in: u64,
    begun: u64,
    is_new: bool,
}

impl Connection {
    /// A connection over a channel whose handshake is complete.
    pub(super) fn new(
        mut channel: Channel,
        limits: Limits,
        identity: Identity,
        proof: Option<ReauthState>,
    ) -> Self {
        channel.exchange.set_limits(limits);
        channel.exchange.release();
        let inner = Inner {
            channel,
            watch: None,
            operation_id: None,
            alarm: Alarm::default(),
            idle_since: identity.created,
            checked_in: identity.generation.suspicion().last_check_in(),
            begun: identity.generation.suspicion().last_check_in(),
            identity,
            proof,
            pool_handle: None,
            is_new: true,
        };
        Self {
            inner: Box::new(inner),
        }
    }

    /// Runs a command on a database and returns its reply, borrowed from the connection's buffer.
    ///
    /// The command is anything that serialises to a document: a [`bson::Document`], a
    /// [`bson::RawDocumentBuf`], a struct. Its first field names the command; `$db` is added. It is
    /// sent as it stands, the fastest way: no session, cluster time, read preference, concern or
    /// retry, for which there is [`command`](Self::command). The
    /// fields of the stable API are added if one was declared
    /// ([`ServerApi`](crate::handshake::ServerApi)). To read from a secondary, the caller must add
    /// a `$readPreference`: see
    /// [`ReadPreference::to_document`](crate::select::ReadPreference::to_document).
    ///
    /// The deadline is the connection's `command_timeout`; to set another one, use
    /// [`run_command_by`](Self::run_command_by).
    ///
    /// # Errors
    /// - `ok: 0` in the reply: [`ErrorKind::Command`]. The connection stays usable. If the error
    ///   says that the server is no longer writable, a pool without a topology does not hand the
    ///   connection out again. On `ReauthenticationRequired` (code 391),
    ///   [`reauthenticate`](Self::reauthenticate) is called and the command is run again, once,
    ///   before the same deadline. `writeErrors` and a `writeConcernError` are not errors here: see
    ///   [`Reply::check_write`].
    /// - The deadline passed: [`ErrorKind::Timeout`].
    /// - The command can't be serialised to BSON ([`ErrorKind::Serialization`]), or is longer than
    ///   the server accepts ([`ErrorKind::Protocol`]). Nothing was sent, and the connection stays
    ///   usable.
    /// - [`ErrorKind::Configuration`]: the command must wait with a deadline, but is not polled
    ///   within a Tokio runtime that has a timer. As after a time-out, the connection stays usable.
    /// - The socket failed, or the server broke the protocol: the connection is closed.
    ///
    /// A network error or a time-out of a retryable write has the label `RetryableWriteError`,
    /// unless `retryWrites=false`. A retryable write has a `txnNumber`, and is outside a
    /// transaction or ends one.
    ///
    /// - [`ErrorKind::ConnectionClosed`]: the connection was closed before, or the pool interrupted
    ///   it ([`ClosedReason::Interrupted`](crate::error::ClosedReason::Interrupted)), possibly
    ///   after the command was sent.
    pub async fn run_command<C>(&mut self, database: &str, command: &C) -> Result<Reply<'_>>
    where
        C: Serialize + ?Sized,
    {
        self.run(self.command_deadline(), database, command).await
    }

    /// [`run_command`](Self::run_command) with a deadline: a `Duration` from now, an `Instant`, or
    /// a [`Deadline`] handed down.
    ///
    /// # Errors
    /// See [`run_command`](Self::run_command).
    pub async fn run_command_by<C>(
        &mut self,
        deadline: impl Into<Deadline>,
        database: &str,
        command: &C,
    ) -> Result<Reply<'_>>
    where
        C: Serialize + ?Sized,
    {
        let deadline = self.deadline_of(Some(deadline.into()))?;
        self.run(deadline, database, command).await
    }

    // Not an `async fn`, whose future would contain each argument twice.
    pub(crate) fn run<'a, C>(
        &'a mut self,
        deadline: Deadline,
        database: &str,
        command: &C,
    ) -> impl Future<Output = Result<Reply<'a>>>
    where
        C: Serialize + ?Sized,
    {
        let mut may_run_again = self.inner.proof.is_some();
        async move {
            if self.readiness() != Readiness::Idle {
                self.admit()?;
                // Rare, so boxed: it does not enlarge the future of every command.
                Box::pin(self.drain(deadline)).await?;
            }
            loop {
                // After all waits: the server may have changed during them.
                self.admit()?;
                let fields = self.inner.identity.server_api.as_deref();
                self.inner
                    .channel
                    .encode_with(MsgFlags::NONE, database, command, fields)
                    .map_err(|error| self.inner.identity.name(error))?;
                self.begin();
                let watch = self.watch_command(self.inner.channel.exchange.request());
                let link = PoolHandle::link(&self.inner.pool_handle);
                let outcome = bound(
                    &mut self.inner.alarm,
                    deadline,
                    link,
                    pin!(self.inner.channel.round_trip()),
                )
                .await;
                let outcome = self.finish(outcome, deadline).and_then(|()| self.judge());
                if let Some(watch) = watch {
                    // Boxed, as above.
                    Box::pin(watch.end_in_steps(&outcome, self.inner.channel.body().ok())).await;
                }
                let Err(error) = outcome else { break };
                if !may_run_again || error.code() != Some(REAUTHENTICATION_REQUIRED) {
                    let sent = || bson::serialize_to_raw_document_buf(&command).ok();
                    return Err(self.inner.identity.label_write(error, sent));
                }
                may_run_again = false;
                // Also rare.
                Box::pin(self.reauthenticate(deadline)).await?;
            }
            self.last_reply()
        }
    }

    /// Checks that the pool allows a command to be sent.
    #[inline]
    fn admit(&self) -> Result<()> {
        match &self.inner.pool_handle {
            Some(pool_handle) => pool_handle
                .admit()
                .map_err(|error| self.inner.identity.name(error)),
            None => Ok(()),
        }
    }

    /// Checks that the reply has `ok: 1`, and reports its cluster time and errors to the pool.
    #[inline]
    fn judge(&mut self) -> Result<()> {
        let Err(error) = self.look_at_reply() else {
            return Ok(());
        };
        if matches!(error.kind(), ErrorKind::Protocol(_)) {
            self.close_for(ClosedReason::Protocol);
        }
        Err(self.failed(error))
    }

    fn look_at_reply(&self) -> Result<()> {
        let body = self.inner.channel.body()?;
        let fields = self.inner.channel.exchange.reply_fields();
        let glance = glance(body, fields);
        let Some(pool_handle) = &self.inner.pool_handle else {
            return glance.verdict;
        };
        if let Some(cluster_time) = glance.cluster_time {
            pool_handle.owner.cluster_time(cluster_time);
        }
        if glance.has_write_concern_error
            && let Some(error) = write_concern_failure(body, fields)
        {
            self.failed(error);
        }
        glance.verdict
    }

    /// Adds context to an error, and reports it to the pool.
    fn failed(&self, error: Error) -> Error {
        let error = self.inner.identity.name(error);
        if let Some(pool_handle) = &self.inner.pool_handle
            && !pool_handle.owner.failed(&self.inner.identity, &error)
        {
            pool_handle.link.outdate();
        }
        error
    }

    /// The reply to the last command. The connection must not have been used since.
    pub(super) fn last_reply(&self) -> Result<Reply<'_>> {
        let fields = self.inner.channel.exchange.reply_fields();
        let body = self.inner.channel.body();
        body.map(|body| Reply::new(body, fields, &self.inner.identity))
            .map_err(|error| self.inner.identity.name(error))
    }

    /// Starts to observe the command of a request, if events, logs or spans are enabled.
    #[inline]
    fn watch_command(&self, request: &[u8]) -> Option<Box<CommandWatch>> {
        let pool_handle = self.inner.pool_handle.as_ref();
        let check_out = pool_handle.and_then(|pool_handle| pool_handle.span.as_ref());
        let limits = self.inner.channel.exchange.limits();
        CommandWatch::begin(
            &self.inner.identity,
            check_out,
            self.inner.operation_id,
            request,
            limits,
        )
    }

    /// The connection's number within its pool. Numbers start at 1, in order of creation.
    pub fn id(&self) -> u64 {
        self.inner.identity.id
    }

    /// The pool generation in which the connection was made. Behind a load balancer, it is the
    /// generation of its service ([`ConnectionDescription::service_id`]).
    pub fn generation(&self) -> u64 {
        self.inner.identity.generation.number()
    }

    /// The server.
    pub fn server(&self) -> &ServerAddress {
        &self.inner.identity.server
    }

    /// The user that was authenticated, if any.
    pub fn user(&self) -> Option<&str> {
        self.inner.identity.user.as_deref()
    }

    /// The description of the server from this connection's handshake.
    pub fn description(&self) -> &ConnectionDescription {
        &self.inner.identity.description
    }

    /// When the connection was made.
    pub fn created(&self) -> Instant {
        self.inner.identity.created
    }

    /// Whether the connection has never been checked in to a pool.
    pub fn is_new(&self) -> bool {
        self.inner.is_new
    }

    /// When the connection was last checked in, or else when it was made.
    ///
    /// It is updated only if something reads it: a `max_idle_time`, or
    /// [`RecyclingMethod::VerifiedAfter`](crate::pools::RecyclingMethod::VerifiedAfter). Otherwise
    /// a check-in does not read the clock, and this is when the connection was made.
    pub fn idle_since(&self) -> Instant {
        self.inner.idle_since
    }

    /// Whether the connection can run a command now, can run one after draining an outstanding
    /// reply, or is closed.
    pub fn readiness(&self) -> Readiness {
        self.inner.channel.exchange.readiness()
    }

    /// Whether the connection can never run a command again.
    pub fn is_closed(&self) -> bool {
        matches!(self.readiness(), Readiness::Closed(_))
    }

    /// Closes the connection. The socket is closed when the connection is dropped; over TLS, a
    /// `close_notify` alert is sent first.
    pub fn close(&mut self) {
        self.close_for(ClosedReason::Closed);
    }

    pub(crate) fn close_for(&mut self, reason: ClosedReason) {
        self.inner.channel.exchange.close(reason);
    }

    fn finish(&mut self, outcome: Result<Result<()>, Ended>, deadline: Deadline) -> Result<()> {
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(Ended::Interrupted) => {
                self.close_for(ClosedReason::Interrupted);
                Err(self.closed(ClosedReason::Interrupted))
            }
            Err(Ended::Elapsed) => {
                self.suspect_others();
                Err(self.explain_silence(self.timed_out(deadline)))
            }
        }
    }

    fn timed_out(&self, deadline: Deadline) -> Error {
        self.inner.identity.name(deadline.timed_out(Wait::Command))
    }

    fn closed(&self, reason: ClosedReason) -> Error {
        self.inner
            .identity
            .name(ErrorKind::ConnectionClosed(reason))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A running command is reported as ended before its connection.
        self.inner.watch = None;
        let reason = match self.readiness() {
            Readiness::Closed(reason) => Some(reason),
            Readiness::Owed => Some(ClosedReason::CancelledReply),
            Readiness::Idle => None,
        };
        if self.is_put_off() {
            return;
        }
        if let Some(pool_handle) = &self.inner.pool_handle {
            pool_handle
                .owner
                .dropped(&self.inner.identity, &pool_handle.link, reason);
        }
    }
}

#[cfg(test)]
mod tests;
