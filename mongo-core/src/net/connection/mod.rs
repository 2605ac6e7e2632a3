use std::pin::pin;

use serde::Serialize;
use tokio::time::Instant;

use super::deadline::{Deadline, Elapsed};
use crate::ServerAddress;
use crate::error::{ClosedReason, Error, ErrorKind, Result, Wait};
use crate::handshake::ConnectionDescription;
use crate::wire::{self, Limits, MsgFlags, Readiness};
use channel::Channel;
use reply::Reply;

mod bound;
pub(super) mod channel;
pub(super) mod connect_clock;
pub(super) mod establish;
pub(super) mod generations;
mod identity;
mod messages;
pub(super) mod metadata;
pub(super) mod pool_handle;
mod pooled;
mod quiet;
mod redaction;
pub(super) mod reply;
mod silence;
pub(super) mod suspicion;
mod watch;

use bound::{Alarm, Ended, bound};
pub(crate) use identity::Identity;
use watch::CommandWatch;

/// Bytes of an abandoned reply that are read away at most; a longer one costs the connection.
const DRAIN_BYTES: usize = 1024 * 1024;

/// The server's code for a credential that has expired: `ReauthenticationRequired`.
const REAUTHENTICATION_REQUIRED: i32 = 391;

/// A connection to one server: handshaken, authenticated, made for raw commands.
///
/// The I/O is done by the task that calls; nothing is spawned, and one buffer serves each command
/// and its reply. Requests are not pipelined: a connection is a run of commands, one at a time.
///
/// # Cancellation
/// Any future of this type may be dropped at any time, and any may run into its deadline, and no
/// later command can ever read the reply of an earlier one. If the request had not been written
/// whole, the connection is closed. If it had, the reply is owed: the next command, or the pool at
/// the next check-out, reads it away within a bound (`drain_timeout`, default 100 ms, and 1 MiB)
/// or closes the connection. A connection that is closed fails every command with
/// [`ErrorKind::ConnectionClosed`]; a pool does not hand it out again.
///
/// # Large messages
/// A reply of many megabytes is unpacked and checked in steps of a millisecond or two, and a command
/// compressed in such steps, between which other tasks have their turn. Serialising a command, and
/// deserialising a reply, is done at once.
///
/// # Events
/// Each command is told of to [`EventHandlers`](crate::event::EventHandlers), logs and spans, if
/// anybody wants to know: that it starts, and that it succeeded or failed. One whose future is
/// dropped fails then, by [`ErrorKind::Cancelled`]. Likewise each OP_MSG of [`send`](Self::send): it
/// succeeds by its first reply, or at once if none is asked for; if its reply is given up, by
/// another command or a check-in, it was cancelled. What was never sent never started.
#[derive(Debug)]
pub struct Connection {
    // In a box: pools move their connections about at every check-out and check-in.
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    channel: Channel,
    identity: Identity,
    /// The command that was sent, and whose reply is still to be received.
    watch: Option<Box<CommandWatch>>,
    /// For the time its commands have.
    alarm: Alarm,
    idle_since: Instant,
    /// The number of its last check-in, and of the pool's last one when a command began on it.
    checked_in: u64,
    begun: u64,
    is_new: bool,
}

impl Connection {
    /// A connection over a channel on which the handshake is over.
    pub(super) fn new(mut channel: Channel, limits: Limits, identity: Identity) -> Self {
        channel.exchange.set_limits(limits);
        channel.exchange.release();
        let inner = Inner {
            channel,
            watch: None,
            alarm: Alarm::default(),
            idle_since: identity.created,
            checked_in: identity.generation.suspicion().last_check_in(),
            begun: identity.generation.suspicion().last_check_in(),
            identity,
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
    /// sent as it is: no session, read preference or concern is added to it, as the run-command
    /// specification asks; the fields of the stable API are, where one was declared
    /// ([`ServerApi`](crate::handshake::ServerApi)). A read from a secondary needs a
    /// `$readPreference` of the caller's: see
    /// [`ReadPreference::to_document`](crate::select::ReadPreference::to_document).
    ///
    /// The deadline is the connection's `command_timeout`; see
    /// [`run_command_by`](Self::run_command_by) for one of your own.
    ///
    /// # Errors
    /// - `ok: 0` in the reply: [`ErrorKind::Command`], and the connection stays usable; if it says that
    ///   the server is no longer writable, a pool without a topology does not hand the connection out
    ///   again. A
    ///   `ReauthenticationRequired` (code 391) is answered by [`reauthenticate`](Self::reauthenticate)
    ///   and the command run again, once, before the same deadline. `writeErrors` and a
    ///   `writeConcernError` are no errors here: see [`Reply::check_write`].
    /// - The deadline came: [`ErrorKind::Timeout`].
    /// - A command that can't be written as BSON, or is longer than the server takes:
    ///   [`ErrorKind::Serialization`], [`ErrorKind::Protocol`]; nothing was sent, and the connection
    ///   stays usable.
    /// - [`ErrorKind::Configuration`]: it has to wait by a deadline, and is not polled within a Tokio
    ///   runtime with a timer. As after a deadline that came, the connection stays usable.
    /// - The socket failed, or the server broke the protocol: the connection is closed.
    ///
    /// A failure of the network, or a time-out, of a retryable write (with a `txnNumber`, and no part of
    /// a transaction but its end) has the label `RetryableWriteError`, unless `retryWrites=false`.
    ///
    /// - [`ErrorKind::ConnectionClosed`]: it was closed before; or the pool gave it up
    ///   ([`ClosedReason::Interrupted`](crate::error::ClosedReason::Interrupted)), perhaps after the
    ///   command was sent.
    pub async fn run_command<C>(&mut self, database: &str, command: &C) -> Result<Reply<'_>>
    where
        C: Serialize + ?Sized,
    {
        let deadline = match self.inner.identity.command_timeout {
            Some(bound) => Deadline::after(bound),
            None => Deadline::never(),
        };
        self.run(deadline, database, command).await
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
        let deadline = deadline.into();
        if deadline.is_over() {
            return Err(self.timed_out(deadline));
        }
        self.run(deadline, database, command).await
    }

    async fn run<C>(&mut self, deadline: Deadline, database: &str, command: &C) -> Result<Reply<'_>>
    where
        C: Serialize + ?Sized,
    {
        if self.readiness() != Readiness::Idle {
            self.admit()?;
            // Rare: not to be a part of every command's future.
            Box::pin(self.drain(deadline)).await?;
        }
        let mut may_run_again = self.inner.identity.proof.is_some();
        loop {
            // After all that is waited for: meanwhile the server may have become another.
            self.admit()?;
            let fields = self.inner.identity.server_api.as_deref();
            self.inner
                .channel
                .encode_with(MsgFlags::NONE, database, command, fields)
                .map_err(|error| self.inner.identity.name(error))?;
            self.begin();
            let watch = self.watch_command(self.inner.channel.exchange.request());
            let link = self.inner.identity.link();
            let outcome = bound(
                &mut self.inner.alarm,
                deadline,
                link,
                pin!(self.inner.channel.round_trip()),
            )
            .await;
            let outcome = self.finish(outcome, deadline).and_then(|()| self.judge());
            if let Some(watch) = watch {
                watch.end(&outcome, self.inner.channel.body().ok());
            }
            let Err(error) = outcome else { break };
            if !may_run_again || error.code() != Some(REAUTHENTICATION_REQUIRED) {
                let sent = || bson::serialize_to_raw_document_buf(&command).ok();
                return Err(self.inner.identity.label_write(error, sent));
            }
            may_run_again = false;
            // Rare, too.
            Box::pin(self.reauthenticate(deadline)).await?;
        }
        self.last_reply()
    }

    /// Authenticates again, on this connection and without another hello, with the current
    /// credential.
    ///
    /// [`run_command`](Self::run_command) does so by itself where the server answers that it wants
    /// it (`ReauthenticationRequired`, code 391), and runs the command again, once. This is for
    /// whoever uses [`send`](Self::send) and [`receive`](Self::receive).
    ///
    /// Dropped half-way it may be called again.
    ///
    /// # Errors
    /// - The server refuses the credential, or it is another user's by now: the connection is
    ///   closed.
    /// - The credential could not be had, or the deadline came: the connection is as after a command
    ///   that was cancelled.
    /// - [`ErrorKind::Configuration`] if the connection was never authenticated.
    ///
    /// Specification: authentication, "Reauthentication".
    pub async fn reauthenticate(&mut self, deadline: impl Into<Deadline>) -> Result<()> {
        let deadline = deadline.into();
        self.drain(deadline).await?;
        let identity = &mut self.inner.identity;
        let description = identity.description.clone();
        let Some(proof) = &mut identity.proof else {
            let error = Error::configuration("the connection was never authenticated");
            return Err(identity.name(error));
        };
        let mut phase = Wait::Credential;
        let mut enter = |next| phase = next;
        let (channel, server) = (&mut self.inner.channel, &identity.server);
        let renewed = proof.renew(channel, server, description, &mut enter);
        let outcome = match deadline.bound(renewed).await {
            Ok(outcome) => outcome,
            Err(Elapsed) => Err(self.explain_silence(deadline.timed_out(phase))),
        };
        outcome.map_err(|error| {
            if error.is_authentication() {
                self.close_for(ClosedReason::Unauthenticated);
            }
            // It tells of the server what the failure of a command does.
            self.failed(error)
        })
    }

    /// Whether the pool lets a command be sent.
    #[inline]
    fn admit(&self) -> Result<()> {
        match &self.inner.identity.pool_handle {
            Some(pool_handle) => pool_handle
                .admit()
                .map_err(|error| self.inner.identity.name(error)),
            None => Ok(()),
        }
    }

    /// Whether the reply says `ok: 1`. The pool is told what else it says of the server.
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
        let glance = wire::glance(body, fields);
        let Some(pool_handle) = &self.inner.identity.pool_handle else {
            return glance.verdict;
        };
        if let Some(cluster_time) = glance.cluster_time {
            pool_handle.owner.cluster_time(cluster_time);
        }
        if glance.has_write_concern_error
            && let Some(error) = wire::write_concern_failure(body, fields)
        {
            self.failed(error);
        }
        glance.verdict
    }

    /// Names an error, and tells the pool of it.
    fn failed(&self, error: Error) -> Error {
        let error = self.inner.identity.name(error);
        if let Some(pool_handle) = &self.inner.identity.pool_handle
            && !pool_handle.owner.failed(&self.inner.identity, &error)
        {
            pool_handle.link.outdate();
        }
        error
    }

    /// The reply to the last command, while nothing was done with the connection since.
    pub(super) fn last_reply(&self) -> Result<Reply<'_>> {
        let fields = self.inner.channel.exchange.reply_fields();
        let body = self.inner.channel.body();
        body.map(|body| Reply::new(body, fields, &self.inner.identity))
            .map_err(|error| self.inner.identity.name(error))
    }

    /// Begins to watch the command of a request, if anybody wants to know of it.
    #[inline]
    fn watch_command(&self, request: &[u8]) -> Option<Box<CommandWatch>> {
        CommandWatch::begin(
            &self.inner.identity,
            request,
            self.inner.channel.exchange.limits(),
        )
    }

    /// The connection's number: from 1, in the order of creation, within one pool.
    pub fn id(&self) -> u64 {
        self.inner.identity.id
    }

    /// The pool generation in which the connection was made; behind a load balancer that of its
    /// service ([`ConnectionDescription::service_id`]).
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

    /// What the server said of itself in this connection's handshake.
    pub fn description(&self) -> &ConnectionDescription {
        &self.inner.identity.description
    }

    /// When the connection was made.
    pub fn created(&self) -> Instant {
        self.inner.identity.created
    }

    /// Whether the connection was never given back to a pool.
    pub fn is_new(&self) -> bool {
        self.inner.is_new
    }

    /// When the connection was last given back, or made.
    ///
    /// It is kept up only where something compares it: a `max_idle_time`, or
    /// [`RecyclingMethod::VerifiedAfter`](crate::pools::RecyclingMethod::VerifiedAfter). Elsewhere a
    /// check-in is spared the clock, and this is when the connection was made.
    pub fn idle_since(&self) -> Instant {
        self.inner.idle_since
    }

    /// Whether the connection can run a command: now, or after reading away an owed reply.
    pub fn readiness(&self) -> Readiness {
        self.inner.channel.exchange.readiness()
    }

    /// Whether the connection can never run a command again.
    pub fn is_closed(&self) -> bool {
        matches!(self.readiness(), Readiness::Closed(_))
    }

    /// Gives the connection up. The socket is closed when it is dropped, over TLS after telling the
    /// server so (`close_notify`).
    pub fn close(&mut self) {
        self.close_for(ClosedReason::Closed);
    }

    pub(crate) fn close_for(&mut self, reason: ClosedReason) {
        self.inner.channel.exchange.close(reason);
    }

    /// Reads away the reply that is owed to a cancelled command, if there is one.
    ///
    /// Dropped half-way it may be called again.
    ///
    /// # Errors
    /// The reply did not come within `drain_timeout` (or the deadline, if that is earlier), or is
    /// longer than 1 MiB, or is the first of a stream: the connection is closed then.
    pub async fn drain(&mut self, deadline: Deadline) -> Result<()> {
        match self.readiness() {
            Readiness::Idle => return Ok(()),
            Readiness::Closed(reason) => return Err(self.closed(reason)),
            // Nobody receives it any more.
            Readiness::Owed => self.inner.watch = None,
        }
        let deadline = deadline.within(Some(self.inner.identity.drain_timeout));
        let outcome = match deadline.bound(self.inner.channel.read(DRAIN_BYTES)).await {
            Ok(outcome) => outcome,
            Err(Elapsed) => {
                // Where it was cut short, that says nothing.
                if deadline.elapsed() >= self.inner.identity.drain_timeout {
                    self.suspect_others();
                }
                Err(self.explain_silence(deadline.timed_out(Wait::Drain)))
            }
        };
        if let Err(error) = outcome {
            if let Readiness::Closed(reason @ ClosedReason::LongReply) = self.readiness() {
                return Err(self.closed(reason));
            }
            self.close_for(ClosedReason::CancelledReply);
            return Err(self.inner.identity.name(error));
        }
        match self.readiness() {
            // Whatever was owed announced more to come: nobody knows how much.
            Readiness::Closed(reason) => {
                self.close_for(reason);
                Err(self.closed(reason))
            }
            Readiness::Idle | Readiness::Owed => Ok(()),
        }
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
        // A command that is under way ends before its connection.
        self.inner.watch = None;
        let reason = match self.readiness() {
            Readiness::Closed(reason) => Some(reason),
            Readiness::Idle | Readiness::Owed => None,
        };
        if self.is_put_off() {
            return;
        }
        if let Some(pool_handle) = &self.inner.identity.pool_handle {
            pool_handle
                .owner
                .dropped(&self.inner.identity, &pool_handle.link, reason);
        }
    }
}

#[cfg(test)]
mod tests;
