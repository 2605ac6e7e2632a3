//! Scans of the servers by a client without monitors.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::check::MIN_HEARTBEAT_FREQUENCY;
use super::{CheckReason, ServerDescription, ServerType, TopologyDescription};
use crate::address::ServerAddress;
use crate::error::{Error, is_network_error};

/// How long an unreachable server is not checked again (`cooldownMS`).
pub const COOL_DOWN: Duration = Duration::from_secs(5);

/// The default time from the end of one scan to the next (`heartbeatFrequencyMS`).
pub const SCAN_FREQUENCY: Duration = Duration::from_secs(60);

/// The scans of a client without monitors, as a state machine: it decides when the topology is too
/// old to select from, and which servers a scan checks concurrently.
///
/// The driver makes a [`Selection`] for each operation and does what its turns say. It
/// [begins](Self::begin) a scan and starts the [next checks](Self::next_checks). It reports the end
/// of each check, and starts the next checks until none is under way. Then it [ends](Self::end) the
/// scan. A scan that was interrupted is begun again, no sooner than another scan could be.
///
/// Specifications: server monitoring (single-threaded monitoring), server selection (single-threaded
/// server selection).
#[derive(Clone, Debug)]
pub struct Scan {
    frequency: Duration,
    is_stale: bool,
    /// The end of the last scan; its beginning while it runs.
    last_end: Option<Instant>,
    /// How many scans have ended, to see whether one ended during a selection.
    ended: u64,
    is_running: bool,
    /// Servers that are being checked.
    running: BTreeSet<ServerAddress>,
    /// Servers that this scan has checked or is checking.
    checked: BTreeSet<ServerAddress>,
    /// Servers that this scan has checked a second time, or will.
    repeated: BTreeSet<ServerAddress>,
    /// Servers of this scan that are to be checked a second time now.
    again: BTreeSet<ServerAddress>,
    /// When each server was last unreachable.
    unreachable: BTreeMap<ServerAddress, Instant>,
}

/// The selection of a server for one operation.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    until: Option<Instant>,
    try_once: bool,
    scans_before: u64,
    missed: bool,
}

/// The next step of a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Scan all servers at this time, which may have passed; then call [`turn`](Selection::turn)
    /// again.
    Scan(Instant),
    /// Look for a suitable server. If there is none, call [`missed`](Selection::missed), then
    /// [`turn`](Selection::turn) again.
    Look,
    /// No suitable server was found.
    GiveUp,
}

impl Scan {
    /// A state before the first scan. A frequency below [`MIN_HEARTBEAT_FREQUENCY`] is raised to
    /// it.
    pub fn new(frequency: Duration) -> Self {
        Self {
            frequency: frequency.max(MIN_HEARTBEAT_FREQUENCY),
            is_stale: true,
            last_end: None,
            ended: 0,
            is_running: false,
            running: BTreeSet::new(),
            checked: BTreeSet::new(),
            repeated: BTreeSet::new(),
            again: BTreeSet::new(),
            unreachable: BTreeMap::new(),
        }
    }

    /// Whether the servers are to be scanned before the next selection.
    pub fn is_stale(&self, now: Instant) -> bool {
        // A time that `Instant` can't represent never comes.
        let is_old = |end: Instant| end.checked_add(self.frequency).is_some_and(|at| at < now);
        self.is_stale || self.last_end.is_none_or(is_old)
    }

    /// Handles an application error's request for a check: the next selection scans. A recovering
    /// server causes no scan, since it is likely to be recovering still.
    pub fn handle_request(&mut self, reason: CheckReason) {
        match reason {
            CheckReason::NewerPrimary
            | CheckReason::NotWritablePrimary
            | CheckReason::ShuttingDown => self.is_stale = true,
            CheckReason::Recovering => {}
        }
    }

    /// A scan begins.
    pub fn begin(&mut self, now: Instant) {
        self.is_running = true;
        self.is_stale = true;
        self.last_end = Some(now);
        self.running.clear();
        self.checked.clear();
        self.repeated.clear();
        self.again.clear();
        self.unreachable
            .retain(|_, at| now.saturating_duration_since(*at) < COOL_DOWN);
    }

    /// The servers to start checking now, in addition to those that are being checked. The primary
    /// or else the possible primary comes first, then the servers of known type, then all others;
    /// within each group, the server with the oldest check comes first.
    ///
    /// Servers that were unreachable within the last [`COOL_DOWN`] are left out. A scan checks each
    /// server once. It checks a server a second time if its check failed with a network error and
    /// its type was known before, or if a newer primary made it unknown.
    pub fn next_checks(&mut self, topology: &TopologyDescription) -> Vec<ServerAddress> {
        self.running
            .retain(|address| topology.server(address).is_some());
        let possible = topology.possible_primary().map(|server| &server.address);
        let mut due: Vec<_> = topology
            .servers()
            .iter()
            .filter(|server| self.takes(server))
            .collect();
        due.sort_by_key(|server| {
            let rank = match server.server_type {
                ServerType::RsPrimary => 0,
                ServerType::Unknown if possible == Some(&server.address) => 1,
                ServerType::Unknown | ServerType::RsGhost => 3,
                ServerType::Standalone
                | ServerType::Mongos
                | ServerType::RsSecondary
                | ServerType::RsArbiter
                | ServerType::RsOther
                | ServerType::LoadBalancer => 2,
            };
            (rank, server.last_update_time)
        });
        let due: Vec<_> = due.iter().map(|server| server.address.clone()).collect();
        self.running.extend(due.iter().cloned());
        due
    }

    /// Decides whether a server is to be checked now, and records it.
    fn takes(&mut self, server: &ServerDescription) -> bool {
        let address = &server.address;
        let is_unknown = server.server_type == ServerType::Unknown;
        if self.running.contains(address) {
            return false;
        }
        if !self.checked.contains(address) {
            if is_unknown && self.unreachable.contains_key(address) {
                return false;
            }
            return self.checked.insert(address.clone());
        }
        // A former primary has no time of its last check any more.
        let is_former_primary = is_unknown && server.last_update_time.is_none();
        (self.again.remove(address) || is_former_primary && server.error.is_some())
            && self.repeated.insert(address.clone())
    }

    /// A check was answered.
    pub fn handle_answer(&mut self, server: &ServerAddress) {
        self.running.remove(server);
        self.unreachable.remove(server);
    }

    /// A check failed. `was_known` is whether the server's type was known before.
    pub fn handle_failure(
        &mut self,
        server: &ServerAddress,
        error: &Error,
        was_known: bool,
        now: Instant,
    ) {
        self.running.remove(server);
        if !is_network_error(error) {
            self.unreachable.remove(server);
        } else if was_known && !self.repeated.contains(server) {
            self.again.insert(server.clone());
        } else {
            self.unreachable.insert(server.clone(), now);
        }
    }

    /// All checks have ended.
    pub fn end(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_running) {
            self.last_end = Some(now);
            self.is_stale = false;
            self.ended += 1;
        }
    }

    /// The selection that the scan was for timed out, and with it the checks that were under way.
    /// The next selection uses the results so far. If it finds no server, it may scan as soon as if
    /// this scan had ended when it began.
    pub fn end_early(&mut self) {
        if std::mem::take(&mut self.is_running) {
            self.is_stale = false;
            self.ended += 1;
        }
    }

    /// Begins a selection that must find a server by `until`. With `try_once`
    /// (`serverSelectionTryOnce`), it scans at most once after it found none, however long that
    /// takes.
    pub fn select(&mut self, now: Instant, until: Option<Instant>, try_once: bool) -> Selection {
        self.is_stale = self.is_stale(now);
        Selection {
            until,
            try_once,
            scans_before: self.ended,
            missed: false,
        }
    }
}

impl Selection {
    /// What to do now.
    pub fn turn(&mut self, scan: &Scan, now: Instant) -> Turn {
        let is_over = |time| self.until.is_some_and(|until| time > until);
        if std::mem::take(&mut self.missed) {
            let gives_up = match self.try_once {
                true => scan.ended > self.scans_before,
                false => is_over(now),
            };
            if gives_up {
                return Turn::GiveUp;
            }
        }
        if !scan.is_stale {
            return Turn::Look;
        }
        let at = scan
            .last_end
            .map_or(now, |end| end + MIN_HEARTBEAT_FREQUENCY);
        match !self.try_once && is_over(at) {
            true => Turn::GiveUp,
            false => Turn::Scan(at),
        }
    }

    /// Reports that no suitable server is known.
    pub fn missed(&mut self, scan: &mut Scan) {
        self.missed = true;
        scan.is_stale = true;
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::error::ErrorKind;
    use crate::sdam::{SdamError, TopologyType};

    fn address(host: &str) -> ServerAddress {
        ServerAddress::tcp(host, 27017)
    }

    fn topology(servers: &[(&str, ServerType)]) -> TopologyDescription {
        let servers = servers.iter().map(|(host, server_type)| ServerDescription {
            server_type: *server_type,
            ..ServerDescription::unknown(address(host))
        });
        TopologyDescription::new(TopologyType::ReplicaSetNoPrimary, None, servers)
    }

    fn hosts(servers: &[ServerAddress]) -> Vec<String> {
        servers.iter().map(ToString::to_string).collect()
    }

    fn next(scan: &mut Scan, topology: &TopologyDescription) -> usize {
        scan.next_checks(topology).len()
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn the_primary_comes_first_and_each_server_once() {
        let known = topology(&[
            ("a", ServerType::Unknown),
            ("b", ServerType::RsSecondary),
            ("c", ServerType::RsPrimary),
        ]);
        let mut scan = Scan::new(SCAN_FREQUENCY);
        scan.begin(Instant::now());
        let checks = scan.next_checks(&known);
        assert_eq!(hosts(&checks), ["c:27017", "b:27017", "a:27017"]);
        assert_eq!(next(&mut scan, &known), 0);
        scan.handle_answer(&address("c"));
        // A server that is discovered during the scan belongs to it.
        let grown = topology(&[("c", ServerType::RsPrimary), ("d", ServerType::Unknown)]);
        assert_eq!(hosts(&scan.next_checks(&grown)), ["d:27017"]);
    }

    #[test]
    fn a_server_that_can_not_be_reached_is_left_alone_for_five_seconds() {
        let unknown = topology(&[("a", ServerType::Unknown)]);
        let mut scan = Scan::new(SCAN_FREQUENCY);
        let begun = Instant::now();
        let refused = Error::network(io::Error::from(io::ErrorKind::ConnectionReset));
        scan.begin(begun);
        assert_eq!(next(&mut scan, &unknown), 1);
        scan.handle_failure(&address("a"), &refused, false, begun);
        assert_eq!(next(&mut scan, &unknown), 0);
        scan.end(begun);
        for (after, checks) in [(1, 0), (4, 0), (5, 1)] {
            scan.begin(begun + seconds(after));
            assert_eq!(next(&mut scan, &unknown), checks, "after {after} s");
        }
        // The server answered, though not correctly.
        let refused = Error::new(ErrorKind::PoolClosed);
        scan.handle_failure(&address("a"), &refused, false, begun + seconds(5));
        scan.begin(begun + seconds(6));
        assert_eq!(next(&mut scan, &unknown), 1);
    }

    #[test]
    fn a_known_server_is_tried_once_more() {
        let known = topology(&[("a", ServerType::RsPrimary)]);
        let unknown = topology(&[("a", ServerType::Unknown)]);
        let mut scan = Scan::new(SCAN_FREQUENCY);
        let now = Instant::now();
        let reset = Error::network(io::Error::from(io::ErrorKind::ConnectionReset));
        scan.begin(now);
        assert_eq!(next(&mut scan, &known), 1);
        scan.handle_failure(&address("a"), &reset, true, now);
        assert_eq!(next(&mut scan, &unknown), 1);
        scan.handle_failure(&address("a"), &reset, false, now);
        assert_eq!(next(&mut scan, &unknown), 0);
        scan.begin(now + seconds(1));
        assert_eq!(next(&mut scan, &unknown), 0, "it cools down");
    }

    #[test]
    fn two_primaries_without_elections_do_not_keep_a_scan_going() {
        let both = |down: &str, up: &str| {
            let mut former = ServerDescription::unknown(address(down));
            former.error = Some(SdamError::NewerPrimary);
            let mut newer = ServerDescription::unknown(address(up));
            newer.server_type = ServerType::RsPrimary;
            newer.last_update_time = Some(Instant::now());
            let set = TopologyType::ReplicaSetWithPrimary;
            TopologyDescription::new(set, None, [former, newer])
        };
        let mut scan = Scan::new(SCAN_FREQUENCY);
        scan.begin(Instant::now());
        assert_eq!(next(&mut scan, &both("a", "b")), 2);
        assert_eq!(next(&mut scan, &both("a", "b")), 0, "it is being checked");
        scan.handle_answer(&address("a"));
        scan.handle_answer(&address("b"));
        assert_eq!(hosts(&scan.next_checks(&both("a", "b"))), ["a:27017"]);
        scan.handle_answer(&address("a"));
        assert_eq!(hosts(&scan.next_checks(&both("b", "a"))), ["b:27017"]);
        scan.handle_answer(&address("b"));
        assert_eq!(next(&mut scan, &both("a", "b")), 0);
    }

    #[test]
    fn a_view_gets_stale() {
        let mut scan = Scan::new(SCAN_FREQUENCY);
        let begun = Instant::now();
        assert!(scan.is_stale(begun));
        scan.begin(begun);
        assert!(scan.is_stale(begun), "an interrupted scan does not count");
        scan.end(begun);
        assert!(!scan.is_stale(begun + seconds(60)));
        assert!(scan.is_stale(begun + seconds(61)));
        scan.handle_request(CheckReason::Recovering);
        assert!(!scan.is_stale(begun));
        scan.handle_request(CheckReason::NotWritablePrimary);
        assert!(scan.is_stale(begun));
    }

    #[test]
    fn one_try_is_one_scan_and_its_time_is_kept() {
        let mut scan = Scan::new(SCAN_FREQUENCY);
        let begun = Instant::now();
        let mut selection = scan.select(begun, Some(begun), true);
        assert_eq!(selection.turn(&scan, begun), Turn::Scan(begun));
        scan.begin(begun);
        scan.end(begun);
        assert_eq!(selection.turn(&scan, begun), Turn::Look);
        selection.missed(&mut scan);
        assert_eq!(selection.turn(&scan, begun), Turn::GiveUp);
        // The topology is fresh: the selection looks at it first, and the scan waits for its time.
        let mut selection = scan.select(begun, None, true);
        let at = begun + MIN_HEARTBEAT_FREQUENCY;
        assert_eq!(selection.turn(&scan, begun), Turn::Scan(at));
    }

    #[test]
    fn more_tries_end_by_their_time() {
        let mut scan = Scan::new(SCAN_FREQUENCY);
        let begun = Instant::now();
        let until = begun + Duration::from_millis(800);
        let mut selection = scan.select(begun, Some(until), false);
        let mut now = begun;
        for scans in 0..2 {
            let at = begun + MIN_HEARTBEAT_FREQUENCY * scans;
            assert_eq!(selection.turn(&scan, now), Turn::Scan(at));
            now = at;
            scan.begin(now);
            scan.end(now);
            assert_eq!(selection.turn(&scan, now), Turn::Look);
            selection.missed(&mut scan);
        }
        assert_eq!(selection.turn(&scan, now), Turn::GiveUp);
    }
}
