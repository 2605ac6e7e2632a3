//! An independent server selection that follows the specification's text: slow, plain, and without
//! any code of the library.

use std::time::{Duration, Instant};

use mongo_core::ServerAddress;
use mongo_core::sdam::{ServerDescription, ServerType, TopologyDescription, TopologyType};
use mongo_core::select::{Criterion, ReadPreference, ReadPreferenceMode, TagSet};

use super::chance::Chance;

/// `localThresholdMS` by default.
const LOCAL_THRESHOLD: Duration = Duration::from_millis(15);

/// The criterion of a selection. Without a mode it is a write.
#[derive(Clone, Debug)]
pub(super) struct Want {
    mode: Option<ReadPreferenceMode>,
    tags: Vec<TagSet>,
    max_staleness: Option<Duration>,
    pub(super) deprioritized: Vec<ServerAddress>,
}

impl Want {
    pub(super) fn write() -> Self {
        Self {
            mode: None,
            tags: Vec::new(),
            max_staleness: None,
            deprioritized: Vec::new(),
        }
    }

    pub(super) fn is_write(&self) -> bool {
        self.mode.is_none()
    }

    /// A random criterion. Deprioritized servers are chosen from `known`.
    pub(super) fn any(chance: &mut Chance, known: &[ServerAddress]) -> Self {
        let mut want = Self::write();
        if !known.is_empty() && chance.once_in(3) {
            let count = 1 + chance.below(2);
            let places = (0..count).map(|_| chance.below(known.len() as u64));
            let places = places.filter_map(|place| usize::try_from(place).ok());
            want.deprioritized = places.map(|place| known[place].clone()).collect();
        }
        let mode = chance.pick(&[
            ReadPreferenceMode::Primary,
            ReadPreferenceMode::PrimaryPreferred,
            ReadPreferenceMode::Secondary,
            ReadPreferenceMode::SecondaryPreferred,
            ReadPreferenceMode::Nearest,
        ]);
        want.mode = (!chance.once_in(4)).then_some(mode);
        if want.is_write() || mode == ReadPreferenceMode::Primary {
            return want;
        }
        if chance.once_in(3) {
            let set = |value: &str| TagSet::from([("rack".to_owned(), value.to_owned())]);
            want.tags = match chance.below(4) {
                0 => vec![set("a")],
                1 => vec![set("a"), set("b")],
                2 => vec![set("none"), set("b"), TagSet::new()],
                _ => vec![TagSet::new(), set("a")],
            };
        }
        want.max_staleness = chance
            .once_in(3)
            .then(|| Duration::from_secs(90 + chance.below(100)));
        want
    }

    pub(super) fn criterion(&self) -> Criterion {
        let Some(mode) = self.mode else {
            return Criterion::write();
        };
        let mut preference = ReadPreference::new(mode).with_tag_sets(self.tags.clone());
        if let Some(limit) = self.max_staleness {
            preference = preference.with_max_staleness(limit);
        }
        Criterion::read(preference).expect("a valid read preference")
    }

    /// The addresses of the servers that may be returned.
    pub(super) fn allowed(
        &self,
        topology: &TopologyDescription,
        heartbeat_frequency: Duration,
    ) -> Vec<ServerAddress> {
        let suitable = self.all_suitable(topology, heartbeat_frequency);
        let time = |one: &ServerDescription| one.round_trip_time.unwrap_or(Duration::MAX);
        let fastest = suitable.iter().map(|one| time(one)).min();
        let limit = fastest.unwrap_or_default().saturating_add(LOCAL_THRESHOLD);
        let near = suitable.into_iter().filter(|one| time(one) <= limit);
        near.map(|one| one.address.clone()).collect()
    }

    /// The suitable servers, regardless of their latency.
    pub(super) fn all_suitable<'a>(
        &self,
        topology: &'a TopologyDescription,
        heartbeat_frequency: Duration,
    ) -> Vec<&'a ServerDescription> {
        let all: Vec<&ServerDescription> = topology.servers().iter().map(|one| &**one).collect();
        match topology.topology_type() {
            TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary => {}
            _ => return Vec::new(),
        }
        let preferred = all
            .iter()
            .filter(|one| !self.deprioritized.contains(&one.address));
        let preferred: Vec<_> = preferred.copied().collect();
        let mut suitable = self.suitable(&preferred, &all, heartbeat_frequency);
        if suitable.is_empty() {
            suitable = self.suitable(&all, &all, heartbeat_frequency);
        }
        suitable
    }

    fn suitable<'a>(
        &self,
        among: &[&'a ServerDescription],
        all: &[&'a ServerDescription],
        heartbeat_frequency: Duration,
    ) -> Vec<&'a ServerDescription> {
        let of = |kinds: &[ServerType]| -> Vec<&'a ServerDescription> {
            let fitting = among.iter().filter(|one| kinds.contains(&one.server_type));
            fitting.copied().collect()
        };
        let primary = of(&[ServerType::RsPrimary]);
        let restricted = |kinds: &[ServerType]| {
            let mut fresh = of(kinds);
            fresh.retain(|one| self.is_fresh(one, all, heartbeat_frequency));
            self.tagged(fresh)
        };
        let either = |first: Vec<_>, second: Vec<_>| match first.is_empty() {
            true => second,
            false => first,
        };
        match self.mode.unwrap_or_default() {
            ReadPreferenceMode::Primary => primary,
            ReadPreferenceMode::PrimaryPreferred => {
                either(primary, restricted(&[ServerType::RsSecondary]))
            }
            ReadPreferenceMode::Secondary => restricted(&[ServerType::RsSecondary]),
            ReadPreferenceMode::SecondaryPreferred => {
                either(restricted(&[ServerType::RsSecondary]), primary)
            }
            ReadPreferenceMode::Nearest => {
                restricted(&[ServerType::RsPrimary, ServerType::RsSecondary])
            }
        }
    }

    fn tagged<'a>(&self, servers: Vec<&'a ServerDescription>) -> Vec<&'a ServerDescription> {
        if self.tags.is_empty() {
            return servers;
        }
        for set in &self.tags {
            let has = |one: &&&ServerDescription| {
                set.iter()
                    .all(|(name, value)| one.tags.get(name) == Some(value))
            };
            let matching: Vec<_> = servers.iter().filter(has).copied().collect();
            if !matching.is_empty() {
                return matching;
            }
        }
        Vec::new()
    }

    /// Max staleness, "Calculating maxStalenessSeconds".
    fn is_fresh(
        &self,
        one: &ServerDescription,
        all: &[&ServerDescription],
        heartbeat_frequency: Duration,
    ) -> bool {
        let Some(limit) = self.max_staleness else {
            return true;
        };
        if one.server_type != ServerType::RsSecondary {
            return true;
        }
        let origin = all.iter().filter_map(|one| one.last_update_time).min();
        let written = |one: &ServerDescription| {
            let date = one.last_write_date?;
            Some(i128::from(date.timestamp_millis()) * 1_000_000)
        };
        let updated = |one: &ServerDescription| Some(since(one.last_update_time?, origin?));
        let primary = all
            .iter()
            .find(|one| one.server_type == ServerType::RsPrimary);
        let behind = match primary {
            Some(primary) => {
                (|| Some((updated(one)? - written(one)?) - (updated(primary)? - written(primary)?)))(
                )
            }
            None => {
                let secondaries = all
                    .iter()
                    .filter(|one| one.server_type == ServerType::RsSecondary);
                let newest = secondaries.filter_map(|one| written(one)).max();
                newest.zip(written(one)).map(|(newest, own)| newest - own)
            }
        };
        behind.is_some_and(|behind| behind + nanos(heartbeat_frequency) <= nanos(limit))
    }
}

fn since(time: Instant, origin: Instant) -> i128 {
    nanos(time.saturating_duration_since(origin))
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}
