//! The check of an idle connection that is about to be handed out.

use std::time::Duration;

use bson::rawdoc;
use tokio::time::Instant;

use crate::error::{ClosedReason, Error, ErrorKind, Result, Wait};
use crate::net::{Connection, Deadline};
use crate::pools::pool::PoolInner;
use crate::pools::{PoolState, RecyclingMethod};
use crate::wire::Readiness;

/// The time for all pings of suspect connections in one check-out; or `connectTimeoutMS`, if that
/// is less.
const SUSPECT_BOUND: Duration = Duration::from_secs(1);

/// The time for the checks of one check-out, over all connections that it checks.
///
/// Idle connections with an outstanding reply share the `drain_timeout`. Suspect ones (after a
/// command has timed out on another) share 1 s, or `connectTimeoutMS` if that is less. Once such a
/// time is over, further connections of that kind are closed at once, unless the reply has already
/// arrived: a new connection takes less time.
///
/// For adapters: create one for each check-out, and pass it to every
/// [`recycle`](crate::pools::factory::ConnectionFactory::recycle) of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckBudget {
    /// The end of the time for drains; `None` before the first drain.
    drains: Option<Instant>,
    /// The same for pings.
    pings: Option<Instant>,
}

impl CheckBudget {
    fn drains(&mut self, bound: Duration, deadline: Deadline) -> Deadline {
        share(&mut self.drains, bound, deadline)
    }

    fn pings(&mut self, bound: Duration, deadline: Deadline) -> Deadline {
        share(&mut self.pings, bound, deadline)
    }
}

/// The rest of a bound that begins with its first use, within the deadline.
fn share(until: &mut Option<Instant>, bound: Duration, deadline: Deadline) -> Deadline {
    *until = until.or_else(|| Deadline::after(bound).moment());
    until.map_or(deadline, |until| deadline.no_later_than(until))
}

impl PoolInner {
    pub(crate) async fn recycle(
        &self,
        connection: &mut Connection,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Result<()> {
        let checked = match self.recycle_now(connection) {
            Some(verdict) => verdict.and_then(|()| self.check_pool(connection)),
            None => {
                // During the check it does not count as idle: no other caller gets it, and it can't
                // make room.
                let taken = self.take_from_idle(connection);
                let in_use = self.counters.take();
                let checked = match taken {
                    Ok(()) => self.check(connection, deadline, budget).await,
                    Err(evicted) => Err(evicted),
                };
                drop(in_use);
                checked.and_then(|()| self.check_pool(connection))
            }
        };
        checked.inspect_err(|error| close(connection, error))
    }

    /// Fails if the pool was cleared or closed during the check, or before the waiter took the
    /// connection.
    fn check_pool(&self, connection: &Connection) -> Result<()> {
        match connection.is_stale() || self.state() == PoolState::Closed {
            true => self.closed(ClosedReason::Stale),
            false => Ok(()),
        }
    }

    pub(crate) fn recycle_now(&self, connection: &mut Connection) -> Option<Result<()>> {
        let checked = match (self.needs_ping(connection), connection.readiness()) {
            (Err(error), _) => Err(error),
            (Ok(true), _) | (Ok(_), Readiness::Owed) => return None,
            (Ok(false), Readiness::Closed(reason)) => self.closed(reason),
            (Ok(false), Readiness::Idle) => self.check_quiet(connection),
        };
        let checked = checked.and_then(|()| self.take_from_idle(connection));
        Some(checked.inspect_err(|error| close(connection, error)))
    }

    /// Whether a connection has been idle, or alive, for too long.
    pub(in crate::pools) fn is_expired(&self, connection: &Connection, now: Instant) -> bool {
        let idle = now.saturating_duration_since(connection.idle_since());
        let expires = connection
            .pool_handle()
            .and_then(|pool_handle| pool_handle.expires);
        self.max_idle_time.is_some_and(|max| idle > max)
            || expires.is_some_and(|expires| now > expires)
    }

    async fn check(
        &self,
        connection: &mut Connection,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Result<()> {
        let needs_ping = self.needs_ping(connection)?;
        let drained_by = match connection.readiness() {
            Readiness::Owed => budget.drains(self.establisher.drain_timeout, deadline),
            Readiness::Idle | Readiness::Closed(_) => deadline,
        };
        connection.drain(drained_by).await?;
        self.check_quiet(connection)?;
        if !needs_ping {
            return Ok(());
        }
        let connect_timeout = self.establisher.connect_timeout;
        let pinged_by = match connection.is_suspect() {
            true => {
                let bound = connect_timeout.map_or(SUSPECT_BOUND, |own| own.min(SUSPECT_BOUND));
                budget.pings(bound, deadline)
            }
            false => deadline.within(connect_timeout),
        };
        self.ping(connection, pinged_by, deadline).await
    }

    /// Whether a ping is needed; an error if the connection is stale or too old.
    fn needs_ping(&self, connection: &Connection) -> Result<bool> {
        if connection.is_stale() {
            return self.closed(ClosedReason::Stale);
        }
        let idle = match (self.recycling_method, self.max_idle_time, self.max_lifetime) {
            // There is no bound to compare with: the clock is not read.
            (RecyclingMethod::Fast | RecyclingMethod::Verified, None, None) => Duration::ZERO,
            _ => {
                let now = Instant::now();
                if self.is_expired(connection, now) {
                    return self.closed(ClosedReason::Expired);
                }
                now.saturating_duration_since(connection.idle_since())
            }
        };
        Ok(match self.recycling_method {
            _ if connection.is_suspect() => true,
            RecyclingMethod::Fast => false,
            RecyclingMethod::Verified => true,
            RecyclingMethod::VerifiedAfter(bound) => idle >= bound,
        })
    }

    fn check_quiet(&self, connection: &mut Connection) -> Result<()> {
        connection
            .check_idle()
            .or_else(|reason| self.closed(reason))
    }

    /// The last step: from here on the connection can't be chosen to make room.
    pub(crate) fn take_from_idle(&self, connection: &Connection) -> Result<()> {
        match connection.pool_handle() {
            Some(pool_handle) if !pool_handle.owner.leave_idle(&pool_handle.link) => {
                self.closed(ClosedReason::Evicted)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn closed<T>(&self, reason: ClosedReason) -> Result<T> {
        Err(self.establisher.name(ErrorKind::ConnectionClosed(reason)))
    }

    async fn ping(
        &self,
        connection: &mut Connection,
        pinged_by: Deadline,
        deadline: Deadline,
    ) -> Result<()> {
        let ping = rawdoc! { "ping": 1_i32 };
        let answered = connection.run_command_by(pinged_by, "admin", &ping).await;
        match answered {
            Ok(_) => Ok(()),
            // The server answered, even if with an error: the connection is alive.
            Err(error) if error.command().is_some() => Ok(()),
            Err(error) if error.is_timeout() => {
                let cut = Error::timeout(Wait::Recycle, deadline.elapsed());
                Err(self.establisher.name(cut).caused_by(Some(error)))
            }
            Err(error) => Err(error),
        }
    }
}

/// Closes a connection for the reason that its check found.
fn close(connection: &mut Connection, error: &Error) {
    connection.close_for(match error.kind() {
        ErrorKind::ConnectionClosed(reason) => *reason,
        _ => ClosedReason::Network,
    });
}
