//! The task that looks up the records of `mongodb+srv`.

use std::sync::Arc;

use bson::oid::ObjectId;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::shared::Shared;
use crate::error::Error;
use crate::net::deadline::{Deadline, Elapsed};
use crate::net::dns::{DnsResolver, resolve, srv_lookup, system_random};
use crate::net::monitor::{at, now};
use crate::sdam::{MIN_HEARTBEAT_FREQUENCY, SrvPolling};
use crate::uri::{ClientOptions, SrvError};

/// What the task works on. Nothing that it finds counts once its opening is over.
pub(super) struct SrvTask {
    pub(super) shared: Arc<Shared>,
    pub(super) resolver: Arc<dyn DnsResolver>,
    /// Which opening of the topology it works for.
    pub(super) opening: ObjectId,
    /// Notified when somebody waits for the hosts.
    pub(super) request: Arc<Notify>,
}

impl SrvTask {
    /// Looks up the hosts if there are none yet, then polls for as long as the topology's type asks
    /// for that, or may yet do so.
    pub(super) async fn run(self) {
        let options = match self.shared.options.hosts.is_empty() {
            true => self.first_hosts().await,
            false => self.shared.options.clone(),
        };
        if let Some(polling) = SrvPolling::new(&options, now()) {
            self.poll(polling).await;
        }
    }

    /// The first lookup, again after each failure: `heartbeatFrequencyMS` later, or once somebody
    /// waits for a server, but no sooner than after
    /// [`MIN_HEARTBEAT_FREQUENCY`].
    async fn first_hosts(&self) -> ClientOptions {
        let shared = &self.shared;
        loop {
            let options = shared.options.clone();
            let resolver = &*self.resolver;
            match resolve(options, resolver, system_random, Deadline::never()).await {
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
            // Both are safe to drop: time goes on, and a notification that was not taken is kept.
            tokio::select! {
                () = sleep(rest.saturating_sub(MIN_HEARTBEAT_FREQUENCY)) => {}
                () = self.request.notified() => {}
            }
        }
    }

    async fn poll(&self, mut polling: SrvPolling) {
        let mut changed = self.shared.subscribe();
        loop {
            let topology_type = changed.borrow_and_update().topology_type();
            // Both are safe to drop: the time comes again, and a change stays to be seen.
            tokio::select! {
                () = at(polling.poll_at(topology_type)) => {}
                _ = changed.changed() => continue,
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
                    polling.handle_failure(&SrvError::Unanswered(name), now());
                }
            }
        }
    }
}

/// How far the first lookup of an opening has got.
#[derive(Default)]
pub(super) struct FirstLookup {
    pub(super) request: Arc<Notify>,
    /// Attempts that failed.
    pub(super) failures: u64,
    /// Why the last one did.
    pub(super) failure: Option<Error>,
}
