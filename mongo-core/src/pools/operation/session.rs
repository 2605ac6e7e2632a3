//! Sessions over pools.

use std::fmt;
use std::ops::{Deref, DerefMut};

use tracing::Span;

use crate::error::Result;
use crate::event::logs;
use crate::net::Limits;
use crate::operation::{ClientSession, TransactionOptions};
use crate::pools::guard::Pinned;
use crate::pools::{Backend, Pools};

/// A session of [`Pools`]: a [`ClientSession`], to which it dereferences, that ends its transactions
/// itself.
///
/// A transaction that the server may have open is aborted in the background once its session is
/// dropped: also after an end that failed or was cancelled, unless a commit was sent. Up to 10,000
/// dropped transactions and cursors wait for that, for 10 s at most; the server ends the others
/// (`transactionLifetimeLimitSeconds`, 60 s).
///
/// # Transactions
/// [`start_transaction`](ClientSession::start_transaction) begins one, and its commands are those
/// with this session. In a sharded cluster they go to one `mongos`, and behind a load balancer over
/// one connection, which stays checked out until the transaction is aborted, a new operation begins
/// after its commit, or the session ends.
pub struct Session<B: Backend> {
    pub(super) state: ClientSession,
    pools: Pools<B>,
    /// The transaction's connection, behind a load balancer.
    pub(super) connection: Pinned<B>,
    /// The span of the transaction.
    pub(super) span: Span,
    /// The time limit of the `with_transaction` in progress, if it has one.
    pub(super) within: Option<Limits>,
}

impl<B: Backend> Session<B> {
    pub(super) fn new(pools: Pools<B>, state: ClientSession) -> Self {
        Self {
            state,
            pools,
            connection: None,
            span: Span::none(),
            within: None,
        }
    }

    /// The pools that it was started with.
    pub fn pools(&self) -> &Pools<B> {
        &self.pools
    }

    /// Whether the transaction is pinned to a mongos or to a connection.
    pub fn is_pinned(&self) -> bool {
        self.connection.is_some() || self.state.pinned_server().is_some()
    }

    pub(super) fn unpin(&mut self) {
        self.state.transaction.unpin();
        self.connection = None;
    }

    /// Starts a transaction: see [`ClientSession::start_transaction`].
    ///
    /// # Errors
    /// As there.
    pub fn start_transaction(&mut self, options: TransactionOptions) -> Result<()> {
        self.state.start_transaction(options)?;
        self.connection = None;
        self.span = logs::transaction_span();
        Ok(())
    }
}

impl<B: Backend> Drop for Session<B> {
    fn drop(&mut self) {
        // Without a connection the state leaves it by itself.
        if let Some(connection) = self.connection.take()
            && let Some(leftover) = self.state.leave()
        {
            self.pools.leave(leftover, Some(connection));
        }
    }
}

impl<B: Backend> Deref for Session<B> {
    type Target = ClientSession;

    fn deref(&self) -> &ClientSession {
        &self.state
    }
}

impl<B: Backend> DerefMut for Session<B> {
    fn deref_mut(&mut self) -> &mut ClientSession {
        &mut self.state
    }
}

impl<B: Backend> fmt::Debug for Session<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("state", &self.state)
            .field("is_pinned", &self.is_pinned())
            .finish_non_exhaustive()
    }
}
