//! How a pool reacts to events of its connections, in use or idle.

use std::sync::Arc;

use bson::RawDocument;
use tokio::time::Instant;

use super::counters::Waiting;
use super::shared_queue::QueueOwner;
use super::wait_queue::PoolState;
use crate::ServerAddress;
use crate::error::{ClosedReason, Error, ErrorKind};
use crate::event::{
    CmapEvent, ConnectionCheckedInEvent, ConnectionClosedEvent, ConnectionClosedReason,
};
use crate::net::{Connection, ConnectionState, Identity, PoolHooks, jitter};
use crate::operation::{ClientContext, ClusterTime};
use crate::pools::pool::PoolInner;
use crate::pools::server_cap::Participant;
use crate::sdam::{ApplicationError, ErrorPhase};

/// The largest share by which a lifetime is shortened at random, so that connections made together
/// do not end together.
const LIFETIME_JITTER: f64 = 0.1;

impl PoolInner {
    /// Emits an event, if there is a handler.
    pub(in crate::pools) fn emit(
        &self,
        event: impl FnOnce(ServerAddress, Option<Arc<str>>) -> CmapEvent,
    ) {
        let establisher = &self.establisher;
        establisher
            .events
            .emit_cmap(|| event(establisher.server.clone(), establisher.user().cloned()));
    }

    pub(crate) fn expiry(&self, created: Instant) -> Option<Instant> {
        let lifetime = self.max_lifetime?;
        let jitter = self.jitter() * LIFETIME_JITTER;
        created.checked_add(lifetime - lifetime.mul_f64(jitter))
    }

    /// A guard returns its connection.
    pub(in crate::pools) fn check_in(&self, connection: &Connection) {
        self.checked_in(connection.identity());
    }

    /// The state of a connection that is about to be returned, for
    /// [`after_check_in`](Self::after_check_in); `None` without a cap.
    #[inline]
    pub(in crate::pools) fn on_its_way(
        &self,
        connection: &Connection,
    ) -> Option<Arc<ConnectionState>> {
        self.cap.as_ref()?;
        connection
            .pool_handle()
            .map(|pool_handle| pool_handle.link.clone())
    }

    /// The connection was returned or closed.
    #[inline]
    pub(in crate::pools) fn after_check_in(&self, link: Option<Arc<ConnectionState>>) {
        // If it was chosen to make room before it was returned, `reap` did not find it then.
        if link.is_some_and(|link| link.is_to_make_room()) {
            self.reap();
        }
        self.make_room();
    }

    /// Counts a waiting caller, as long as the result lives.
    pub(in crate::pools) fn wait(&self) -> Waits<'_> {
        Waits {
            shared: self,
            waiting: Some(self.counters.wait()),
        }
    }

    /// Whether a handler observes each step.
    #[inline]
    pub(in crate::pools) fn is_watched(&self) -> bool {
        self.establisher.events.wants_cmap()
    }

    /// Interrupts all connections, including pending ones.
    pub(in crate::pools) fn interrupt(&self) {
        self.interrupt_pending(u64::MAX);
        self.links.interrupt_made(u64::MAX);
    }

    /// A slot may be free, in this pool or for another pool of the server.
    pub(crate) fn slot_is_free(self: &Arc<Self>) {
        if let Some(cap) = &self.cap {
            cap.give_back();
        }
        self.pump();
    }

    /// Makes room for other pools, if they queue.
    #[inline]
    fn make_room(&self) {
        if let Some(cap) = &self.cap {
            cap.make_room();
        }
    }

    /// The specification's reason for the close of a connection.
    fn closed_reason(
        &self,
        identity: &Identity,
        link: &ConnectionState,
        reason: Option<ClosedReason>,
    ) -> ConnectionClosedReason {
        if self.state() == PoolState::Closed {
            return ConnectionClosedReason::PoolClosed;
        }
        // Not closed for a failure of its own.
        let is_given_up = matches!(
            reason,
            Some(ClosedReason::Closed | ClosedReason::CancelledReply) | None
        );
        match reason {
            _ if is_given_up && (identity.generation.is_stale() || link.is_outdated()) => {
                ConnectionClosedReason::Stale
            }
            _ if is_given_up && link.is_doomed() => ConnectionClosedReason::Idle,
            Some(ClosedReason::Expired | ClosedReason::Evicted) => ConnectionClosedReason::Idle,
            Some(ClosedReason::Stale | ClosedReason::Interrupted) => ConnectionClosedReason::Stale,
            Some(
                ClosedReason::CancelledWrite
                | ClosedReason::CancelledReply
                | ClosedReason::LongReply
                | ClosedReason::CancelledStream
                | ClosedReason::Network
                | ClosedReason::Protocol
                | ClosedReason::RuntimeEnded
                | ClosedReason::Unauthenticated,
            ) => ConnectionClosedReason::Error,
            Some(ClosedReason::Closed) | None => ConnectionClosedReason::PoolClosed,
        }
    }
}

impl PoolInner {
    /// Reports an error of the server to the topology. Without one, the pool clears itself if it is
    /// one that can be paused.
    pub(crate) fn report(&self, told: ApplicationError) {
        match &self.topology {
            Some(topology) => topology.handle_error(told),
            None if self.clears_itself && told.clears_pool() => self.clear_for(&told),
            None => {}
        }
    }

    fn clear_for(&self, told: &ApplicationError) {
        let error = Some(told.error.clone());
        match told.service_id {
            Some(service_id) => {
                self.note_cleared_for(error.as_ref());
                self.establisher.generations.clear_service(service_id);
                self.emit_cleared(Some(service_id), false, error);
                self.reap();
            }
            // The service is not known.
            None if self.establisher.load_balanced => {}
            None => {
                let paused = self.make_paused(error.as_ref());
                if paused.was_ready {
                    self.emit_cleared(None, false, error);
                }
                self.evict(paused.generation, false);
            }
        }
    }
}

impl PoolHooks for PoolInner {
    fn failed(&self, identity: &Identity, error: &Error) -> bool {
        if !ApplicationError::is_telling(error) {
            return true;
        }
        let (made_in, current) = (identity.generation.number(), identity.generation.current());
        let told = ApplicationError::new(
            identity.server.clone(),
            error.clone(),
            ErrorPhase::Completed,
        );
        self.report(
            told.with_generations(made_in, current)
                .with_service_id(identity.description.service_id),
        );
        // Without a topology nothing else detects that the address now leads to another server.
        let is_secondary = identity.description.secondary;
        self.topology.is_some() || !ApplicationError::is_news(error, is_secondary)
    }

    fn cluster_time(&self, cluster_time: &RawDocument) {
        if let Some(topology) = &self.topology {
            topology.advance_cluster_time(cluster_time);
        }
    }

    fn newest_cluster_time(&self) -> Option<Arc<ClusterTime>> {
        self.topology.as_ref()?.newest_cluster_time()
    }

    fn client(&self) -> &Arc<ClientContext> {
        &self.client
    }

    fn jitter(&self) -> f64 {
        let topology = self.topology.as_ref();
        let random = topology.map(|topology| topology.random());
        jitter(random.unwrap_or_else(|| getrandom::u64().unwrap_or_default()))
    }

    fn checked_in(&self, identity: &Identity) {
        self.emit(|address, user| {
            CmapEvent::ConnectionCheckedIn(ConnectionCheckedInEvent {
                address,
                user,
                driver_connection_id: identity.id,
                server_connection_id: identity.description.connection_id,
                service_id: identity.description.service_id,
            })
        });
    }

    fn enter_idle(&self, identity: &Identity, link: &Arc<ConnectionState>) -> bool {
        let age = || identity.created.elapsed();
        let has_waiters = || self.counters.waiting() > 0;
        let cap = self.cap.as_ref();
        cap.is_none_or(|cap| cap.enter_idle(link, age, has_waiters))
    }

    fn leave_idle(&self, link: &ConnectionState) -> bool {
        self.cap.as_ref().is_none_or(|cap| cap.leave_idle(link))
    }

    fn detached(&self, identity: &Identity, link: &ConnectionState) {
        link.detach();
        self.links.remove(identity.id);
        self.change_queue(|queue| queue.left());
        if let Some(shared) = self.this.upgrade() {
            shared.pump();
        }
    }

    fn dropped(&self, identity: &Identity, link: &ConnectionState, reason: Option<ClosedReason>) {
        let closed = reason.map(|reason| identity.name(ErrorKind::ConnectionClosed(reason)));
        let reason = self.closed_reason(identity, link, reason);
        let error = closed.filter(|_| reason == ConnectionClosedReason::Error);
        self.counters.count_closed(reason);
        self.links.remove(identity.id);
        // If it was idle until now, it no longer makes room.
        self.leave_idle(link);
        self.emit(|address, user| {
            CmapEvent::ConnectionClosed(ConnectionClosedEvent {
                address,
                user,
                driver_connection_id: identity.id,
                server_connection_id: identity.description.connection_id,
                service_id: identity.description.service_id,
                reason,
                error,
            })
        });
        if !link.is_detached() {
            self.change_queue(|queue| queue.left());
        }
        if let Some(wake) = &self.wake {
            wake();
        }
        match self.this.upgrade() {
            Some(shared) => shared.slot_is_free(),
            None => {
                if let Some(cap) = &self.cap {
                    cap.give_back();
                }
            }
        }
    }
}

/// A waiting caller. Once it leaves, an idle connection that was kept for it can make room.
pub(in crate::pools) struct Waits<'a> {
    shared: &'a PoolInner,
    waiting: Option<Waiting<'a>>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.waiting.take();
        self.shared.make_room();
    }
}

impl Participant for PoolInner {
    fn pump(&self) {
        if let Some(shared) = self.this.upgrade() {
            PoolInner::pump(&shared);
        }
    }

    fn reap(&self) {
        PoolInner::reap(self);
    }

    fn has_waiters(&self) -> bool {
        self.counters.waiting() > 0
    }

    fn abandon(&self) -> bool {
        let overdue = self.change_queue(|queue| queue.abandon(Instant::now()));
        let Some((link, shared)) = overdue.zip(self.this.upgrade()) else {
            return false;
        };
        shared.end_attempt(&link);
        true
    }
}

impl PoolInner {
    /// How many check-outs there were so far.
    pub(in crate::pools) fn checked_out_total(&self) -> u64 {
        let times = self.counters.wait_times();
        times.at_once + times.buckets.iter().sum::<u64>()
    }
}
