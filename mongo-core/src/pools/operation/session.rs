//! Sessions over pools.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use tracing::Span;

use crate::error::Result;
use crate::event::logs;
use crate::net::Limits;
use crate::operation::{ClientContext, ClientSession, Request, TransactionOptions};
use crate::pools::guard::Pinned;
use crate::pools::{Backend, Pools};

/// A session of [`Pools`]: a [`ClientSession`], to which it dereferences, that ends its transactions
/// itself.
///
/// A transaction that the server may have open is aborted in the background once its session is
/// dropped: also after an end that failed or was cancelled, unless a commit was sent. Up to 10,000
/// dropped transactions and cursors wait for that, for 10 s at most; the server ends the others
/// (`transactionLifetimeLimitSeconds`, 60 s). The abort needs a connection of the pool. Where
/// commands that wait for the transaction's locks hold all of them, the server ends it: end a
/// transaction by [`abort_transaction`](Self::abort_transaction) where the pool is small.
///
/// # Transactions
/// [`start_transaction`](ClientSession::start_transaction) begins one, and its commands are those
/// with this session. In a sharded cluster they go to one `mongos`, and behind a load balancer over
/// one connection, which stays checked out until the transaction is aborted, a new operation begins
/// after its commit, or the session ends.
///
/// # Rotation
/// After a [rotation](Pools::rotate) to another user, or a change of a credential provider's user, a
/// command or the commit of a transaction that the former one began fails before it is sent. The
/// error has the label `TransientTransactionError`, so that `with_transaction` runs it again as the
/// new user; a commit that was sent before has none, and an unknown result. Behind a load balancer
/// the transaction goes on over its connection, as the former user. Between transactions the session
/// goes on as the new user. Its cursors can't. A rotation to another secret of the same user changes
/// nothing.
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

    /// Checks that it can run an operation of these pools. Where it stands between transactions, it
    /// follows a rotation of their credential to another user.
    pub(super) fn check(
        &mut self,
        pools: &Pools<B>,
        client: &Arc<ClientContext>,
        request: &Request,
    ) -> Result<()> {
        let checked = self.state.check(client);
        if checked.is_ok() || !self.pools.is_same_credential(pools) {
            return checked;
        }
        if self.state.is_in_transaction() || request.ending.is_some() {
            // A connection that the transaction keeps is still the former user's.
            let kept = self.connection.as_ref();
            return match kept.is_some_and(|own| self.state.check(&own.client()).is_ok()) {
                true => Ok(()),
                false => Err(self.state.of_former_user()),
            };
        }
        // A cursor is the former user's.
        if request.is_bare {
            return checked;
        }
        self.follow_user();
        Ok(())
    }

    /// Has a server session of the credential's current user.
    fn follow_user(&mut self) {
        let client = self.pools.client();
        if self.state.check(&client).is_err() {
            self.connection = None;
            let server = self.pools.server_session(&client);
            self.state.renew(client, server);
        }
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
        if !self.state.is_in_transaction() {
            self.follow_user();
        }
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
