//! What is done in the background.

use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Registry, lock};
use crate::net::{Deadline, Together};
use crate::pools::{Backend, ServerPool};

/// The task: a round at each interval, and whenever a pool may lack connections.
pub(super) async fn run<B: Backend>(
    registry: Weak<Registry<B>>,
    wake: Arc<Notify>,
    interval: Option<Duration>,
) {
    // Without an interval there is no maintenance at all.
    let Some(interval) = interval else { return };
    let mut next_round = Deadline::after(interval);
    // Over several rounds: a server that does not answer holds up no other.
    let mut filling: Together<Fill<B>, ()> = Together::new();
    loop {
        // All are safe to drop: a wake that was not seen is kept, and who is filled stays.
        tokio::select! {
            biased;
            Some((fill, ())) = filling.next() => {
                if fill.is_to_be_repeated() {
                    wake.notify_one();
                }
                continue;
            }
            () = wake.notified() => {}
            _ = next_round.bound(pending::<()>()) => {}
        }
        let Some(pools) = registry.upgrade().map(|registry| registry.look_after()) else {
            return;
        };
        next_round = Deadline::after(interval);
        for pool in pools {
            if !filling.keys().any(|fill| fill.pool.is_same(&pool)) {
                let fill = Fill::new(&pool);
                filling.push(fill, async move { pool.maintain().await });
            }
        }
    }
}

/// A pool that is being filled.
struct Fill<B: Backend> {
    pool: ServerPool<B>,
    /// When it began.
    generation: u64,
}

impl<B: Backend> Fill<B> {
    fn new(pool: &ServerPool<B>) -> Self {
        Self {
            pool: pool.clone(),
            generation: pool.shared().generation(),
        }
    }

    /// Whether it came to nothing because the pool was cleared, which is ready again by now.
    fn is_to_be_repeated(&self) -> bool {
        self.pool.shared().generation() != self.generation && self.pool.lacks_connections()
    }
}

impl<B: Backend> Registry<B> {
    /// Closes what is too old, ends what is unused, and says which pools lack connections.
    fn look_after(&self) -> Vec<ServerPool<B>> {
        let now = Instant::now();
        let unused = self.find_unused(now);
        for (pool, tenant) in &unused {
            self.retire(pool, tenant);
        }
        self.retired.sort_out();
        self.tenants().retain(|_, tenant| {
            // Nobody has a handle, and nothing is left.
            Arc::strong_count(tenant) > 1 || !tenant.all().is_empty()
        });
        let pools: Vec<_> = {
            let servers = self.servers();
            let members = servers.values().flat_map(|server| &server.pools);
            members.map(|member| member.pool.clone()).collect()
        };
        if self.template.has_idle_bounds() {
            pools.iter().for_each(|pool| pool.shared().sweep());
        }
        pools
            .into_iter()
            .filter(ServerPool::lacks_connections)
            .collect()
    }

    /// The pools of other credentials than the options' own that nobody has used for too long.
    fn find_unused(&self, now: Instant) -> Vec<(ServerPool<B>, Arc<super::Tenant<B>>)> {
        let Some(timeout) = self.config.unused_timeout() else {
            return Vec::new();
        };
        let _adding = lock(&self.adding);
        let mut servers = self.servers();
        let members = servers.values_mut().flat_map(|server| &mut server.pools);
        members
            .filter(|member| !member.tenant.is_default())
            .filter_map(|member| {
                let check_outs = member.pool.shared().checked_out_total();
                if check_outs != member.used.0 || member.pool.is_busy() {
                    member.used = (check_outs, now);
                }
                let is_unused = now.saturating_duration_since(member.used.1) >= timeout;
                is_unused.then(|| (member.pool.clone(), member.tenant.clone()))
            })
            .collect()
    }
}
