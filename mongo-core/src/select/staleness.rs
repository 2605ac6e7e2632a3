//! The staleness of secondaries.

use std::time::{Duration, Instant};

use bson::DateTime;

use crate::sdam::{ServerDescription, ServerType, TopologyDescription};

/// The smallest maximum staleness of a replica set, whatever the heartbeat frequency.
const SMALLEST: Duration = Duration::from_secs(90);

/// How often an idle primary writes (`idleWritePeriodMS`).
const IDLE_WRITE_PERIOD: Duration = Duration::from_secs(10);

/// The smallest maximum staleness that a replica set allows: 90 s, and at least the heartbeat
/// frequency plus the 10 s after which an idle primary writes. With less, every secondary could
/// appear stale.
///
/// Specification: max staleness.
pub(super) fn smallest_limit(heartbeat_frequency: Duration) -> Duration {
    SMALLEST.max(heartbeat_frequency.saturating_add(IDLE_WRITE_PERIOD))
}

/// The newest write, with which the writes of secondaries are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newest {
    /// The primary's last write, and the time of the heartbeat that reported it.
    Primary { write: DateTime, update: Instant },
    /// Without a primary, the last write of the most recent secondary.
    Secondary { write: DateTime },
}

/// Estimates the staleness of the secondaries of one view of the topology.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staleness {
    /// `None` if the servers do not report their last writes: the staleness is then unknown.
    newest: Option<Newest>,
    heartbeat_frequency: Duration,
}

impl Staleness {
    pub(super) fn new(topology: &TopologyDescription, heartbeat_frequency: Duration) -> Self {
        let newest = match topology.primary() {
            Some(primary) => primary
                .last_write_date
                .zip(primary.last_update_time)
                .map(|(write, update)| Newest::Primary { write, update }),
            None => topology
                .servers()
                .iter()
                .filter(|server| server.server_type == ServerType::RsSecondary)
                .filter_map(|server| server.last_write_date)
                .max()
                .map(|write| Newest::Secondary { write }),
        };
        Self {
            newest,
            heartbeat_frequency,
        }
    }

    pub(super) fn limit(self, limit: Duration) -> StalenessLimit {
        StalenessLimit {
            staleness: self,
            limit,
        }
    }

    /// A secondary's staleness, in nanoseconds: the specification's estimate, which can be negative.
    fn of_secondary(&self, secondary: &ServerDescription) -> Option<i128> {
        let behind = |write: DateTime| {
            let own = i128::from(secondary.last_write_date?.timestamp_millis());
            Some((i128::from(write.timestamp_millis()) - own) * 1_000_000)
        };
        let estimate = match self.newest? {
            Newest::Secondary { write } => behind(write)?,
            // Only times of the same clock are subtracted, so neither clock needs to be right.
            Newest::Primary { write, update } => {
                behind(write)? + between(update, secondary.last_update_time?)
            }
        };
        Some(estimate + nanos(self.heartbeat_frequency))
    }
}

/// The maximum staleness of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct StalenessLimit {
    staleness: Staleness,
    limit: Duration,
}

impl StalenessLimit {
    /// Whether a server is fresh enough. A secondary of unknown staleness is not; a server that is
    /// not a secondary always is.
    pub(super) fn admits(&self, server: &ServerDescription) -> bool {
        server.server_type != ServerType::RsSecondary
            || self
                .staleness
                .of_secondary(server)
                .is_some_and(|staleness| staleness <= nanos(self.limit))
    }
}

/// The time from one instant to another, in nanoseconds.
fn between(from: Instant, to: Instant) -> i128 {
    match to.checked_duration_since(from) {
        Some(later) => nanos(later),
        None => -nanos(from.saturating_duration_since(to)),
    }
}

/// A duration's nanoseconds: at most 2^64 s, which are less than 2^94 ns.
fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sdam::TopologyType;

    fn server(name: &str, server_type: ServerType, write: Option<i64>) -> ServerDescription {
        let mut server = ServerDescription::unknown(name.parse().expect("an address"));
        server.server_type = server_type;
        server.last_write_date = write.map(DateTime::from_millis);
        server
    }

    fn seconds(value: i128) -> Option<i128> {
        Some(value * 1_000_000_000)
    }

    /// The tables of the specification's examples.
    #[test]
    fn clocks_need_not_be_right() {
        let start = Instant::now();
        let at = |second| Some(start + Duration::from_secs(second));
        // (the secondary's check and write, the primary's check and write, the staleness)
        let table = [
            (60, 0, 60, 10, 20),
            (70, 5, 60, 10, 25),
            (70, 5, 80, 30, 25),
        ];
        for (updated, written, primary_updated, primary_written, expected) in table {
            let mut primary = server("p", ServerType::RsPrimary, Some(primary_written * 1000));
            primary.last_update_time = at(primary_updated);
            let mut secondary = server("s", ServerType::RsSecondary, Some(written * 1000));
            secondary.last_update_time = at(updated);
            let topology = TopologyDescription::new(
                TopologyType::ReplicaSetWithPrimary,
                None,
                [primary, secondary.clone()],
            );
            let staleness = Staleness::new(&topology, Duration::from_secs(10));
            assert_eq!(staleness.of_secondary(&secondary), seconds(expected));
        }
    }

    #[test]
    fn without_a_primary_the_latest_secondary_counts() {
        let (fresh, stale) = (
            server("a", ServerType::RsSecondary, Some(20_000)),
            server("b", ServerType::RsSecondary, Some(5_000)),
        );
        let arbiter = server("c", ServerType::RsArbiter, Some(90_000));
        let topology = TopologyDescription::new(
            TopologyType::ReplicaSetNoPrimary,
            None,
            [fresh.clone(), stale.clone(), arbiter],
        );
        let staleness = Staleness::new(&topology, Duration::from_secs(10));
        assert_eq!(staleness.of_secondary(&fresh), seconds(10));
        assert_eq!(staleness.of_secondary(&stale), seconds(25));
        assert!(staleness.limit(Duration::from_secs(25)).admits(&stale));
        assert!(!staleness.limit(Duration::from_secs(24)).admits(&stale));
    }

    #[test]
    fn secondaries_that_tell_no_write_are_left_out() {
        let silent = server("a", ServerType::RsSecondary, None);
        let primary = server("b", ServerType::RsPrimary, None);
        let topology = TopologyDescription::new(
            TopologyType::ReplicaSetWithPrimary,
            None,
            [silent.clone(), primary.clone()],
        );
        let limit = Staleness::new(&topology, Duration::ZERO).limit(Duration::MAX);
        assert!(!limit.admits(&silent));
        assert!(limit.admits(&primary));
    }

    #[test]
    fn extreme_dates_do_not_overflow() {
        let now = Some(Instant::now());
        for (written, primary_written) in [(i64::MIN, i64::MAX), (i64::MAX, i64::MIN)] {
            let mut primary = server("p", ServerType::RsPrimary, Some(primary_written));
            primary.last_update_time = now;
            let mut secondary = server("s", ServerType::RsSecondary, Some(written));
            secondary.last_update_time = now;
            let topology = TopologyDescription::new(
                TopologyType::ReplicaSetWithPrimary,
                None,
                [primary, secondary.clone()],
            );
            let limit = Staleness::new(&topology, Duration::MAX).limit(Duration::from_secs(90));
            assert!(!limit.admits(&secondary) || written > primary_written);
        }
    }

    #[test]
    fn the_smallest_limit_grows_with_the_heartbeat_frequency() {
        let limit = |seconds| smallest_limit(Duration::from_secs(seconds)).as_secs();
        assert_eq!((limit(10), limit(80), limit(81)), (90, 90, 91));
        assert_eq!(smallest_limit(Duration::MAX), Duration::MAX);
    }
}
