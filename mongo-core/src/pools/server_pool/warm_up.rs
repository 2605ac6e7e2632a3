//! Making connections in advance.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Result, Wait};
use crate::net::{Connection, Deadline, Together};
use crate::pools::follow::pause;
use crate::pools::pool::{CheckBudget, PoolInner};
use crate::pools::{Backend, ServerPool};

/// How long a warm-up waits for room in one round.
const ROUND: Duration = Duration::from_millis(100);

/// Connections of the pool that are held back from callers. Dropping it offers them again.
struct Held<'a>(&'a Arc<PoolInner>, Vec<Connection>);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for connection in self.1.drain(..) {
            self.0.offer(connection);
        }
    }
}

impl<B: Backend> ServerPool<B> {
    /// Waits until the pool has `minPoolSize` or `min_idle` connections, and at least one, made by
    /// this call or by others.
    pub(in crate::pools) async fn warm(&self, deadline: Deadline) -> Result<()> {
        self.factory().runtime()?;
        let target = self.options().target(0).max(1);
        let (mut rounds, mut newest) = (0_u32, 0);
        // Bounds the turns: two warm-ups that do not both fit must not take connections from each
        // other for ever.
        let mut turns = target;
        loop {
            self.fill(target, deadline).await?;
            let (total, pending) = self.shared().total_and_pending();
            if total.saturating_sub(pending) >= target {
                return Ok(());
            }
            // Attempts of others, which may fail, or a pause after failures hold this up.
            let timed_out = || self.shared().timed_out(Wait::WaitQueue, deadline);
            if !self.shared().is_ready() {
                let cause = timed_out().cause().cloned();
                return Err(self.shared().not_ready().caused_by(cause));
            }
            if deadline.is_over() {
                return Err(self.explain(timed_out()));
            }
            if turns > 0
                && self.shared().is_server_full()
                && self.take_room(&mut newest, deadline).await?
            {
                turns -= 1;
                continue;
            }
            pause(rounds, deadline).await;
            rounds = rounds.saturating_add(1);
        }
    }

    /// Makes connections up to the target, counting attempts of others, or until no more may be
    /// made.
    pub(in crate::pools) async fn fill(&self, target: u32, deadline: Deadline) -> Result<()> {
        let mut pending = Together::new();
        loop {
            while let Some(outcome) = self.shared().begin_in_advance(target) {
                pending.push((), outcome);
            }
            match deadline.bound(pending.next()).await {
                Ok(Some(((), Ok(made)))) => made?,
                Ok(Some(((), Err(_)))) => return Err(self.shared().not_ready()),
                Ok(None) => return Ok(()),
                Err(_) => {
                    let timed_out = self.shared().timed_out(Wait::WaitQueue, deadline);
                    return Err(self.explain(timed_out));
                }
            }
        }
    }

    /// Waits for a new connection as a caller does, so that another pool's idle connection makes
    /// room. Returns whether there is a new one, with a higher number than `newest`.
    async fn take_room(&self, newest: &mut u64, deadline: Deadline) -> Result<bool> {
        // Available connections of the pool would be served first.
        let mut held = Held(self.shared(), Vec::new());
        let round = deadline.within(Some(ROUND));
        loop {
            let mut budget = CheckBudget::default();
            match self.shared().establish(round, &mut budget).await {
                Ok(connection) => {
                    let id = connection.id();
                    held.1.push(connection);
                    if id > *newest {
                        *newest = id;
                        return Ok(true);
                    }
                }
                Err(error) if error.is_timeout() && !deadline.is_over() => return Ok(false),
                Err(error) => return Err(self.explain(error)),
            }
        }
    }
}
