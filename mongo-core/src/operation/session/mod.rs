//! Sessions of the application.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::raw::RawBsonRef;
use bson::{RawDocument, Timestamp};

use super::request::Request;
use super::transaction::{Ending, Point, Transaction, TransactionOptions, TransactionState};
use crate::ServerAddress;
use crate::error::{Error, Result, TRANSIENT_TRANSACTION_ERROR};

mod client;
mod cluster_time;
mod server;

pub(crate) use client::{ClientContext, Leftover};
pub use cluster_time::ClusterTime;
pub(crate) use cluster_time::is_later;
pub(crate) use server::ServerSession;

/// The options of a [`ClientSession`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Whether reads and writes of the session see all its earlier operations. Default: true,
    /// unless `snapshot` is set. This does not cover unacknowledged writes.
    pub causal_consistency: Option<bool>,
    /// Whether all reads of the session are of one point in time. Needs MongoDB 5.0, and excludes
    /// writes, transactions and causal consistency. Default false.
    pub snapshot: bool,
    /// The point in time of a snapshot session. Default: that of its first read.
    pub snapshot_time: Option<Timestamp>,
    /// The defaults of transactions.
    pub default_transaction: TransactionOptions,
    /// The time limit (`timeoutMS`) of `commit_transaction`, `abort_transaction`,
    /// `with_transaction` and `end`. Default: that of the client.
    pub default_timeout: Option<Duration>,
}

impl SessionOptions {
    /// Sets `causal_consistency`.
    #[must_use]
    pub fn with_causal_consistency(mut self, is_causal: bool) -> Self {
        self.causal_consistency = Some(is_causal);
        self
    }

    /// Sets `snapshot`.
    #[must_use]
    pub fn with_snapshot(mut self, is_snapshot: bool) -> Self {
        self.snapshot = is_snapshot;
        self
    }

    /// Sets `snapshot_time`.
    #[must_use]
    pub fn with_snapshot_time(mut self, time: Timestamp) -> Self {
        self.snapshot_time = Some(time);
        self
    }

    /// Sets `default_transaction`.
    #[must_use]
    pub fn with_default_transaction(mut self, options: TransactionOptions) -> Self {
        self.default_transaction = options;
        self
    }

    /// Sets `default_timeout`.
    #[must_use]
    pub fn with_default_timeout(mut self, timeout: Duration) -> Self {
        self.default_timeout = Some(timeout);
        self
    }

    fn validate(&self) -> Result<()> {
        if self.snapshot && self.causal_consistency == Some(true) {
            return Err(Error::configuration(
                "a session can't be both a snapshot session and causally consistent",
            ));
        }
        if self.snapshot_time.is_some() && !self.snapshot {
            let text = "snapshot_time is only for snapshot sessions: set snapshot";
            return Err(Error::configuration(text));
        }
        Ok(())
    }
}

/// A logical session: what operations that belong together share. Used by one operation at a time,
/// and only with the client and the credential that it was started with.
///
/// Its server session comes from a pool, to which it is returned when this is dropped. The server
/// may end a session that is unused for 30 minutes; one from the pool may have only a minute left,
/// so use the session soon after its start.
///
/// Specifications: driver sessions, causal consistency, snapshot sessions, transactions.
pub struct ClientSession {
    pub(super) server: ServerSession,
    context: Arc<ClientContext>,
    options: SessionOptions,
    is_implicit: bool,
    cluster_time: Option<ClusterTime>,
    operation_time: Option<Timestamp>,
    snapshot_time: Option<Timestamp>,
    pub(crate) transaction: Transaction,
}

impl ClientSession {
    /// A session that the application started.
    ///
    /// # Errors
    /// The options contradict each other.
    pub(crate) fn start(
        context: Arc<ClientContext>,
        options: SessionOptions,
        server: impl FnOnce(&ClientContext) -> ServerSession,
    ) -> Result<Self> {
        options.validate()?;
        let server = server(&context);
        Ok(Self::new(context, server, options, false))
    }

    /// The session of a single operation that has none.
    pub(crate) fn implicit(context: Arc<ClientContext>, server: ServerSession) -> Box<Self> {
        Box::new(Self::new(context, server, SessionOptions::default(), true))
    }

    fn new(
        context: Arc<ClientContext>,
        server: ServerSession,
        options: SessionOptions,
        is_implicit: bool,
    ) -> Self {
        Self {
            server,
            context,
            is_implicit,
            cluster_time: None,
            operation_time: None,
            snapshot_time: options.snapshot_time,
            transaction: Transaction::default(),
            options,
        }
    }

    /// Checks that the session belongs to this client and credential.
    pub(crate) fn check(&self, context: &Arc<ClientContext>) -> Result<()> {
        match Arc::ptr_eq(&self.context, context) {
            true => Ok(()),
            false => Err(Error::configuration(
                "the session was started with another client or another credential",
            )),
        }
    }

    /// Binds the transaction to this client and principal with its first command.
    ///
    /// # Errors
    /// It is bound to others.
    pub(crate) fn bind_transaction(
        &mut self,
        context: &Arc<ClientContext>,
        principal: Option<&Arc<str>>,
    ) -> Result<()> {
        match self.check(context).is_ok() && self.transaction.bind(principal) {
            true => Ok(()),
            false => Err(self.of_former_user()),
        }
    }

    /// The error of a transaction whose user the credential no longer names. Unless a commit was
    /// sent, nothing of it is left, and all of it can be run again.
    pub(crate) fn of_former_user(&self) -> Error {
        let is_committed = matches!(self.transaction.state, TransactionState::Committed { .. });
        match is_committed && self.transaction.open.is_none() {
            true => Error::configuration(
                "the credential was rotated to another user, who can't repeat the commit: its result \
                 is unknown",
            ),
            false => Error::configuration(
                "the credential was rotated to another user during the transaction: run it again",
            )
            .with_label(TRANSIENT_TRANSACTION_ERROR),
        }
    }

    /// Goes on with another client, and a server session of its own, without a transaction.
    pub(crate) fn renew(&mut self, context: Arc<ClientContext>, server: ServerSession) {
        (self.context, self.server) = (context, server);
        self.transaction = Transaction::default();
    }

    /// Checks that the transaction is not pinned to another server.
    pub(crate) fn check_server(&self, server: &ServerAddress) -> Result<()> {
        match self.pinned_server().filter(|pinned| *pinned != server) {
            Some(pinned) => {
                let text = format!(
                    "the transaction runs on {pinned}: use a connection to that server, or the pools"
                );
                Err(Error::configuration(text).at(server))
            }
            None => Ok(()),
        }
    }

    /// An operation begins. Returns whether it is part of a transaction.
    ///
    /// # Errors
    /// It is unacknowledged.
    pub(crate) fn enter(&mut self, request: &Request) -> Result<bool> {
        if request.ending.is_some() {
            return Ok(false);
        }
        let is_within = self.transaction.enter();
        match !is_within && request.is_unacknowledged(&self.context.defaults) {
            true => Err(Error::configuration(
                "an unacknowledged write can't use a session: the write concern has w=0",
            )),
            false => Ok(is_within),
        }
    }

    /// The session's id, the value of `lsid`: `{id: UUID}`.
    pub fn id(&self) -> &RawDocument {
        &self.server.id
    }

    /// The options that it was started with.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// The newest cluster time that the session has seen.
    pub fn cluster_time(&self) -> Option<&ClusterTime> {
        self.cluster_time.as_ref()
    }

    /// Takes a `$clusterTime` of another session, if it is newer. It does not advance the client's.
    pub fn advance_cluster_time(&mut self, cluster_time: &RawDocument) {
        let known = self.cluster_time.as_ref().map(ClusterTime::timestamp);
        if let Some(newer) = ClusterTime::newer(cluster_time, known) {
            self.cluster_time = Some(newer);
        }
    }

    /// The time of the session's last operation.
    pub fn operation_time(&self) -> Option<Timestamp> {
        self.operation_time
    }

    /// Takes the operation time of another session, if it is newer: later reads see what that
    /// session had seen.
    pub fn advance_operation_time(&mut self, operation_time: Timestamp) {
        if is_later(operation_time, self.operation_time) {
            self.operation_time = Some(operation_time);
        }
    }

    /// The point in time of a snapshot session, once it is known.
    pub fn snapshot_time(&self) -> Option<Timestamp> {
        self.snapshot_time
    }

    /// The number of the last transaction or retryable write.
    pub fn txn_number(&self) -> i64 {
        self.server.txn_number
    }

    /// Whether the server session is discarded at the end, because a command on it failed with a
    /// network error or was cancelled.
    pub fn is_dirty(&self) -> bool {
        self.server.is_dirty()
    }

    /// The state of the transaction.
    pub fn transaction_state(&self) -> TransactionState {
        self.transaction.state
    }

    /// Whether a transaction was started, and neither committed nor aborted.
    pub fn is_in_transaction(&self) -> bool {
        self.transaction.is_active()
    }

    /// The mongos that the transaction is pinned to.
    pub fn pinned_server(&self) -> Option<&ServerAddress> {
        self.transaction.pinned.as_ref()
    }

    /// Starts a transaction; its first command starts it on the server. Options that are not set
    /// come from the session's defaults, and then from the connection string.
    ///
    /// A command that fails in a transaction may abort it on the server; the commit then fails with
    /// `NoSuchTransaction`.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration): there is a transaction already;
    /// the session is a snapshot session; the write concern is unacknowledged.
    pub fn start_transaction(&mut self, options: TransactionOptions) -> Result<()> {
        if self.options.snapshot {
            let text = "transactions are not supported in snapshot sessions";
            return Err(Error::configuration(text));
        }
        let options = options
            .or(&self.options.default_transaction)
            .or_client(&self.context.defaults);
        self.transaction.start(options)?;
        self.server.next_number();
        Ok(())
    }

    pub(super) fn is_causal(&self) -> bool {
        !self.is_implicit
            && self
                .options
                .causal_consistency
                .unwrap_or(!self.options.snapshot)
    }

    /// The abort of the transaction that the server may still have open. Moves the session out; what
    /// is left is not returned to the pool.
    pub(crate) fn leave(&mut self) -> Option<Leftover> {
        // That of a leftover is not tried again.
        self.transaction.open.filter(|_| !self.is_implicit)?;
        let mut server = ServerSession::new([0; 16], self.server.last_use);
        server.mark_dirty();
        let mut session = Self::implicit(self.context.clone(), server);
        std::mem::swap(self, &mut session);
        session.is_implicit = true;
        Some(Leftover {
            request: Request::end_transaction(Ending::Abort),
            server: None,
            session: Some(session),
        })
    }

    /// A command with the session's id is about to be sent.
    pub(crate) fn sending(&mut self, now: Instant, ending: Option<Ending>) {
        self.server.last_use = now;
        // The previous command was cancelled, and may still run.
        self.server.is_dirty |= self.server.is_in_flight;
        self.server.is_in_flight = true;
        if ending == Some(Ending::Commit) {
            // Nothing may abort what may have been committed.
            self.transaction.open = None;
        }
    }

    /// The reply arrived.
    pub(crate) fn received(&mut self, reply: &RawDocument, ending: Option<Ending>) {
        self.server.is_in_flight = false;
        self.observe(reply);
        if ending == Some(Ending::Abort) {
            self.transaction.open = None;
        }
    }

    /// The command failed without a reply. With a network error, the session is dirty.
    pub(crate) fn failed(&mut self, is_lost: bool) {
        self.server.is_in_flight = false;
        if is_lost {
            self.server.mark_dirty();
        }
    }

    /// Where its transaction stands, for [`rewind`](Self::rewind).
    pub(crate) fn point(&self) -> Point {
        self.transaction.point()
    }

    /// The last command had no effect: it was not sent, or an overloaded server refused it.
    pub(crate) fn rewind(&mut self, to: Point) {
        self.transaction.rewind(to);
    }

    /// Takes the times of a reply, and a transaction's recovery token.
    pub(super) fn observe(&mut self, reply: &RawDocument) {
        if self.is_implicit {
            return;
        }
        for element in reply.iter_elements().map_while(Result::ok) {
            let name = element.key().as_str();
            match (name, element.value()) {
                ("$clusterTime", Ok(RawBsonRef::Document(time))) => self.advance_cluster_time(time),
                ("operationTime", Ok(RawBsonRef::Timestamp(time))) => {
                    self.advance_operation_time(time);
                }
                ("atClusterTime", Ok(RawBsonRef::Timestamp(time))) => self.keep_snapshot(time),
                ("cursor", Ok(RawBsonRef::Document(cursor))) => {
                    if let Ok(time) = cursor.get_timestamp("atClusterTime") {
                        self.keep_snapshot(time);
                    }
                }
                ("recoveryToken", Ok(RawBsonRef::Document(token))) => {
                    self.transaction.keep_token(token);
                }
                _ => {}
            }
        }
    }

    fn keep_snapshot(&mut self, time: Timestamp) {
        if self.options.snapshot {
            self.snapshot_time.get_or_insert(time);
        }
    }
}

impl Drop for ClientSession {
    fn drop(&mut self) {
        if let Some(leftover) = self.leave() {
            self.context.leave(leftover);
        }
        // Its transaction may still be open on the server.
        self.server.is_dirty |= self.transaction.open.is_some();
        self.context.return_session(self.server.clone());
    }
}

impl fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSession")
            .field("id", &self.server.id)
            .field("transaction", &self.transaction.state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
