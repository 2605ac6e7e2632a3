//! One view of the topology, prepared for selection.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::choice::choose;
use super::rules::{Candidates, Pass, is_replica_set};
use super::staleness::{Staleness, StalenessLimit, smallest_limit};
use super::{
    Criterion, ReadPreference, ReadPreferenceMode, SelectionError, SelectionOptions, ServerEntry,
    ServerSelector,
};
use crate::address::ServerAddress;
use crate::sdam::{ServerDescription, TopologyDescription};

/// How many read preferences with tags or a maximum staleness one view caches the windows of.
const CACHED: usize = 8;

/// Servers to choose from.
type Window = Arc<[Arc<ServerEntry>]>;

/// The servers within the latency window, without tags and maximum staleness. In topologies other
/// than replica sets all three windows are the same.
#[derive(Clone)]
struct Windows {
    primary: Window,
    secondary: Window,
    nearest: Window,
}

impl Windows {
    fn of(&self, mode: ReadPreferenceMode) -> &[Arc<ServerEntry>] {
        let (first, second) = match mode {
            ReadPreferenceMode::Primary => return &self.primary,
            ReadPreferenceMode::Secondary => return &self.secondary,
            ReadPreferenceMode::Nearest => return &self.nearest,
            ReadPreferenceMode::PrimaryPreferred => (&self.primary, &self.secondary),
            ReadPreferenceMode::SecondaryPreferred => (&self.secondary, &self.primary),
        };
        if first.is_empty() { second } else { first }
    }
}

/// One view of the topology, prepared for selection: immutable, and shared by all selections.
///
/// [`next`](Self::next) makes a new view whenever the description changes, even if only a round
/// trip time has changed. It takes time linear in the number of servers.
pub struct SelectionIndex {
    /// The number of earlier views.
    revision: u64,
    topology: Arc<TopologyDescription>,
    options: Arc<SelectionOptions>,
    /// In the topology's order: sorted by address.
    servers: Vec<Arc<ServerEntry>>,
    windows: Windows,
    staleness: Staleness,
    /// Filled from the front by selections. When it is full, other windows are computed each time.
    cache: [OnceLock<(ReadPreference, Window)>; CACHED],
}

impl SelectionIndex {
    /// The first view, in which no server runs an operation.
    pub fn new(topology: Arc<TopologyDescription>, options: SelectionOptions) -> Self {
        let servers = topology.servers().iter().cloned();
        let servers = servers.map(|server| Arc::new(ServerEntry::new(server)));
        let servers = servers.collect();
        Self::prepare(0, topology, Arc::new(options), servers)
    }

    /// The view of the topology's next description. Servers in both views keep their operation
    /// counts.
    #[must_use]
    pub fn next(&self, topology: Arc<TopologyDescription>) -> Self {
        let mut before = self.servers.iter().peekable();
        let servers = topology.servers().iter().map(|server| {
            while let Some(entry) = before.peek() {
                match entry.address().cmp(&server.address) {
                    Ordering::Less => before.next(),
                    Ordering::Equal if Arc::ptr_eq(entry.description(), server) => {
                        return Arc::clone(entry);
                    }
                    Ordering::Equal => return Arc::new(entry.described(server.clone())),
                    Ordering::Greater => break,
                };
            }
            Arc::new(ServerEntry::new(server.clone()))
        });
        let servers = servers.collect();
        Self::prepare(self.revision + 1, topology, self.options.clone(), servers)
    }

    fn prepare(
        revision: u64,
        topology: Arc<TopologyDescription>,
        options: Arc<SelectionOptions>,
        servers: Vec<Arc<ServerEntry>>,
    ) -> Self {
        let window = |mode| -> Window {
            let candidates = Candidates::of(topology.topology_type(), mode);
            let suitable = servers.iter().filter(|server| {
                let server_type = server.description().server_type;
                candidates.iter().any(|some| some.include(server_type))
            });
            within_window(suitable, options.local_threshold)
                .cloned()
                .collect()
        };
        let nearest = window(ReadPreferenceMode::Nearest);
        let windows = match is_replica_set(topology.topology_type()) {
            true => Windows {
                primary: window(ReadPreferenceMode::Primary),
                secondary: window(ReadPreferenceMode::Secondary),
                nearest,
            },
            false => Windows {
                primary: nearest.clone(),
                secondary: nearest.clone(),
                nearest,
            },
        };
        Self {
            revision,
            staleness: Staleness::new(&topology, options.heartbeat_frequency),
            topology,
            options,
            servers,
            windows,
            cache: Default::default(),
        }
    }

    /// The number of earlier views. The result of a selection is valid while this is unchanged.
    #[cfg(feature = "net")]
    #[inline]
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The description of this view.
    pub fn topology(&self) -> &Arc<TopologyDescription> {
        &self.topology
    }

    /// The options of all selections.
    pub fn options(&self) -> &SelectionOptions {
        &self.options
    }

    /// All servers, sorted by address, each once.
    pub fn servers(&self) -> &[Arc<ServerEntry>] {
        &self.servers
    }

    /// The server of an address.
    pub fn server(&self, address: &ServerAddress) -> Option<&Arc<ServerEntry>> {
        let place = self
            .servers
            .binary_search_by(|server| server.address().cmp(address));
        place.ok().and_then(|place| self.servers.get(place))
    }

    /// Selects one server: of two random ones within the latency window the one that runs fewer
    /// operations. `None` if no server is suitable now. The caller then waits for the next view,
    /// and at its deadline calls [`no_suitable_server`](Self::no_suitable_server) for the error.
    ///
    /// `deprioritized` are the servers on which this operation failed before: others are preferred.
    /// `random` must be uniform over all numbers. The caller counts the operation with
    /// [`begin_operation`](ServerEntry::begin_operation).
    ///
    /// It neither waits nor allocates, and takes constant time for any number of servers, except:
    /// - the first selection with a read preference that has tags or a maximum staleness inspects
    ///   all servers, and concurrent ones wait for it; with more than eight such read preferences
    ///   in one view, the later ones do so each time, without allocating or waiting;
    /// - with deprioritized servers it inspects all servers, without allocating;
    /// - with a selector of the application it inspects all servers and allocates.
    ///
    /// # Errors
    /// A server has no wire version in common with this crate; the topology is a replica set and
    /// the maximum staleness is too small; or a selector of the application panicked. Waiting
    /// cannot resolve these.
    pub fn select(
        &self,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
        random: u64,
    ) -> Result<Option<&Arc<ServerEntry>>, SelectionError> {
        self.check(criterion)?;
        if self.selectors(criterion).next().is_some() {
            let window = self.filtered_window(criterion, deprioritized)?;
            return Ok(choose(
                window.len(),
                |place| window.get(place).copied(),
                random,
            ));
        }
        if deprioritized.is_empty()
            && let Some(window) = self.prepared(criterion)
        {
            return Ok(choose(window.len(), |place| window.get(place), random));
        }
        let mut passes = self.passes(criterion, deprioritized);
        Ok(passes.find_map(|pass| self.choose_admitted(&pass, random)))
    }

    /// All suitable servers, with any round trip time, sorted by address.
    ///
    /// # Errors
    /// As [`select`](Self::select).
    pub fn suitable(
        &self,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> Result<Vec<&Arc<ServerEntry>>, SelectionError> {
        self.check(criterion)?;
        self.filtered(criterion, deprioritized)
    }

    /// The suitable servers within the latency window, sorted by address. [`select`](Self::select)
    /// chooses one of them.
    ///
    /// # Errors
    /// As [`select`](Self::select).
    pub fn in_window(
        &self,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> Result<Vec<&Arc<ServerEntry>>, SelectionError> {
        self.check(criterion)?;
        self.filtered_window(criterion, deprioritized)
    }

    /// Checks for errors that waiting cannot resolve.
    fn check(&self, criterion: &Criterion) -> Result<(), SelectionError> {
        if let Some(error) = self.topology.compatibility_error() {
            return Err(SelectionError::Incompatible(error.clone()));
        }
        let limit = criterion
            .read_preference()
            .and_then(|read| read.max_staleness);
        let smallest = smallest_limit(self.options.heartbeat_frequency);
        match limit {
            Some(limit) if limit < smallest && is_replica_set(self.topology.topology_type()) => {
                Err(SelectionError::MaxStalenessTooSmall { limit, smallest })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The window for a criterion without selectors and deprioritized servers: prepared, or
    /// computed and cached. `None` if the cache is full.
    fn prepared(&self, criterion: &Criterion) -> Option<&[Arc<ServerEntry>]> {
        let restricted = match criterion.read_preference() {
            Some(read) if is_replica_set(self.topology.topology_type()) => {
                (read.max_staleness.is_some() || !criterion.tag_sets().is_empty()).then_some(read)
            }
            Some(_) | None => None,
        };
        let Some(preference) = restricted else {
            return Some(self.windows.of(criterion.mode()));
        };
        self.cache.iter().find_map(|slot| {
            let (key, window) = slot.get_or_init(|| {
                let suitable = self.unfiltered(criterion, &[]);
                let window = within_window(suitable.into_iter(), self.options.local_threshold);
                (preference.clone(), window.cloned().collect())
            });
            (key == preference).then_some(&**window)
        })
    }

    /// The attempts to find suitable servers. The first one that admits any is used.
    fn passes<'a>(
        &'a self,
        criterion: &'a Criterion,
        deprioritized: &'a [ServerAddress],
    ) -> impl Iterator<Item = Pass<'a>> {
        // If no other server is suitable, deprioritized servers are eligible again.
        let all: Option<&'a [ServerAddress]> = (!deprioritized.is_empty()).then_some(&[]);
        let limit = self.staleness_limit(criterion);
        let candidates = Candidates::of(self.topology.topology_type(), criterion.mode());
        let pass = move |deprioritized, candidates: Candidates, tags| Pass {
            candidates,
            tags,
            staleness: limit.filter(|_| candidates.are_restricted()),
            deprioritized,
        };
        std::iter::once(deprioritized)
            .chain(all)
            .flat_map(move |deprioritized| {
                candidates.iter().flat_map(move |&candidates| {
                    let sets = match candidates.are_restricted() {
                        true => criterion.tag_sets(),
                        false => &[],
                    };
                    let untagged = sets.is_empty().then_some(None);
                    let tags = sets.iter().map(Some).chain(untagged);
                    tags.map(move |tags| pass(deprioritized, candidates, tags))
                })
            })
    }

    /// The maximum staleness of a criterion, if it has one.
    pub(super) fn staleness_limit(&self, criterion: &Criterion) -> Option<StalenessLimit> {
        let read = criterion.read_preference()?;
        Some(self.staleness.limit(read.max_staleness?))
    }

    fn admitted(&self, pass: &Pass<'_>) -> impl Iterator<Item = &Arc<ServerEntry>> + Clone {
        self.servers
            .iter()
            .filter(move |server| pass.admits(server.description()))
    }

    /// Chooses from the servers that a pass admits, without collecting them.
    fn choose_admitted(&self, pass: &Pass<'_>, random: u64) -> Option<&Arc<ServerEntry>> {
        let window = within_window(self.admitted(pass), self.options.local_threshold);
        choose(
            window.clone().count(),
            |place| window.clone().nth(place),
            random,
        )
    }

    /// Whether a selector of the application applies to a criterion.
    #[cfg(feature = "net")]
    pub(crate) fn has_selector(&self, criterion: &Criterion) -> bool {
        self.selectors(criterion).next().is_some()
    }

    fn selectors<'a>(
        &'a self,
        criterion: &'a Criterion,
    ) -> impl Iterator<Item = &'a ServerSelector> {
        self.options.selector.iter().chain(criterion.selector())
    }

    /// The suitable servers before any selector of the application is called.
    pub(crate) fn unfiltered(
        &self,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> Vec<&Arc<ServerEntry>> {
        self.passes(criterion, deprioritized)
            .map(|pass| self.admitted(&pass).collect::<Vec<_>>())
            .find(|servers| !servers.is_empty())
            .unwrap_or_default()
    }

    fn filtered(
        &self,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> Result<Vec<&Arc<ServerEntry>>, SelectionError> {
        let mut servers = self.unfiltered(criterion, deprioritized);
        for selector in self.selectors(criterion) {
            if servers.is_empty() {
                break;
            }
            let descriptions: Vec<_> = servers
                .iter()
                .map(|server| &**server.description())
                .collect();
            // Only servers that were passed to the selector count, and each only once.
            let mut left: Vec<*const ServerDescription> = selector
                .call(&descriptions)
                .map_err(|panicked| SelectionError::Selector(panicked.to_string()))?
                .into_iter()
                .map(std::ptr::from_ref)
                .collect();
            left.sort_unstable();
            servers.retain(|server| {
                left.binary_search(&Arc::as_ptr(server.description()))
                    .is_ok()
            });
        }
        Ok(servers)
    }

    fn filtered_window(
        &self,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> Result<Vec<&Arc<ServerEntry>>, SelectionError> {
        let servers = self.filtered(criterion, deprioritized)?.into_iter();
        Ok(within_window(servers, self.options.local_threshold).collect())
    }
}

/// The servers whose average round trip time is at most `threshold` above the lowest one.
fn within_window<'a, I>(
    servers: I,
    threshold: Duration,
) -> impl Iterator<Item = &'a Arc<ServerEntry>> + Clone
where
    I: Iterator<Item = &'a Arc<ServerEntry>> + Clone,
{
    let least = servers.clone().map(|server| round_trip_time(server)).min();
    let limit = least.unwrap_or_default().saturating_add(threshold);
    servers.filter(move |server| round_trip_time(server) <= limit)
}

/// The average. For a server without a sample, such as a load balancer, it is the maximum.
fn round_trip_time(server: &ServerEntry) -> Duration {
    server
        .description()
        .round_trip_time
        .unwrap_or(Duration::MAX)
}

impl fmt::Debug for SelectionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelectionIndex")
            .field("options", &self.options)
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}
