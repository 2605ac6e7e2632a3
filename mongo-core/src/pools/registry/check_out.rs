//! From a criterion to a connection.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::{Pools, Registry};
use crate::ServerAddress;
use crate::error::{Error, ErrorKind, Result, Wait};
use crate::logs::{self, CheckOutSpan};
use crate::net::{Deadline, SelectedServer};
use crate::pools::factory::PoolState;
use crate::pools::{Backend, PooledConnection, ServerPool};
use crate::select::{Criterion, ServerEntry};

/// The pause after a second check-out in a row that came to nothing; it doubles after each.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

impl<B: Backend> Pools<B> {
    /// Selects a server and checks out a connection to it, within the configured wait time-out
    /// (`waitQueueTimeoutMS`, else 30 s): an idle one that passes its check, or a new one. Of that,
    /// a server may be looked for for `serverSelectionTimeoutMS` (30 s) at most, and a connection
    /// be made for `connectTimeoutMS` (10 s).
    ///
    /// # Errors
    /// - [`ErrorKind::ServerSelection`]: no server suits, with each server's own last failure.
    /// - [`ErrorKind::Timeout`]: which wait it was; the cause is [`ErrorKind::PoolExhausted`], or
    ///   what kept failing meanwhile.
    /// - [`ErrorKind::Authentication`], [`ErrorKind::Connect`], … from making a connection, at
    ///   once. Failures that a busy server may be the cause of have the labels
    ///   `SystemOverloadedError` and `RetryableError`.
    /// - [`ErrorKind::PoolClosed`]: these pools were closed, or the credential logged out.
    /// - [`ErrorKind::Srv`]: `mongodb+srv` could not be looked up.
    ///
    /// # Cancellation
    /// May be dropped at any time: a slot or a connection it had gets free.
    pub async fn get_with(&self, criterion: &Criterion) -> Result<PooledConnection<B>> {
        if let Some(connection) = self.try_get_with(criterion) {
            return Ok(connection);
        }
        let deadline = Deadline::after(self.registry().wait_timeout);
        self.look_for(deadline, criterion, &[]).await
    }

    /// [`get_with`](Self::get_with) by a deadline of the caller's, and with servers to avoid: those
    /// that failed this operation before.
    ///
    /// # Errors
    /// See [`get_with`](Self::get_with).
    pub async fn get_by(
        &self,
        deadline: impl Into<Deadline>,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> Result<PooledConnection<B>> {
        if deprioritized.is_empty()
            && let Some(connection) = self.try_get_with(criterion)
        {
            return Ok(connection);
        }
        let deadline = deadline.into();
        self.look_for(deadline, criterion, deprioritized).await
    }

    /// A connection that is there, to a server that is known; `None` where anything would have to
    /// be waited for, and where somebody wants to know of each step.
    pub fn try_get_with(&self, criterion: &Criterion) -> Option<PooledConnection<B>> {
        if logs::wants_spans() {
            return None;
        }
        self.registry()
            .topology
            .shared()
            .select_quietly(criterion, |entry| {
                let operation = entry.begin_operation();
                let found = self
                    .tenant
                    .with_pool(entry.id(), |pool| match pool.is_watched() {
                        true => None,
                        false => pool.try_get(),
                    });
                let connection = found.flatten()?;
                Some(connection.counting(operation, criterion.is_write()))
            })?
    }

    /// [`find`](Self::find), in a span where anybody wants one. Of no type of its own: spawned from
    /// deep within an application's futures, it would meet the compiler's recursion limit.
    fn look_for<'a>(
        &'a self,
        deadline: Deadline,
        criterion: &'a Criterion,
        deprioritized: &'a [ServerAddress],
    ) -> Pin<Box<dyn Future<Output = Result<PooledConnection<B>>> + Send + 'a>> {
        let finding = self.find(deadline, criterion, deprioritized);
        match logs::wants_spans() {
            false => Box::pin(finding),
            true => Box::pin(traced(finding)),
        }
    }

    async fn find(
        &self,
        deadline: Deadline,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> Result<PooledConnection<B>> {
        let registry = self.registry();
        registry.connect().map_err(|error| self.name(error))?;
        let mut cause = None;
        let wanted = Wanted {
            criterion,
            deprioritized,
        };
        for round in 0_u32.. {
            pause(round, deadline).await;
            let selected = self
                .select(deadline, wanted)
                .await
                .map_err(|error| self.name(because(error, &cause)))?;
            let error = match registry.pool(&self.tenant, selected.entry()) {
                Ok(pool) => match self.take(&pool, selected, wanted, deadline).await {
                    Ok(Some(connection)) => return Ok(connection),
                    Ok(None) => continue,
                    Err(error) if self.selects_again(&pool, &error) => error,
                    Err(error) => return Err(because(error, &cause)),
                },
                Err(error) if matches!(error.kind(), ErrorKind::PoolCleared) => error,
                Err(error) => return Err(self.name(error)),
            };
            if deadline.is_over() {
                let timed_out = Error::timeout(Wait::WaitQueue, deadline.elapsed());
                return Err(self.name(timed_out).caused_by(Some(error)));
            }
            cause = Some(error);
        }
        Err(self.name(ErrorKind::PoolCleared.into()))
    }

    /// A connection of the selected server's pool; `None` if the server does not suit any more.
    async fn take(
        &self,
        pool: &ServerPool<B>,
        selected: SelectedServer,
        wanted: Wanted<'_>,
        deadline: Deadline,
    ) -> Result<Option<PooledConnection<B>>> {
        let registry = self.registry();
        let gone = registry.no_longer_suits(selected.entry(), wanted);
        let connection = match pool.get_unless(deadline, gone).await? {
            Some(connection) if registry.suits(selected.entry(), wanted) => connection,
            Some(_) | None => return Ok(None),
        };
        let operation = selected.into_operation();
        Ok(Some(
            connection.counting(operation, wanted.criterion.is_write()),
        ))
    }

    /// Whether an error of a check-out is reason to look for another server, or for this one when
    /// it is back; all others the caller gets at once.
    fn selects_again(&self, pool: &ServerPool<B>, error: &Error) -> bool {
        match error.kind() {
            // Its pool made room for another: the credential was rotated, or the server came back.
            ErrorKind::PoolClosed => {
                self.registry().check_open().is_ok() && self.tenant.check().is_ok()
            }
            ErrorKind::PoolCleared => true,
            ErrorKind::Connect(_)
            | ErrorKind::Network(_)
            | ErrorKind::Timeout {
                wait: Wait::Connect | Wait::Handshake | Wait::Authentication,
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
        let deadline = deadline.within(Some(registry.options.server_selection_timeout));
        let mut closed = pin!(registry.closed.notified());
        let mut left = pin!(self.tenant.left());
        // Before the looks, so that neither falls between.
        closed.as_mut().enable();
        left.as_mut().enable();
        registry.check_open()?;
        self.tenant.check()?;
        let selected =
            registry
                .topology
                .select_by(deadline, wanted.criterion, wanted.deprioritized);
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

/// What a check-out is for.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) criterion: &'a Criterion,
    pub(super) deprioritized: &'a [ServerAddress],
}

/// A check-out in a span, in which the commands of its connection will be.
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

/// Adds what failed before, if nothing else is known.
fn because(error: Error, cause: &Option<Error>) -> Error {
    match error.cause() {
        Some(_) => error,
        None => error.caused_by(cause.clone()),
    }
}

/// A check-out that comes to nothing again and again does not keep the processor busy.
pub(in crate::pools) async fn pause(round: u32, deadline: Deadline) {
    if let Some(doublings) = round.checked_sub(2) {
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(6));
        let _ = deadline.bound(sleep(pause)).await;
    }
}

impl<B: Backend> Registry<B> {
    /// Whether a server that was selected would be suitable still.
    fn suits(&self, entry: &Arc<ServerEntry>, wanted: Wanted<'_>) -> bool {
        let topology = self.topology.shared();
        topology.is_suitable(entry, wanted.criterion, wanted.deprioritized)
    }

    /// Ends when a server that was selected is not suitable any more.
    async fn no_longer_suits(&self, entry: &Arc<ServerEntry>, wanted: Wanted<'_>) {
        let mut changed = self.topology.subscribe();
        while self.suits(entry, wanted) {
            // Safe to drop: a change that was not seen is seen by the next look.
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}
