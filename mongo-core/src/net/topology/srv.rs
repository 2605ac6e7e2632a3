//! The task that looks up the records of `mongodb+srv`.

use std::future::pending;
use std::sync::Arc;

use bson::oid::ObjectId;
use tokio::time::sleep;

use super::clock::{Signal, at, now};
use super::shared::Shared;
use super::srv_state::{FirstLookup, Srv};
use crate::net::background::{Alive, Task};
use crate::net::deadline::{Deadline, Elapsed};
use crate::net::transport::dns::{DnsResolver, Lookup, resolve_with, srv_lookup, system_random};
use crate::sdam::{MIN_HEARTBEAT_FREQUENCY, SrvPolling};
use crate::uri::{ClientOptions, RecordType, SrvError};

/// Creates the handle and the task, which the caller spawns; `None` if there is nothing to look up.
/// Options without hosts are looked up first.
pub(super) fn start(
    shared: &Arc<Shared>,
    opening: ObjectId,
    options: ClientOptions,
    first: &FirstLookup,
) -> Option<(Srv, Task)> {
    let resolver = shared.resolver.clone()?;
    let alive = shared.tasks.begin();
    let srv = Srv {
        number: alive.number(),
        stop: Arc::default(),
        is_dead: false,
    };
    let stop = srv.stop.clone();
    let task = SrvTask {
        _lifeline: Lifeline {
            shared: shared.clone(),
            number: srv.number,
        },
        shared: shared.clone(),
        resolver,
        opening,
        options,
        request: first.request.clone(),
        lookup: first.lookup.clone(),
        _alive: alive,
    };
    let task = async move {
        // Safe to drop: a dropped lookup leaves nothing behind.
        tokio::select! {
            biased;
            () = stop.notified() => {}
            () = task.run() => {}
        }
    };
    Some((srv, Box::pin(task)))
}

/// The state of the task. Its results are ignored once its opening is over.
struct SrvTask {
    shared: Arc<Shared>,
    resolver: Arc<dyn DnsResolver>,
    /// The opening of the topology that it belongs to.
    opening: ObjectId,
    options: ClientOptions,
    /// Notified when a selection waits for the hosts.
    request: Signal,
    lookup: Arc<Lookup>,
    /// Dropped after all other fields, and in this order.
    _lifeline: Lifeline,
    _alive: Alive,
}

/// Reports the end of the task, even if its runtime drops it or it panics.
struct Lifeline {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.shared.srv_ended(self.number);
    }
}

impl SrvTask {
    /// Looks up the hosts if there are none yet, then polls for as long as the topology's type
    /// requires it or may still require it. Ends only when it is stopped: any other end is a
    /// failure.
    async fn run(self) {
        let options = match self.options.hosts.is_empty() {
            true => self.first_hosts().await,
            false => self.options.clone(),
        };
        match SrvPolling::new(&options, now()) {
            Some(polling) => self.poll(polling).await,
            None => pending().await,
        }
    }

    /// The first lookup, repeated after each failure: `heartbeatFrequencyMS` later, or once a
    /// selection waits for a server, but no sooner than after [`MIN_HEARTBEAT_FREQUENCY`].
    async fn first_hosts(&self) -> ClientOptions {
        let shared = &self.shared;
        loop {
            let options = shared.options.clone();
            let resolver = &*self.resolver;
            let (never, lookup) = (Deadline::never(), &*self.lookup);
            match resolve_with(options, resolver, system_random, never, lookup).await {
                Ok(options) => {
                    shared.resolved(self.opening, &options);
                    return options;
                }
                Err(error) => {
                    tracing::warn!("{error}");
                    shared.not_resolved(self.opening, error);
                }
            }
            sleep(MIN_HEARTBEAT_FREQUENCY).await;
            let rest = shared.options.heartbeat_frequency;
            // Both are safe to drop: the time is absolute, and a notification that was not received
            // is kept.
            tokio::select! {
                biased;
                () = sleep(rest.saturating_sub(MIN_HEARTBEAT_FREQUENCY)) => {}
                () = self.request.notified() => {}
            }
        }
    }

    async fn poll(&self, mut polling: SrvPolling) {
        let mut changed = self.shared.subscribe();
        loop {
            let topology_type = changed.borrow_and_update().topology_type();
            // Both are safe to drop: the time is absolute, and a change remains visible. It comes first,
            // because it decides whether records are polled.
            tokio::select! {
                biased;
                _ = changed.changed() => continue,
                () = at(polling.poll_at(topology_type)) => {}
            }
            let bound = self.shared.options.connect_timeout;
            let lookup = srv_lookup(&*self.resolver, polling.record_name());
            match Deadline::never().within(bound).bound(lookup).await {
                Ok(Ok(records)) => {
                    let hosts = polling.handle_records(&records, &mut system_random, now());
                    self.shared.srv_hosts(self.opening, hosts);
                }
                Ok(Err(error)) => polling.handle_failure(&error, now()),
                Err(Elapsed) => {
                    let name = polling.record_name().to_owned();
                    let record_type = RecordType::Srv;
                    let unanswered = SrvError::Unanswered { record_type, name };
                    polling.handle_failure(&unanswered, now());
                }
            }
        }
    }
}
