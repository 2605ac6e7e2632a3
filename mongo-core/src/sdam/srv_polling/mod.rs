//! Polling SRV records for routers.

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, Instant};

use super::TopologyType;
use crate::address::ServerAddress;
use crate::uri::{ClientOptions, SrvError, SrvOptions, SrvRecord, check_count, choose, lowest_ttl};

#[cfg(test)]
mod tests;

/// Decides when to look up the SRV records of a deployment again, and which of their hosts to use.
///
/// Pure: the caller looks up [`record_name`](Self::record_name) in DNS at
/// [`poll_at`](Self::poll_at), passes the answer in, and passes the hosts on to the topology. A
/// client without background tasks does so before it scans its servers.
///
/// The interval from the end of one lookup to the next is the lowest TTL of the records, at least
/// [60 s](Self::MIN_INTERVAL), or `heartbeatFrequencyMS` after a lookup without a usable record.
/// Such a lookup changes nothing, and a host that must not be used is left out. Both are logged as
/// `tracing` events of level WARN.
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

    /// Polling for options whose records were looked up at `now`. `None` if there is nothing to
    /// poll: without `mongodb+srv`, with a name that is invalid in DNS, and for a load balancer.
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

    /// The name of the SRV records to look up.
    pub fn record_name(&self) -> &str {
        &self.record_name
    }

    /// When to look the records up again. `None` for a topology type that is not polled. Call again
    /// when the type changes.
    pub fn poll_at(&self, topology_type: TopologyType) -> Option<Instant> {
        match topology_type {
            TopologyType::Unknown | TopologyType::Sharded => self.since.checked_add(self.interval),
            TopologyType::Single
            | TopologyType::ReplicaSetNoPrimary
            | TopologyType::ReplicaSetWithPrimary
            | TopologyType::LoadBalanced => None,
        }
    }

    /// Takes the records of a lookup that ended at `now`. Returns the verified hosts for
    /// [`Input::SrvHosts`](super::Input::SrvHosts). If no host may be used, the list is empty and
    /// nothing changes.
    ///
    /// With `srvMaxHosts` they are in random order, because the first ones fill the places that are
    /// left. `random` must return numbers that are uniform over all `u64`.
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

    /// Handles a lookup that failed or timed out at `now`. Only the time of the next lookup
    /// changes.
    pub fn handle_failure(&mut self, reason: &dyn fmt::Display, now: Instant) {
        self.since = now;
        self.interval = self.heartbeat_frequency;
        tracing::warn!("SRV polling failed, the hosts stay as they are: {reason}");
    }

    /// The hosts that may be used, without duplicates, in the order of the records.
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
                    tracing::warn!("SRV polling ignores a host: {error}");
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
