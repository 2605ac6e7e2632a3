//! Errors of server selection, with advice.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::Criterion;
use crate::error::{Error, ErrorKind};
use crate::sdam::{
    CompatibilityError, SdamError, ServerDescription, ServerType, TopologyDescription,
};
use crate::text::Rounded;

/// How many servers are shown. Servers that failed come first.
const MAX_SHOWN: usize = 10;

/// The longest text about one server, in characters.
const MAX_SHOWN_LENGTH: usize = 300;

/// No server can be selected.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// A server has no wire version in common with this crate. Every selection fails at once, for
    /// any criterion.
    #[error(transparent)]
    Incompatible(CompatibilityError),
    /// The maximum staleness is too small for a replica set. The selection fails at once.
    #[error(
        "maxStalenessSeconds is {}, and must be at least {} with a replica set: 90 s, and no less \
         than heartbeatFrequencyMS and 10 s",
        limit.as_secs_f64(),
        smallest.as_secs_f64()
    )]
    MaxStalenessTooSmall {
        /// The maximum staleness of the read preference.
        limit: Duration,
        /// The smallest allowed one.
        smallest: Duration,
    },
    /// A selector of the application ([`ServerSelector`](super::ServerSelector)) panicked, with
    /// this message. The selection fails at once, because any server might be one that the
    /// application excludes.
    #[error("{0}")]
    Selector(String),
    /// No server became suitable in time.
    #[error(transparent)]
    NoSuitableServer(Box<NoSuitableServer>),
}

impl SelectionError {
    /// The error of a failed selection; `None` if it is another one.
    pub fn of(error: &Error) -> Option<&Self> {
        match error.kind() {
            ErrorKind::ServerSelection(error) => error.downcast_ref(),
            _ => None,
        }
    }

    /// The most recent failure of a heartbeat of any server, or of a command that made a server
    /// unknown.
    pub fn last_failure(&self) -> Option<&Error> {
        match self {
            Self::Incompatible(_) | Self::MaxStalenessTooSmall { .. } | Self::Selector(_) => None,
            Self::NoSuitableServer(error) => error.last_failure(),
        }
    }
}

/// The obstacle to a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// The topology has no server left.
    #[error(
        "no server is left: none of the hosts in the connection string belongs to the deployment; \
         check the hosts, and replicaSet if it is set"
    )]
    NoServers,
    /// No server has answered yet, and none has failed.
    #[error("no server has answered yet; check that the hosts can be reached")]
    NotChecked,
    /// All servers have failed, are not of the expected type, or have not answered yet.
    #[error(
        "no server can be used, for the reason that is shown for each; check the hosts and ports, \
         TLS, replicaSet, the network, and that the servers run"
    )]
    Unreachable,
    /// Servers answer, but none is of a type that supports reads or writes.
    #[error(
        "none of the servers that answer is data-bearing; check that the replica set is \
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
    /// All eligible members are too stale, or do not report their last write.
    #[error("all secondaries exceed maxStalenessSeconds, or do not report their last write")]
    TooStale,
    /// No eligible member has the tags.
    #[error("no member has all the tags of one of the read preference's tag sets")]
    Tags,
    /// The application's selector returned no server.
    #[error("the custom server selector returned none of the suitable servers")]
    Selector,
}

/// No server became suitable in time: the criterion, and the last description of the deployment.
///
/// `Display` is one line: the criterion, the obstacle with advice, the topology's type, and the
/// type and last failure of at most ten servers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NoSuitableServer {
    /// The criterion of the selection.
    pub criterion: Criterion,
    /// The obstacle.
    pub obstacle: Obstacle,
    /// The duration of the wait.
    pub after: Duration,
    /// The last description of the deployment.
    pub topology: Arc<TopologyDescription>,
}

impl NoSuitableServer {
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

/// `Display` shows the failures; [`SelectionError::last_failure`] returns the last one as a value.
impl std::error::Error for NoSuitableServer {}

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

/// Writes at most `left` characters and drops the rest.
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
