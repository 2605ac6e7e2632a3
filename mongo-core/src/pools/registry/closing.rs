//! The end of all pools.

use std::sync::Arc;
use std::time::Duration;

use super::tenant::Tenant;
use super::{Pools, Registry};
use crate::net::{Deadline, Limits};
use crate::pools::Backend;

/// How long `close` and `logout` may take to abort dropped transactions and to end sessions.
pub(super) const END_SESSIONS: Duration = Duration::from_secs(1);

/// Ends the pools when it is dropped.
struct Ends<'a, B: Backend>(&'a Registry<B>);

impl<B: Backend> Drop for Ends<'_, B> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Closes everything when the last handle is dropped.
pub(super) struct Life<B: Backend>(pub(super) Arc<Registry<B>>);

impl<B: Backend> Drop for Life<B> {
    fn drop(&mut self) {
        self.0.end();
        self.0.abort_maintenance();
    }
}

impl<B: Backend> Pools<B> {
    /// Closes everything, for all handles. Before that, for at most 1 s, it waits until dropped
    /// cursors are closed and dropped transactions aborted, and tells the server that the sessions
    /// of [`command`](Self::command) are over. Check-outs that wait, and later ones, get
    /// [`ErrorKind::PoolClosed`](crate::ErrorKind::PoolClosed). Waits for connections in use, also
    /// those of pools that were closed before with a server or a credential, for at most the
    /// configured close time-out (10 s), and then interrupts them. Returns when all connections are
    /// closed except those held by callers, and monitors and tasks have ended, or when that time is
    /// over: tasks do not end if their runtime is not driven. Does not wait outside of a Tokio
    /// runtime. Concurrent calls wait likewise. A topology that was given is not closed.
    ///
    /// Dropping this future does not affect connections in use. Everything else ends all the same,
    /// and a later call waits for it.
    pub async fn close(&self) {
        let registry = self.registry();
        let deadline = Deadline::after(registry.config.close_timeout());
        {
            // Dropping this future ends the pools too.
            let _ends = Ends(registry);
            let mut tenants: Vec<_> = registry.tenants().values().cloned().collect();
            tenants.extend([registry.tenant.clone(), self.tenant.clone()]);
            self.settle_operations(tenants).await;
        }
        let ended = async {
            // First, so that all tasks are stopped before anything is awaited.
            registry.end_tasks().await;
            registry.retired.drained(None).await;
        };
        if deadline.bound(ended).await.is_err() {
            registry.retired.interrupt(None);
        }
    }

    /// Waits for what dropped cursors and sessions left to do, and then ends the idle sessions of
    /// credentials on the server, within a short time.
    pub(super) async fn settle_operations(&self, tenants: Vec<Arc<Tenant<B>>>) {
        let registry = self.registry();
        let timeout = registry.config.close_timeout().min(END_SESSIONS);
        let limits = Limits::new(Some(timeout.max(Duration::from_millis(1))));
        let settled = async {
            registry.leftovers.settled().await;
            for tenant in tenants {
                let ends = tenant.client().end_sessions();
                let pools = self.with_tenant(tenant);
                ends.into_iter().for_each(|end| pools.leave(end, None));
            }
            registry.leftovers.settled().await;
        };
        let _ = limits.bound(settled).await;
    }
}

impl<B: Backend> Registry<B> {
    /// Stops background tasks when it is first polled, and waits until they have ended, even if
    /// another call stopped them.
    async fn end_tasks(&self) {
        self.abort_maintenance();
        let newest = self.tasks.newest();
        let _turn = self.ending.acquire().await;
        if self.owns_topology {
            self.topology.close().await;
        }
        self.tasks.ended(newest).await;
    }
}
