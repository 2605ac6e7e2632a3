//! How pools react to changes of the topology.

use std::sync::Weak;
use std::sync::atomic::Ordering;

use bson::oid::ObjectId;

use super::{Member, Registry};
use crate::ServerAddress;
use crate::error::Error;
use crate::net::{Clear, Removal, TopologyListener};
use crate::pools::pool::Paused;
use crate::pools::{Backend, ServerPool};
use crate::select::SelectionIndex;

/// The rest of a change, to be done without the topology's lock. It owns the values that were read
/// under the lock, so that the last reference is not dropped there.
pub(super) enum Action<B: Backend> {
    /// A check of a server succeeded.
    Found,
    Ready {
        pool: ServerPool<B>,
        was_paused: bool,
    },
    Cleared(Cleared<B>),
    Removed {
        member: Member<B>,
        was_open: bool,
    },
}

pub(super) struct Cleared<B: Backend> {
    pool: ServerPool<B>,
    /// `None` if only one service was cleared.
    paused: Option<Paused>,
    service_id: Option<ObjectId>,
    interrupt_in_use: bool,
    error: Option<Error>,
}

impl<B: Backend> Action<B> {
    pub(super) fn carry_out(&self, registry: &Weak<Registry<B>>) {
        match self {
            Self::Found => {
                if let Some(registry) = registry.upgrade() {
                    registry.wake_to_fill();
                }
            }
            Self::Ready { pool, was_paused } => {
                if *was_paused {
                    pool.shared().finish_ready();
                }
            }
            Self::Cleared(cleared) => cleared.carry_out(),
            Self::Removed { member, was_open } => {
                drop(member.tenant.remove(&member.pool));
                if *was_open {
                    member.pool.finish_close();
                }
            }
        }
    }
}

impl<B: Backend> Cleared<B> {
    fn carry_out(&self) {
        let shared = self.pool.shared();
        // A pool that was already paused emits no further event.
        if self.paused.is_none_or(|paused| paused.was_ready) {
            shared.emit_cleared(self.service_id, self.interrupt_in_use, self.error.clone());
        }
        match self.paused {
            None => shared.reap(),
            Some(paused) => shared.evict(paused.generation, self.interrupt_in_use),
        }
    }
}

impl<B: Backend> Registry<B> {
    fn pools_of(&self, server: &ServerAddress) -> Vec<ServerPool<B>> {
        let servers = self.servers();
        let pools = servers.get(server).map(|server| server.pools.iter());
        pools
            .into_iter()
            .flatten()
            .map(|member| member.pool.clone())
            .collect()
    }
}

impl<B: Backend> TopologyListener for Registry<B> {
    fn ready(&self, server: &ServerAddress) {
        let pools = self.pools_of(server);
        let ready = pools.into_iter().map(|pool| Action::Ready {
            was_paused: pool.shared().make_ready(),
            pool,
        });
        self.actions.queue(ready.chain([Action::Found]));
    }

    fn clear(&self, clear: &Clear<'_>) {
        let pools = self.pools_of(clear.server);
        self.actions.queue(pools.into_iter().map(|pool| {
            let paused = match clear.service_id {
                Some(service_id) => {
                    pool.shared().note_cleared_for(clear.error);
                    pool.shared().clear_service(service_id);
                    None
                }
                None => Some(pool.shared().make_paused(clear.error)),
            };
            Action::Cleared(Cleared {
                pool,
                paused,
                service_id: clear.service_id,
                interrupt_in_use: clear.interrupt_in_use,
                error: clear.error.cloned(),
            })
        }));
    }

    fn remove(&self, server: &ServerAddress, removal: Removal) {
        let removed = {
            let mut servers = self.servers();
            let pools = servers.get(server).map(|server| server.pools.iter());
            let pools = pools.into_iter().flatten();
            self.retired
                .enter(pools.map(|member| (&member.pool, &member.tenant)));
            servers.remove(server)
        };
        self.writable.removed(server, removal);
        let members = removed.into_iter().flat_map(|server| server.pools);
        self.actions.queue(members.map(|member| Action::Removed {
            was_open: member.pool.shared().make_closed(),
            member,
        }));
    }

    fn published(&self, index: &SelectionIndex) {
        self.note_writable(index);
        self.is_recheck_due.store(true, Ordering::Release);
    }

    fn settle(&self) {
        // First: a handler may take its time.
        if self.is_recheck_due.swap(false, Ordering::AcqRel) {
            self.pools()
                .iter()
                .for_each(|pool| pool.shared().notify_recheck());
        }
        self.actions.deliver();
    }
}

impl<B: Backend> Registry<B> {
    /// Updates for each server whether it is writable, for its connections.
    pub(super) fn note_writable(&self, index: &SelectionIndex) {
        // Without the application's selector: a server that it excludes is still writable.
        self.writable
            .note(index, &index.unfiltered(&self.write, &[]));
    }
}
