//! Check-outs: from a criterion to a connection.

use std::pin::Pin;

use tokio::time::Instant;
use tracing::Instrument;

use super::{Pools, Registry};
use crate::ServerAddress;
use crate::error::{Error, ErrorKind, Result, Wait};
use crate::event::logs;
use crate::event::logs::CheckOutSpan;
use crate::net::{Deadline, SelectedServer};
use crate::operation::Request;
use crate::pools::follow::pause;
use crate::pools::pool::PoolState;
use crate::pools::{Backend, PooledConnection, ServerPool};
use crate::select::Criterion;

/// The most selections of one check-out.
const MAX_SELECTIONS: u32 = 32;

impl<B: Backend> Pools<B> {
    /// Selects a server and checks out a connection to it, within the configured wait time-out
    /// (`timeoutMS`, else `waitQueueTimeoutMS`, else 30 s): an idle one that passes its check, or a
    /// new one. Within that, server selection is bounded by `serverSelectionTimeoutMS` (30 s), and
    /// making a connection by `connectTimeoutMS` (10 s).
    ///
    /// If the server or its pool goes away before there is a connection, it selects again, up to 32
    /// times: nothing has been sent by then. After the last time, it fails with the error of that
    /// pool. [`get_by`](Self::get_by) selects once.
    ///
    /// # Errors
    /// - [`ErrorKind::ServerSelection`]: no server is suitable; names the last failure of each
    ///   server.
    /// - [`ErrorKind::Timeout`]: names the wait; the cause is [`ErrorKind::PoolExhausted`], or the
    ///   last failure during the wait.
    /// - [`ErrorKind::Authentication`], [`ErrorKind::Connect`], … from making a connection, at
    ///   once. Failures that a busy server may cause have the labels `SystemOverloadedError` and
    ///   `RetryableError`.
    /// - [`ErrorKind::PoolClosed`]: these pools were closed, or the credential was logged out.
    /// - [`ErrorKind::PoolCleared`]: the servers of 32 selections went away.
    /// - [`ErrorKind::Srv`]: the records of `mongodb+srv` could not be looked up.
    /// - [`ErrorKind::Configuration`]: it is polled outside of a Tokio runtime, or within one that
    ///   lacks the timer or the I/O driver that it needs.
    ///
    /// # Cancellation
    /// May be dropped at any time: its slot or connection is free at once.
    pub async fn get_with(&self, criterion: &Criterion) -> Result<PooledConnection<B>> {
        match self.begin(criterion) {
            Ok(connection) => Ok(connection),
            Err(choice) => {
                let deadline = Deadline::after(self.registry().wait_timeout);
                let wanted = Wanted {
                    criterion,
                    deprioritized: &[],
                    selections: MAX_SELECTIONS,
                    operation: None,
                };
                self.look_for(deadline, wanted, choice).await
            }
        }
    }

    /// [`get_with`](Self::get_with) with a deadline of the caller, and with servers to avoid: those
    /// on which this operation failed before. For callers that retry by themselves: it selects
    /// once, and fails as the specifications say if the server goes away.
    ///
    /// # Errors
    /// See [`get_with`](Self::get_with); and [`ErrorKind::PoolCleared`]: the server, which the
    /// error names, went away. If [`Error::is_retryable_read`] or [`Error::is_retryable_write`] is
    /// true, try again with that server in `deprioritized`.
    pub async fn get_by(
        &self,
        deadline: impl Into<Deadline>,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> Result<PooledConnection<B>> {
        let wanted = Wanted {
            criterion,
            deprioritized,
            selections: 1,
            operation: None,
        };
        self.check_out(|| deadline.into(), wanted).await
    }

    /// A check-out with a limit on selections. `deadline` is called if it waits.
    pub(in crate::pools) async fn check_out(
        &self,
        deadline: impl FnOnce() -> Deadline,
        wanted: Wanted<'_>,
    ) -> Result<PooledConnection<B>> {
        let choice = match wanted.deprioritized {
            [] => match self.begin(wanted.criterion) {
                Ok(connection) => return Ok(connection),
                Err(choice) => choice,
            },
            _ => None,
        };
        self.look_for(deadline(), wanted, choice).await
    }

    /// Checks out an idle connection to a known server, without waiting. `None` if that would need
    /// a wait, or if a handler or a subscriber observes the steps of check-outs. May be called from
    /// anywhere.
    pub fn try_get_with(&self, criterion: &Criterion) -> Option<PooledConnection<B>> {
        self.begin(criterion).ok()
    }

    /// The part of a check-out that does not wait. Fails with the pool to wait for, if there is
    /// one. If the steps of check-outs are observed, it neither selects a server nor tries a pool.
    #[inline]
    fn begin(&self, criterion: &Criterion) -> Result<PooledConnection<B>, Option<Choice<B>>> {
        if logs::wants_spans() {
            return Err(None);
        }
        let topology = self.registry().topology.shared();
        let begun = topology.select_quietly(criterion, |index, entry| {
            let operation = entry.begin_operation();
            self.tenant.with_pool(entry.id(), |pool| {
                if pool.is_watched() {
                    return Err(None);
                }
                match pool.try_get() {
                    Some(mut connection) => {
                        connection.count(operation, criterion.is_write());
                        Ok(connection)
                    }
                    None => Err(Some(Choice {
                        selected: SelectedServer::of(index, entry, operation),
                        pool: pool.clone(),
                        is_tried: true,
                    })),
                }
            })
        });
        begun.flatten().unwrap_or(Err(None))
    }

    /// [`find`](Self::find), in a span if a subscriber wants one. The type is erased: spawned from
    /// deep within an application's futures, it would reach the compiler's recursion limit.
    fn look_for<'a>(
        &'a self,
        deadline: Deadline,
        wanted: Wanted<'a>,
        choice: Option<Choice<B>>,
    ) -> Pin<Box<dyn Future<Output = Result<PooledConnection<B>>> + Send + 'a>> {
        match logs::wants_spans() {
            false => Box::pin(self.find(deadline, wanted, choice)),
            true => Box::pin(traced(self.find(deadline, wanted, choice))),
        }
    }

    // Awaited futures borrow from this one, and rare ones are boxed, to keep it small: every
    // waiting caller has one.
    async fn find(
        &self,
        deadline: Deadline,
        wanted: Wanted<'_>,
        mut choice: Option<Choice<B>>,
    ) -> Result<PooledConnection<B>> {
        if choice.is_some() {
            // Monitors may have ended with their runtime, even though their server is known.
            self.registry().connect()?;
        }
        let mut cause = None;
        let mut rounds = u32::from(choice.is_some());
        loop {
            let Some(chosen) = &choice else {
                match Box::pin(self.choose(rounds, deadline, wanted)).await {
                    Ok(chosen) => choice = Some(chosen),
                    Err(error)
                        if matches!(error.kind(), ErrorKind::PoolCleared)
                            && rounds + 1 < wanted.selections =>
                    {
                        cause = Some(self.unless_over(&deadline, error)?);
                    }
                    Err(error) => return Err(self.name(because(error, &cause))),
                }
                rounds = rounds.saturating_add(1);
                continue;
            };
            let took = self.take(chosen, &wanted, &deadline).await;
            let Some(Choice { selected, pool, .. }) = choice.take() else {
                continue;
            };
            match took {
                Ok(Some(mut connection)) => {
                    connection.count(selected.into_operation(), wanted.criterion.is_write());
                    return Ok(connection);
                }
                // Its server is no longer suitable.
                Ok(None) if rounds < wanted.selections => {}
                Ok(None) => return Err(because(pool.shared().unsuitable(), &cause)),
                Err(error) if !self.selects_again(&pool, &error) => {
                    return Err(because(error, &cause));
                }
                Err(error) if rounds < wanted.selections => {
                    cause = Some(self.unless_over(&deadline, error)?);
                }
                // Only that pool was closed: its server has left, or its credential was rotated.
                Err(error) if matches!(error.kind(), ErrorKind::PoolClosed) => {
                    return Err(because(pool.shared().unsuitable(), &cause));
                }
                Err(error) => return Err(because(error, &cause)),
            }
        }
    }

    /// Returns the error, as the reason to select again; fails if the deadline has passed.
    fn unless_over(&self, deadline: &Deadline, error: Error) -> Result<Error> {
        if !deadline.is_over() {
            return Ok(error);
        }
        let timed_out = Error::timeout(Wait::WaitQueue, deadline.elapsed());
        Err(self.name(timed_out).caused_by(Some(error)))
    }

    /// Selects a server and finds its pool, after a pause that depends on the fruitless rounds so
    /// far.
    async fn choose(
        &self,
        rounds: u32,
        deadline: Deadline,
        wanted: Wanted<'_>,
    ) -> Result<Choice<B>> {
        pause(rounds, deadline).await;
        let registry = self.registry();
        registry.connect()?;
        let selected = self.select(deadline, wanted).await?;
        Ok(Choice {
            pool: registry.pool(&self.tenant, selected.entry())?,
            selected,
            is_tried: false,
        })
    }

    /// Makes a connection to a selected server, for the next check-out. Returns false if the pool
    /// may make none now, or the server is no longer available.
    pub(super) async fn make_one(&self, deadline: Deadline, criterion: &Criterion) -> Result<bool> {
        let wanted = Wanted {
            criterion,
            deprioritized: &[],
            selections: 1,
            operation: None,
        };
        let pool = match self.choose(0, deadline, wanted).await {
            Ok(choice) => choice.pool,
            Err(error) if matches!(error.kind(), ErrorKind::PoolCleared) => return Ok(false),
            Err(error) => return Err(self.name(error)),
        };
        let Some(outcome) = pool.shared().begin_in_advance(u32::MAX) else {
            return Ok(false);
        };
        match deadline.bound(outcome).await {
            Ok(Ok(Ok(()))) => Ok(true),
            Ok(Ok(Err(error))) if !self.selects_again(&pool, &error) => Err(error),
            Ok(_) => Ok(false),
            Err(_) => {
                let timed_out = Error::timeout(Wait::Connect, deadline.elapsed());
                Err(self.name(timed_out.at(pool.server())))
            }
        }
    }

    /// Waits for a connection of the chosen pool; `None` if its server is no longer suitable.
    async fn take(
        &self,
        choice: &Choice<B>,
        wanted: &Wanted<'_>,
        deadline: &Deadline,
    ) -> Result<Option<PooledConnection<B>>> {
        let suits = || self.registry().suits(&choice.selected, *wanted);
        let got = choice
            .pool
            .get_while(deadline, choice.is_tried, &suits)
            .await?;
        Ok(got.filter(|_| suits()))
    }

    /// Whether to select again after an error of a check-out: for another server, or for this one
    /// once it is back. All other errors go to the caller at once.
    fn selects_again(&self, pool: &ServerPool<B>, error: &Error) -> bool {
        match error.kind() {
            // Its pool was replaced: the credential was rotated, the server came back, or only this
            // pool was closed.
            ErrorKind::PoolClosed => {
                self.registry().check_open().is_ok() && self.tenant.check().is_ok()
            }
            ErrorKind::PoolCleared => true,
            ErrorKind::Connect(_)
            | ErrorKind::Network(_)
            | ErrorKind::Timeout {
                wait: Wait::Dns | Wait::Connect | Wait::Handshake | Wait::Authentication,
                ..
            } => pool.shared().state() == PoolState::Paused,
            _ => false,
        }
    }

    pub(super) async fn select(
        &self,
        deadline: Deadline,
        wanted: Wanted<'_>,
    ) -> Result<SelectedServer> {
        let registry = self.registry();
        let deadline = deadline.round(Some(registry.options.server_selection_timeout));
        // Created before the checks, so that no notification is missed, even if they are polled
        // later.
        let closed = registry.closed.notified();
        let left = self.tenant.left();
        registry.check_open()?;
        self.tenant.check()?;
        let selected = registry.topology.select_for(
            deadline,
            wanted.criterion,
            wanted.deprioritized,
            wanted.operation.map(|own| (own.name(), own.id)),
        );
        // All are safe to drop.
        let selected = tokio::select! {
            biased;
            selected = selected => selected,
            () = closed => return Err(ErrorKind::PoolClosed.into()),
            () = left => return Err(ErrorKind::PoolClosed.into()),
        };
        selected.map_err(|error| match error.kind() {
            ErrorKind::TopologyClosed if registry.check_open().is_err() => {
                ErrorKind::PoolClosed.into()
            }
            _ => error,
        })
    }

    fn name(&self, error: Error) -> Error {
        error.for_user(self.user().as_ref())
    }
}

/// A server that was selected, and its pool.
struct Choice<B: Backend> {
    selected: SelectedServer,
    pool: ServerPool<B>,
    /// Whether it was already tried for an idle connection.
    is_tried: bool,
}

/// The request of a check-out.
#[derive(Clone, Copy)]
pub(in crate::pools) struct Wanted<'a> {
    pub(in crate::pools) criterion: &'a Criterion,
    pub(in crate::pools) deprioritized: &'a [ServerAddress],
    /// The most selections.
    pub(in crate::pools) selections: u32,
    /// Its name and id are for logs.
    pub(in crate::pools) operation: Option<&'a Request>,
}

/// Runs a check-out in a span; the commands on its connection are nested in it.
async fn traced<B: Backend>(
    finding: impl Future<Output = Result<PooledConnection<B>>>,
) -> Result<PooledConnection<B>> {
    let (span, begun) = (CheckOutSpan::begin(), Instant::now());
    match finding.instrument(span.span().clone()).await {
        Ok(connection) => {
            let server_side = connection.description().connection_id;
            let ids = (connection.id(), server_side);
            span.succeeded(connection.server(), ids, begun.elapsed());
            Ok(connection.within(span))
        }
        Err(error) => {
            logs::record_failure(span.span(), &error);
            Err(error)
        }
    }
}

/// Adds an earlier failure as the cause, if the error has none.
fn because(error: Error, cause: &Option<Error>) -> Error {
    match error.cause() {
        Some(_) => error,
        None => error.caused_by(cause.clone()),
    }
}

impl<B: Backend> Registry<B> {
    /// Whether a server that was selected is still suitable.
    fn suits(&self, selected: &SelectedServer, wanted: Wanted<'_>) -> bool {
        let topology = self.topology.shared();
        topology.is_suitable(selected, wanted.criterion, wanted.deprioritized)
    }
}
