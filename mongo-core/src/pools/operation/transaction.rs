//! Transactions over pools.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;

use super::run::{Owner, Run};
use super::session::Session;
use crate::error::{Error, Result};
use crate::net::{Limits, jitter, wait};
use crate::operation::{
    Ending, Request, TRANSIENT_TRANSACTION_ERROR, TransactionOptions, UNKNOWN_COMMIT_RESULT,
    is_time_limit, is_unpinned, timed_out, transaction_backoff,
};
use crate::pools::Backend;

/// The time of `with_transaction` without a limit.
const WITH_TRANSACTION: Duration = Duration::from_secs(120);

/// A longer limit is as good as none, and might be past the last moment of the clock: a year.
const LONGEST_LIMIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl<B: Backend> Session<B> {
    /// Commits the transaction, and tries again once after an error that allows it. A transaction
    /// without a command is committed without one. The state is committed afterwards, even on an
    /// error. May be called again, which waits for a majority.
    ///
    /// # Errors
    /// There is no transaction, or it was aborted; the command failed, or its write concern. With
    /// the label `UnknownTransactionCommitResult`, call it again; with `TransientTransactionError`,
    /// run the whole transaction again.
    ///
    /// # Cancellation
    /// Call it again: the state is committed. If its command was not sent, the transaction is aborted
    /// when the session is dropped.
    pub async fn commit_transaction(&mut self) -> Result<()> {
        self.end_transaction(Ending::Commit, None).await
    }

    /// [`commit_transaction`](Self::commit_transaction) with a time limit (`timeoutMS`).
    ///
    /// # Errors
    /// As there.
    pub async fn commit_transaction_by(&mut self, timeout: Duration) -> Result<()> {
        self.end_transaction(Ending::Commit, Some(timeout)).await
    }

    /// Aborts the transaction. Errors of the command are ignored: the transaction is aborted again
    /// when the session is dropped. Within [`with_transaction`](Self::with_transaction) its time limit
    /// counts anew.
    ///
    /// # Errors
    /// There is no transaction, or it has ended.
    ///
    /// # Cancellation
    /// The state is aborted. If its command was not answered, the transaction is aborted again when
    /// the session is dropped.
    pub async fn abort_transaction(&mut self) -> Result<()> {
        self.end_transaction(Ending::Abort, None).await
    }

    /// [`abort_transaction`](Self::abort_transaction) with a time limit (`timeoutMS`).
    ///
    /// # Errors
    /// As there.
    pub async fn abort_transaction_by(&mut self, timeout: Duration) -> Result<()> {
        self.end_transaction(Ending::Abort, Some(timeout)).await
    }

    async fn end_transaction(&mut self, ending: Ending, timeout: Option<Duration>) -> Result<()> {
        let outcome = self.send_end(ending, timeout).await;
        if !self.state.is_in_transaction() {
            self.span = Span::none();
        }
        outcome
    }

    async fn send_end(&mut self, ending: Ending, timeout: Option<Duration>) -> Result<()> {
        // Before the state changes: a transaction that is not ended on the server has not ended.
        if timeout.is_some() && self.within.is_some() {
            return Err(Error::configuration(
                "a time limit of an operation can't override that of with_transaction",
            ));
        }
        if !self.state.transaction.end(ending)? {
            if ending == Ending::Abort {
                self.unpin();
            }
            return Ok(());
        }
        let mut request = Request::end_transaction(ending);
        // Within `with_transaction` its limit counts.
        let own = self.state.options().default_timeout;
        let own = own.filter(|_| self.within.is_none());
        request.timeout = timeout.or(own);
        let pools = self.pools().clone();
        let mut owner = Owner::Explicit(self);
        let outcome = match Run::new(&pools, &mut owner, &mut request) {
            Ok(mut run) => run.run().await,
            Err(error) => Err(error),
        };
        match ending {
            Ending::Abort => {
                self.unpin();
                Ok(())
            }
            Ending::Commit => {
                let outcome = outcome?.reply.check_write();
                let outcome = self.state.transaction.committed(outcome);
                outcome.inspect_err(|error| {
                    if is_unpinned(error, Some(ending)) {
                        self.connection = None;
                    }
                })
            }
        }
    }

    /// Runs a transaction: starts it, calls the function, and commits. If the function or the commit
    /// fails with the label `TransientTransactionError`, all of it is done again after a short pause;
    /// a commit with the label `UnknownTransactionCommitResult` alone is repeated. This ends after
    /// 120 s, or the session's or the client's time limit (`timeoutMS`).
    ///
    /// The function may be called several times: what it does outside of the transaction is repeated.
    /// It must return the errors of its commands, because they may have aborted the transaction. To
    /// end it with another result, it can abort the transaction itself and return that as a value. If
    /// it commits the transaction itself, it must not fail afterwards: after an error with the label
    /// it is run again.
    ///
    /// # Errors
    /// The error of the function or of the commit. Once the time is over,
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout), with that error as its cause.
    ///
    /// The future of an async closure is not known to be `Send` where it is spawned: there, use
    /// [`with_boxed_transaction`](Self::with_boxed_transaction).
    ///
    /// Specification: convenient API for transactions.
    pub async fn with_transaction<T, F>(
        &mut self,
        options: TransactionOptions,
        function: F,
    ) -> Result<T>
    where
        F: AsyncFnMut(&mut Session<B>) -> Result<T>,
    {
        self.run_transaction(None, options, function).await
    }

    /// [`with_transaction`](Self::with_transaction) with a time limit (`timeoutMS`) for all of it.
    /// Operations of the function must not have limits of their own.
    ///
    /// # Errors
    /// As there.
    pub async fn with_transaction_by<T, F>(
        &mut self,
        timeout: Duration,
        options: TransactionOptions,
        function: F,
    ) -> Result<T>
    where
        F: AsyncFnMut(&mut Session<B>) -> Result<T>,
    {
        self.run_transaction(Some(timeout), options, function).await
    }

    /// [`with_transaction`](Self::with_transaction) with a function that returns a boxed future, and
    /// a context for it in place of captured borrows. Unlike that of an async closure, its future is
    /// known to be `Send`: for `tokio::spawn`, and handlers of web frameworks.
    ///
    /// # Errors
    /// As there.
    pub async fn with_boxed_transaction<T, C, F>(
        &mut self,
        options: TransactionOptions,
        mut context: C,
        mut function: F,
    ) -> Result<T>
    where
        C: Send,
        F: for<'s> FnMut(&'s mut Session<B>, &'s mut C) -> TransactionFuture<'s, T> + Send,
    {
        let mut runs = Runs::begin(self, None);
        loop {
            runs.start(&options)?;
            let outcome = function(runs.session, &mut context).await;
            if let Some(outcome) = runs.settle(outcome).await {
                return outcome;
            }
        }
    }

    async fn run_transaction<T, F>(
        &mut self,
        timeout: Option<Duration>,
        options: TransactionOptions,
        mut function: F,
    ) -> Result<T>
    where
        F: AsyncFnMut(&mut Session<B>) -> Result<T>,
    {
        let mut runs = Runs::begin(self, timeout);
        loop {
            runs.start(&options)?;
            let outcome = function(runs.session).await;
            if let Some(outcome) = runs.settle(outcome).await {
                return outcome;
            }
        }
    }

    /// Ends the session, and aborts an open transaction first. A drop leaves that to the background.
    pub async fn end(mut self) {
        if self.state.is_in_transaction() {
            let _ = self.abort_transaction().await;
        }
    }
}

/// The runs of one transaction.
struct Runs<'a, B: Backend> {
    session: &'a mut Session<B>,
    /// The limit of an outer `with_transaction`, within which this one fails.
    outer: Option<Limits>,
    begun: Instant,
    end: Instant,
    count: u32,
}

impl<'a, B: Backend> Runs<'a, B> {
    fn begin(session: &'a mut Session<B>, timeout: Option<Duration>) -> Self {
        let client = session.pools().client().defaults.timeout;
        let timeout = timeout.or(session.state.options().default_timeout);
        let limit = timeout.or(client).filter(|limit| !limit.is_zero());
        let limit = limit.map(|limit| limit.min(LONGEST_LIMIT));
        let limits = limit.map(|limit| Limits::new(Some(limit)));
        let outer = std::mem::replace(&mut session.within, limits);
        let begun = Instant::now();
        Self {
            session,
            outer,
            begun,
            end: begun + limit.unwrap_or(WITH_TRANSACTION),
            count: 0,
        }
    }

    fn start(&mut self, options: &TransactionOptions) -> Result<()> {
        self.count += 1;
        self.session.start_transaction(options.clone())
    }

    /// Ends one run of a transaction. Returns the outcome of all, or `None` to run it again.
    async fn settle<T>(&mut self, outcome: Result<T>) -> Option<Result<T>> {
        let error = match outcome {
            Err(error) => {
                if self.session.state.is_in_transaction() {
                    let _ = self.session.abort_transaction().await;
                }
                error
            }
            Ok(value) if !self.session.state.is_in_transaction() => return Some(Ok(value)),
            Ok(value) => match self.commit().await {
                Ok(()) => return Some(Ok(value)),
                Err(error) => error,
            },
        };
        if !error.has_label(TRANSIENT_TRANSACTION_ERROR) {
            return Some(Err(error));
        }
        match self.pause(self.count).await {
            true => None,
            false => Some(Err(timed_out(error, self.begun.elapsed()))),
        }
    }

    /// Pauses before the next attempt, if there is time for it.
    async fn pause(&mut self, attempt: u32) -> bool {
        let random = self.session.pools().topology().shared().random();
        let pause = transaction_backoff(attempt, jitter(random));
        let has_time = Instant::now() + pause < self.end;
        if has_time {
            wait(pause).await;
        }
        has_time
    }

    /// Commits, again while the result is unknown.
    async fn commit(&mut self) -> Result<()> {
        let mut attempt = 0;
        loop {
            let Err(error) = self.session.commit_transaction().await else {
                return Ok(());
            };
            let is_unknown = error.has_label(UNKNOWN_COMMIT_RESULT) && !is_server_limit(&error);
            if !is_unknown {
                return Err(error);
            }
            // Within a time limit, a time-out means that too little of it is left for a round trip.
            let is_over = self.session.within.is_some() && error.is_timeout();
            attempt += 1;
            // A commit may fail at once, without any server: that must not keep the thread busy.
            if is_over || !self.pause(attempt).await {
                let error = timed_out(error, self.begun.elapsed());
                // The transaction may have been committed: it is not run again.
                return Err(error.without_label(TRANSIENT_TRANSACTION_ERROR));
            }
        }
    }
}

/// Its time limit is over with it, also if it is dropped.
impl<B: Backend> Drop for Runs<'_, B> {
    fn drop(&mut self) {
        self.session.within = self.outer;
    }
}

/// The future of a function for [`Session::with_boxed_transaction`].
pub type TransactionFuture<'s, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 's>>;

/// Whether the server's own limit (`maxTimeMS`) ended the commit.
fn is_server_limit(error: &Error) -> bool {
    is_time_limit(error) || error.cause().is_some_and(is_time_limit)
}
