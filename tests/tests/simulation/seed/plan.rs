//! A seed's decisions.

use std::time::Duration;

use mongo_testkit::Deployment;

use super::chance::Chance;
use super::faults::SLOWEST;
use super::observer::Versions;
use super::{MIN_HEARTBEAT, SOME_TRIPS};

/// A seed's decisions about its client and servers.
pub(super) struct Plan {
    pub(super) heartbeat_frequency: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) streams: bool,
    pub(super) versions: Versions,
    pub(super) wire_version: i32,
    pub(super) one_seed: bool,
    pub(super) closes: bool,
}

impl Plan {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let versions = chance.pick(&[
            Versions::SetVersionFirst,
            Versions::ElectionIdFirst,
            Versions::ElectionIdFirst,
            Versions::Mixed,
        ]);
        Self {
            heartbeat_frequency: Duration::from_millis(chance.pick(&[1000, 2000, 5000, 10_000])),
            connect_timeout: Duration::from_millis(chance.pick(&[1000, 2000, 5000])),
            streams: !chance.once_in(4),
            wire_version: match versions {
                Versions::SetVersionFirst => chance.pick(&[13, 14]),
                Versions::ElectionIdFirst => chance.pick(&[17, 21, 25]),
                Versions::Mixed => chance.pick(&[9, 13, 17, 25]),
            },
            versions,
            one_seed: chance.once_in(2),
            closes: !chance.once_in(3),
        }
    }

    pub(super) fn uri(&self, set: &Deployment) -> String {
        let uri = match self.one_seed {
            true => format!("mongodb://{}/?replicaSet=rs", set.address(0)),
            false => set.uri(),
        };
        uri + &self.options()
    }

    pub(super) fn options(&self) -> String {
        format!(
            "&heartbeatFrequencyMS={}&connectTimeoutMS={}&serverMonitoringMode={}",
            self.heartbeat_frequency.as_millis(),
            self.connect_timeout.as_millis(),
            if self.streams { "stream" } else { "poll" },
        )
    }

    /// The longest time until the primary of a healthy set is known. A check whose reply was lost
    /// before ends by its own timeout. If that was the check of a removed former primary, the next
    /// reply of another member reports the new one.
    pub(super) fn recovery(&self) -> Duration {
        let lost = self.connect_timeout + self.heartbeat_frequency;
        lost + self.heartbeat_frequency + MIN_HEARTBEAT + SLOWEST * 2 + SOME_TRIPS
    }

    /// The longest time until an election in a healthy set is known.
    pub(super) fn news(&self) -> Duration {
        match self.streams {
            true => SOME_TRIPS,
            false => self.heartbeat_frequency + MIN_HEARTBEAT + SOME_TRIPS,
        }
    }
}
