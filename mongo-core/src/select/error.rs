//! Why no server could be selected, in words that a person can act on.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::rules::{Candidates, is_replica_set};
use super::{Criterion, ReadPreferenceMode, SelectionIndex};
use crate::error::Error;
use crate::sdam::{
    CompatibilityError, SdamError, ServerDescription, ServerType, TopologyDescription,
};
use crate::text::Rounded;

/// How many servers are shown, those that failed first.
const MAX_SHOWN: usize = 10;

/// How much is shown of what is known of one server, in characters.
const MAX_SHOWN_LENGTH: usize = 300;

/// No server can be selected.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// A server speaks no wire version in common with this crate. It is told at once, whichever
    /// server the operation asks for.
    #[error(transparent)]
    Incompatible(CompatibilityError),
    /// A replica set allows no such small maximum staleness. It is told at once.
    #[error(
        "maxStalenessSeconds is {}, and must be at least {} with a replica set: 90 s, and no less \
         than heartbeatFrequencyMS and 10 s",
        limit.as_secs_f64(),
        smallest.as_secs_f64()
    )]
    MaxStalenessTooSmall {
        /// What the read preference asks for.
        limit: Duration,
        /// The least that is allowed.
        smallest: Duration,
    },
    /// A selector of the application ([`ServerSelector`](super::ServerSelector)) panicked, with its
    /// message. The operation fails at once: without the selector's answer any server might be one
    /// that the application excludes.
    #[error("{0}")]
    Selector(String),
    /// No server was suitable for as long as could be waited.
    #[error(transparent)]
    NoSuitableServer(Box<NoSuitableServer>),
}

impl SelectionError {
    /// The most recent failure of a check of any server, or of a command that made a server unknown.
    pub fn last_failure(&self) -> Option<&Error> {
        match self {
            Self::Incompatible(_) | Self::MaxStalenessTooSmall { .. } | Self::Selector(_) => None,
            Self::NoSuitableServer(error) => error.last_failure(),
        }
    }
}

/// What stands in the way of a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// The topology has no server left.
    #[error(
        "no server is left: none of the hosts in the connection string belongs to the deployment; \
         check the hosts, and replicaSet if it is set"
    )]
    NoServers,
    /// No server answered yet, and none failed.
    #[error("no server has answered yet; check that the hosts can be reached")]
    NotChecked,
    /// All servers failed or are not what was asked for, or have not answered yet.
    #[error(
        "no server can be used, each for its own reason; check the hosts and ports, TLS, \
         replicaSet, the network, and that the servers run"
    )]
    Unreachable,
    /// Servers answer, and none is of a type that data is read from or written to.
    #[error(
        "the servers that answer hold no data for applications; check that the replica set is \
         initiated, and that its members are neither hidden nor recovering"
    )]
    NoData,
    /// The replica set has no primary.
    #[error(
        "no primary is known: an election may be under way, or most members of the replica set \
         cannot reach each other, or the primary cannot be reached from here"
    )]
    NoPrimary,
    /// The replica set has no secondary.
    #[error("no secondary can be reached; check the members of the replica set")]
    NoSecondary,
    /// All members that come into question are too stale, or don't tell.
    #[error("all secondaries are further behind than maxStalenessSeconds, or do not tell")]
    TooStale,
    /// No member that comes into question has the tags.
    #[error("no member has all the tags of one of the read preference's tag sets")]
    Tags,
    /// The application's selector left no server.
    #[error("the custom server selector left none of the suitable servers")]
    Selector,
}

/// No server was suitable for as long as could be waited: what was asked for, and what was there.
///
/// `Display` is one line: the criterion, what stands in the way and what to do about it, the
/// topology's type, and each server's type and own last failure, of ten servers at most.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NoSuitableServer {
    /// What was asked for.
    pub criterion: Criterion,
    /// What stands in the way.
    pub obstacle: Obstacle,
    /// How long was waited.
    pub after: Duration,
    /// The deployment, as it was last seen.
    pub topology: Arc<TopologyDescription>,
}

impl NoSuitableServer {
    pub(super) fn new(index: &SelectionIndex, criterion: &Criterion, after: Duration) -> Self {
        Self {
            criterion: criterion.clone(),
            obstacle: obstacle(index, criterion),
            after,
            topology: index.topology().clone(),
        }
    }

    fn last_failure(&self) -> Option<&Error> {
        let servers = self.topology.servers().iter();
        let failures = servers.filter_map(|server| match &server.error {
            Some(SdamError::Failed(error)) => Some((server.last_update_time, error)),
            Some(_) | None => None,
        });
        failures
            .max_by_key(|(time, _)| *time)
            .map(|(_, error)| error)
    }
}

/// `Display` shows the failures; [`SelectionError::last_failure`] gives the last one as a value.
impl std::error::Error for NoSuitableServer {}

fn obstacle(index: &SelectionIndex, criterion: &Criterion) -> Obstacle {
    let topology = index.topology();
    let servers = topology.servers();
    if servers.is_empty() {
        return Obstacle::NoServers;
    }
    let silent = |server: &ServerDescription| server.server_type == ServerType::Unknown;
    if servers.iter().all(|server| silent(server)) {
        return match servers.iter().any(|server| server.error.is_some()) {
            true => Obstacle::Unreachable,
            false => Obstacle::NotChecked,
        };
    }
    if !index.unfiltered(criterion, &[]).is_empty() {
        return Obstacle::Selector;
    }
    if !is_replica_set(topology.topology_type()) {
        return Obstacle::NoData;
    }
    let candidates = Candidates::of(topology.topology_type(), criterion.mode());
    let mut some = servers.iter().filter(|server| {
        let server_type = server.server_type;
        candidates.iter().any(|some| some.include(server_type))
    });
    let (any, fresh) = match index.staleness_limit(criterion) {
        None => (some.next().is_some(), true),
        Some(limit) => (
            some.clone().next().is_some(),
            some.any(|server| limit.admits(server)),
        ),
    };
    match (any, fresh, criterion.mode()) {
        (true, false, _) => Obstacle::TooStale,
        (true, true, _) => Obstacle::Tags,
        (false, _, ReadPreferenceMode::Primary) => Obstacle::NoPrimary,
        (false, _, ReadPreferenceMode::Secondary) => Obstacle::NoSecondary,
        (
            false,
            _,
            ReadPreferenceMode::PrimaryPreferred
            | ReadPreferenceMode::SecondaryPreferred
            | ReadPreferenceMode::Nearest,
        ) => Obstacle::NoData,
    }
}

impl fmt::Display for NoSuitableServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (criterion, obstacle, topology) = (&self.criterion, self.obstacle, &self.topology);
        f.write_str("no server was found")?;
        if !self.after.is_zero() {
            write!(f, " within {}", Rounded(self.after))?;
        }
        write!(f, " for {criterion}: {obstacle}. The topology is ")?;
        write!(f, "{}", topology.topology_type())?;
        if let Some(name) = topology.set_name() {
            write!(f, " of the replica set {name:?}")?;
        }
        let servers = topology.servers();
        if servers.is_empty() {
            return Ok(());
        }
        f.write_str(", its servers are ")?;
        let failed = |server: &&Arc<ServerDescription>| server.error.is_some();
        let ordered = servers.iter().filter(failed);
        let ordered = ordered.chain(servers.iter().filter(|server| !failed(server)));
        let tagged = !criterion.tag_sets().is_empty();
        for (place, server) in ordered.take(MAX_SHOWN).enumerate() {
            f.write_str(if place > 0 { "; " } else { "" })?;
            let mut short = Short {
                f,
                left: MAX_SHOWN_LENGTH,
                dropped: false,
            };
            show(server, tagged, &mut short)?;
            short.end()?;
        }
        match servers.len().saturating_sub(MAX_SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

fn show(server: &ServerDescription, tagged: bool, to: &mut Short<'_, '_>) -> fmt::Result {
    write!(to, "{} ({}", server.address, server.server_type)?;
    match &server.error {
        Some(error) => write!(to, ": {error}")?,
        None if server.server_type == ServerType::Unknown => write!(to, ": no answer yet")?,
        None if tagged => write!(to, " with tags {:?}", server.tags)?,
        None => {}
    }
    write!(to, ")")
}

/// Lets through so many characters and drops the rest.
struct Short<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    left: usize,
    dropped: bool,
}

impl Short<'_, '_> {
    fn end(self) -> fmt::Result {
        match self.dropped {
            true => self.f.write_str("..."),
            false => Ok(()),
        }
    }
}

impl Write for Short<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let Some(left) = self.left.checked_sub(1) else {
                self.dropped = true;
                break;
            };
            self.left = left;
            self.f.write_char(character)?;
        }
        Ok(())
    }
}
