//! The check of an idle connection that is about to be handed out.

use std::time::Duration;

use bson::rawdoc;
use tokio::time::Instant;

use super::Shared;
use crate::error::{ClosedReason, Error, ErrorKind, Result, Wait};
use crate::net::{Connection, Deadline};
use crate::pools::{PoolState, RecyclingMethod};
use crate::wire::Readiness;

impl Shared {
    pub(super) async fn recycle(
        &self,
        connection: &mut Connection,
        deadline: Deadline,
    ) -> Result<()> {
        let checked = match self.recycle_now(connection) {
            Some(verdict) => verdict.and_then(|()| self.check_pool(connection)),
            None => {
                // It is no idle one meanwhile: nobody else can have it.
                let in_use = self.counters.take();
                let checked = self.check(connection, deadline).await;
                drop(in_use);
                let checked = checked.and_then(|()| self.check_pool(connection));
                checked.and_then(|()| self.take_from_idle(connection))
            }
        };
        checked.inspect_err(|error| close(connection, error))
    }

    /// The pool may have been cleared or closed while the server was asked, or while the connection
    /// was on its way.
    fn check_pool(&self, connection: &Connection) -> Result<()> {
        match connection.is_stale() || self.state() == PoolState::Closed {
            true => self.closed(ClosedReason::Stale),
            false => Ok(()),
        }
    }

    pub(super) fn recycle_now(&self, connection: &mut Connection) -> Option<Result<()>> {
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
        let expires = connection.tie().and_then(|tie| tie.expires);
        self.max_idle_time.is_some_and(|max| idle > max)
            || expires.is_some_and(|expires| now > expires)
    }

    async fn check(&self, connection: &mut Connection, deadline: Deadline) -> Result<()> {
        let needs_ping = self.needs_ping(connection)?;
        connection.drain(deadline).await?;
        self.check_quiet(connection)?;
        match needs_ping {
            true => self.ping(connection, deadline).await,
            false => Ok(()),
        }
    }

    /// Whether the server has to be asked, too; an error if the connection is stale or too old.
    fn needs_ping(&self, connection: &Connection) -> Result<bool> {
        if connection.is_stale() {
            return self.closed(ClosedReason::Stale);
        }
        let idle = match (self.recycling_method, self.max_idle_time, self.max_lifetime) {
            // Nothing to compare: spares the clock.
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
            RecyclingMethod::Fast => false,
            RecyclingMethod::Verified => true,
            RecyclingMethod::VerifiedAfter(bound) => idle >= bound,
        })
    }

    fn check_quiet(&self, connection: &mut Connection) -> Result<()> {
        match connection.is_quiet() {
            true => Ok(()),
            false => self.closed(ClosedReason::Network),
        }
    }

    /// The last step: from here on the connection makes room for nobody.
    pub(super) fn take_from_idle(&self, connection: &Connection) -> Result<()> {
        match connection.tie() {
            Some(tie) if !tie.owner.leave_idle(&tie.link) => self.closed(ClosedReason::Evicted),
            Some(_) | None => Ok(()),
        }
    }

    fn closed<T>(&self, reason: ClosedReason) -> Result<T> {
        Err(self.establisher.name(ErrorKind::ConnectionClosed(reason)))
    }

    async fn ping(&self, connection: &mut Connection, deadline: Deadline) -> Result<()> {
        let ping = rawdoc! { "ping": 1_i32 };
        let answered = connection
            .run_command_by(
                deadline.within(self.establisher.connect_timeout),
                "admin",
                &ping,
            )
            .await;
        match answered {
            Ok(_) => Ok(()),
            // The server answered: the connection is alive, whatever it thinks of a ping.
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
