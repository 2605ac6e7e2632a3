//! What follows for the pools from what happens to the topology.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bson::oid::ObjectId;

use super::{Registry, Server};
use crate::ServerAddress;
use crate::error::Error;
use crate::net::{Clear, TopologyListener};
use crate::pools::factory::Paused;
use crate::pools::suitable::note_suitable;
use crate::pools::{Backend, ServerPool};
use crate::select::{Criterion, SelectionIndex};

/// What is left to do without the topology's lock.
pub(super) enum Action<B: Backend> {
    Ready(ServerPool<B>),
    Cleared(Cleared<B>),
    Removed(ServerPool<B>),
}

pub(super) struct Cleared<B: Backend> {
    pool: ServerPool<B>,
    /// `None` where one service was cleared alone.
    paused: Option<Paused>,
    service_id: Option<ObjectId>,
    interrupt_in_use: bool,
    error: Option<Error>,
}

impl<B: Backend> Action<B> {
    pub(super) fn carry_out(&self) {
        match self {
            Self::Ready(pool) => {
                pool.shared().emit_ready();
                pool.shared().wake_to_fill();
            }
            Self::Cleared(cleared) => cleared.carry_out(),
            Self::Removed(pool) => pool.finish_close(),
        }
    }
}

impl<B: Backend> Cleared<B> {
    fn carry_out(&self) {
        let shared = self.pool.shared();
        // Who is paused already is not cleared anew.
        if self.paused.is_none_or(|paused| paused.was_ready) {
            shared.emit_cleared(self.service_id, self.interrupt_in_use, self.error.clone());
        }
        match self.paused {
            None => shared.sweep(),
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
        let ready = pools.into_iter().filter(|pool| pool.shared().make_ready());
        self.actions.queue(ready.map(Action::Ready));
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

    fn remove(&self, server: &ServerAddress) {
        let removed = {
            let mut servers = self.servers();
            let pools = servers.get(server).map(|server| server.pools.iter());
            let pools = pools.into_iter().flatten();
            self.retired
                .enter(pools.map(|member| (&member.pool, &member.tenant)));
            servers.remove(server)
        };
        if let Some(removed) = &removed {
            // Should it come back, that is another server to those who hold a connection to this one.
            removed.takes_writes.store(false, Ordering::Release);
        }
        let members = removed.into_iter().flat_map(|server| server.pools);
        self.actions.queue(members.filter_map(|member| {
            member.tenant.remove(&member.pool);
            let was_open = member.pool.shared().make_closed();
            was_open.then_some(Action::Removed(member.pool))
        }));
    }

    fn published(&self, index: &SelectionIndex) {
        let servers = self.servers();
        note_writable(&servers, index, &self.write);
        let members = servers.values().flat_map(|server| &server.pools);
        members.for_each(|member| member.pool.shared().stir());
    }

    fn settle(&self) {
        self.actions.deliver();
    }
}

/// Notes for each server whether it takes writes, for those who hold a connection to it.
pub(super) fn note_writable<B: Backend>(
    servers: &BTreeMap<ServerAddress, Server<B>>,
    index: &SelectionIndex,
    write: &Criterion,
) {
    let servers = servers.iter();
    // Not what an application would rather have: a server that it passes over takes writes still.
    note_suitable(
        index,
        &index.unfiltered(write, &[]),
        servers.map(|(address, server)| (address, &*server.takes_writes)),
    );
}
