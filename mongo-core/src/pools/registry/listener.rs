//! How pools react to changes of the topology.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Member, Registry};
use crate::ServerAddress;
use crate::net::{Clear, Removal, TopologyListener};
use crate::pools::Backend;
use crate::pools::follow::Follower;
use crate::pools::pool::PoolInner;
use crate::select::SelectionIndex;

impl<B: Backend> Follower for Member<B> {
    const IS_REPORTED: bool = true;

    fn pool(&self) -> &Arc<PoolInner> {
        self.pool.shared()
    }

    fn removed(&self, was_open: bool) {
        drop(self.tenant.remove(&self.pool));
        if was_open {
            self.pool.finish_close();
        }
    }
}

impl<B: Backend> TopologyListener for Registry<B> {
    fn ready(&self, server: &ServerAddress) {
        self.servers.ready(server);
        self.is_fill_due.store(true, Ordering::Release);
    }

    fn clear(&self, clear: &Clear<'_>) {
        self.servers.clear(clear);
    }

    fn remove(&self, server: &ServerAddress, removal: Removal) {
        self.servers.remove(server, removal, |members| {
            let members = members.iter();
            self.retired
                .enter(members.map(|member| (&member.pool, &member.tenant)));
        });
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
        self.servers.settle();
        if self.is_fill_due.swap(false, Ordering::AcqRel) {
            self.wake_to_fill();
        }
    }
}

impl<B: Backend> Registry<B> {
    /// Updates for each server whether it is writable, for its connections.
    pub(super) fn note_writable(&self, index: &SelectionIndex) {
        // Without the application's selector: a server that it excludes is still writable.
        self.servers
            .suitable
            .note(index, &index.unfiltered(&self.write, &[]));
    }
}
