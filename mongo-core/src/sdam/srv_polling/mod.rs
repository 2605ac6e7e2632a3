//! Polling SRV records for routers.

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, Instant};

use super::TopologyType;
use crate::address::ServerAddress;
use crate::uri::{ClientOptions, SrvError, SrvOptions, SrvRecord, check_count, choose, lowest_ttl};

#[cfg(test)]
mod tests;

/// When the SRV records of a deployment are to be looked up again, and which hosts they then give.
///
/// Pure: the shell asks DNS for [`record_name`](Self::record_name) once
/// [`poll_at`](Self::poll_at) has come, hands in the answer, and gives the hosts to the topology. A
/// client without background tasks does so before it scans its servers.
///
/// Time runs from the end of one lookup to the next: the lowest time to live of the records, at
/// least [60 s](Self::MIN_INTERVAL), or `heartbeatFrequencyMS` after a lookup without a usable
/// record. Such a lookup, and a host that must not be used, change nothing and are `tracing`
/// events of level WARN.
///
/// Specification: polling SRV records for mongos discovery.
#[derive(Clone, Debug)]
pub struct SrvPolling {
    srv: SrvOptions,
    record_name: String,
    heartbeat_frequency: Duration,
    interval: Duration,
    /// The end of the last lookup.
    since: Instant,
}

impl SrvPolling {
    /// The shortest time from one successful lookup to the next.
    pub const MIN_INTERVAL: Duration = Duration::from_secs(60);

    /// Polling for options whose records were looked up at `now`. `None` where there is nothing to
    /// poll: without `mongodb+srv`, with a name that DNS can't have, and for a load balancer.
    pub fn new(options: &ClientOptions, now: Instant) -> Option<Self> {
        let srv = options.srv.clone()?;
        if options.load_balanced == Some(true) {
            return None;
        }
        Some(Self {
            record_name: srv.record_name().ok()?,
            heartbeat_frequency: options.heartbeat_frequency,
            interval: interval(srv.lowest_ttl),
            since: now,
            srv,
        })
    }

    /// The name whose SRV records are to be looked up.
    pub fn record_name(&self) -> &str {
        &self.record_name
    }

    /// When to look them up again. `None` in a topology that is not polled for; the type may change,
    /// so ask again when it does.
    pub fn poll_at(&self, topology_type: TopologyType) -> Option<Instant> {
        match topology_type {
            TopologyType::Unknown | TopologyType::Sharded => self.since.checked_add(self.interval),
            TopologyType::Single
            | TopologyType::ReplicaSetNoPrimary
            | TopologyType::ReplicaSetWithPrimary
            | TopologyType::LoadBalanced => None,
        }
    }

    /// Takes the records that a lookup gave, which ended at `now`. Returns the verified hosts for
    /// [`Input::SrvHosts`](super::Input::SrvHosts); none if none may be used, which changes nothing.
    ///
    /// With `srvMaxHosts` they are in random order, as the first ones get what room there is.
    /// `random` is to give numbers that are uniform over all `u64`.
    pub fn handle_records(
        &mut self,
        records: &[SrvRecord],
        random: &mut dyn FnMut() -> u64,
        now: Instant,
    ) -> Vec<ServerAddress> {
        match self.valid_hosts(records) {
            Ok(hosts) => {
                self.since = now;
                self.interval = interval(lowest_ttl(records));
                match self.srv.max_hosts {
                    0 => hosts,
                    _ => choose(hosts, u32::MAX, random),
                }
            }
            Err(error) => {
                self.handle_failure(&error, now);
                Vec::new()
            }
        }
    }

    /// Takes note of a lookup that failed or timed out at `now`. Nothing changes but when the next
    /// one is.
    pub fn handle_failure(&mut self, reason: &dyn fmt::Display, now: Instant) {
        self.since = now;
        self.interval = self.heartbeat_frequency;
        tracing::warn!("SRV polling changes nothing: {reason}");
    }

    /// The hosts that may be used, each once, in their order.
    fn valid_hosts(&self, records: &[SrvRecord]) -> Result<Vec<ServerAddress>, SrvError> {
        check_count(&self.record_name, records)?;
        let mut seen = HashSet::new();
        let mut hosts = Vec::new();
        let mut refused = None;
        for record in records {
            match self.srv.verify(record) {
                Ok(host) if seen.insert(host.clone()) => hosts.push(host),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!("SRV polling leaves a host out: {error}");
                    refused = Some(error);
                }
            }
        }
        match refused {
            Some(error) if hosts.is_empty() => Err(error),
            Some(_) | None => Ok(hosts),
        }
    }
}

fn interval(lowest_ttl: Option<Duration>) -> Duration {
    lowest_ttl.unwrap_or_default().max(SrvPolling::MIN_INTERVAL)
}
