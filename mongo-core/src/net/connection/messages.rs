//! Raw wire messages of the caller.

use std::pin::pin;

use bson::{RawDocument, rawdoc};

use super::{Connection, PoolHandle, REAUTHENTICATION_REQUIRED, Reply, bound};
use crate::error::{Error, Result};
use crate::net::OwnedReply;
use crate::net::deadline::Deadline;
use crate::wire::{MsgFlags, Readiness};

impl Connection {
    /// Sends one complete wire message: an OP_MSG or an OP_QUERY.
    ///
    /// With OP_MSG's `moreToCome` flag no reply is expected; otherwise call
    /// [`receive`](Self::receive) next. A reply that is not received is drained before the next
    /// request, like the reply to a cancelled command.
    ///
    /// # Errors
    /// A message that does not match its header is rejected before anything is sent. Otherwise see
    /// [`run_command`](Self::run_command).
    pub async fn send(&mut self, message: &[u8], deadline: impl Into<Deadline>) -> Result<()> {
        let deadline = deadline.into();
        self.admit()?;
        self.drain(deadline).await?;
        self.admit()?;
        self.begin();
        let watch = self.watch_command(message);
        let link = PoolHandle::link(&self.inner.pool_handle);
        let outcome = bound(
            &mut self.inner.alarm,
            deadline,
            link,
            pin!(self.inner.channel.send(message)),
        )
        .await;
        let outcome = self.finish(outcome, deadline);
        match watch {
            Some(watch) if outcome.is_ok() && self.inner.channel.exchange.is_receivable() => {
                self.inner.watch = Some(watch);
            }
            Some(watch) => watch.end(&outcome, None),
            None => {}
        }
        outcome
    }

    /// Sends a command that the server does not answer (OP_MSG's `moreToCome`), and returns the reply
    /// that events show for it.
    pub(crate) async fn run_unacknowledged(
        &mut self,
        deadline: Option<Deadline>,
        database: &str,
        command: &RawDocument,
    ) -> Result<OwnedReply> {
        let deadline = deadline.unwrap_or_else(|| self.command_deadline());
        self.send_flagged(MsgFlags::MORE_TO_COME, deadline, database, command)
            .await?;
        Ok(Reply::new(&rawdoc! { "ok": 1 }, None, &self.inner.identity).into_owned())
    }

    /// Runs a command whose replies may be a stream (`exhaustAllowed`). While the server streams,
    /// receives the next reply instead; events show none of those. A connection whose stream does
    /// not end can't be used otherwise.
    pub(crate) async fn run_exhaust(
        &mut self,
        deadline: Option<Deadline>,
        database: &str,
        command: &RawDocument,
    ) -> Result<OwnedReply> {
        let deadline = deadline.unwrap_or_else(|| self.command_deadline());
        let mut may_run_again = self.inner.proof.is_some();
        loop {
            if !self.is_streaming() {
                self.send_flagged(MsgFlags::EXHAUST_ALLOWED, deadline, database, command)
                    .await?;
            }
            self.receive(deadline).await?;
            let Err(error) = self.judge() else {
                return Ok(self.last_reply()?.into_owned());
            };
            let is_required = error.code() == Some(REAUTHENTICATION_REQUIRED);
            if !may_run_again || !is_required || self.is_streaming() {
                return Err(error);
            }
            may_run_again = false;
            self.reauthenticate(deadline).await?;
        }
    }

    /// Whether the server sends another reply without a request.
    pub(crate) fn is_streaming(&self) -> bool {
        self.inner.channel.exchange.is_streaming()
    }

    /// The deadline of a command; `None` is the connection's own.
    ///
    /// # Errors
    /// It is over.
    pub(crate) fn deadline_of(&self, deadline: Option<Deadline>) -> Result<Deadline> {
        match deadline {
            Some(deadline) if deadline.is_over() => Err(self.timed_out(deadline)),
            Some(deadline) => Ok(deadline),
            None => Ok(self.command_deadline()),
        }
    }

    pub(super) fn command_deadline(&self) -> Deadline {
        let bound = self.inner.identity.command_timeout;
        bound.map_or_else(Deadline::never, Deadline::after)
    }

    async fn send_flagged(
        &mut self,
        flags: MsgFlags,
        deadline: Deadline,
        database: &str,
        command: &RawDocument,
    ) -> Result<()> {
        self.drain(deadline).await?;
        let fields = self.inner.identity.server_api.as_deref();
        self.inner
            .channel
            .encode_with(flags, database, &command, fields)
            .map_err(|error| self.inner.identity.name(error))?;
        let message = self.inner.channel.exchange.request().to_vec();
        self.send(&message, deadline).await
    }

    /// Sets the operation that runs the following commands, for their events and logs.
    pub(crate) fn set_operation(&mut self, id: Option<i64>) {
        self.inner.operation_id = id;
    }

    /// Receives the complete wire message, header included, that replies to the last
    /// [`send`](Self::send). While the server streams (`moreToCome` in its reply), call it again.
    ///
    /// If the future is dropped, nothing is lost; the method may be called again.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if no reply is expected.
    /// Otherwise see [`run_command`](Self::run_command), except that the reply's `ok` is not
    /// checked.
    pub async fn receive(&mut self, deadline: impl Into<Deadline>) -> Result<&[u8]> {
        let deadline = deadline.into();
        if !self.inner.channel.exchange.is_receivable() {
            return Err(match self.readiness() {
                Readiness::Closed(reason) => self.closed(reason),
                Readiness::Idle | Readiness::Owed => self
                    .inner
                    .identity
                    .name(Error::configuration("no sent message expects a reply")),
            });
        }
        let link = PoolHandle::link(&self.inner.pool_handle);
        let outcome = bound(
            &mut self.inner.alarm,
            deadline,
            link,
            pin!(self.inner.channel.read(usize::MAX)),
        )
        .await;
        let is_over = outcome.is_ok();
        let outcome = self.finish(outcome, deadline);
        // After a time-out the reply can still be received.
        if is_over && let Some(mut watch) = self.inner.watch.take() {
            match (&outcome, self.inner.channel.body()) {
                (Ok(()), Ok(reply)) => {
                    watch.copy_long(Some(reply)).await;
                    let fields = self.inner.channel.exchange.reply_fields();
                    watch.end_by_reply(&self.inner.identity, reply, fields);
                }
                _ => watch.end(&outcome, None),
            }
        }
        outcome?;
        Ok(self.inner.channel.exchange.reply())
    }
}
