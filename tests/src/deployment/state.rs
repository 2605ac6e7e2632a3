//! The state machine of a replica set: no sockets, no clock, no tasks.

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{DateTime, Document, Timestamp};

use super::config::{ConfigEntry, MemberKind, SetConfig};
use super::process::Process;
use crate::store::Contact;

/// A member's own view of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It accepts writes. An isolated primary may be a former primary.
    Primary,
    /// It answers reads that allow secondaries.
    Secondary,
    /// It bears data, but currently answers no reads.
    Recovering,
    /// It only votes.
    Arbiter,
    /// It knows no configuration that contains it: an RSGhost to clients.
    Removed,
}

/// One member, and its knowledge of the set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    pub(super) process: Process,
    pub(super) is_running: bool,
    /// Whether it is connected to the other members.
    pub(super) is_connected: bool,
    pub(super) is_recovering: bool,
    /// The term in which it was elected, while it is primary.
    pub(super) elected_in: Option<i64>,
    pub(super) known_primary: Option<usize>,
    pub(super) config: Arc<SetConfig>,
    pub(super) lag: Duration,
    /// Not electable until then.
    pub(super) frozen_until: Option<DateTime>,
}

impl Member {
    fn new(process: Process, config: Arc<SetConfig>) -> Self {
        Self {
            process,
            is_running: true,
            is_connected: true,
            is_recovering: false,
            elected_in: None,
            known_primary: None,
            config,
            lag: Duration::ZERO,
            frozen_until: None,
        }
    }

    fn hears(&self) -> bool {
        self.is_running && self.is_connected
    }
}

/// A replica set as a pure state machine. Members are numbered from 0 in the order of adding.
///
/// Each change spreads to all running, connected members: the newest configuration, and the primary
/// of the newest term. Older primaries step down. An isolated member keeps its knowledge, so it may
/// remain a former primary. Each member's `topologyVersion` counts the changes that its own hello
/// shows.
///
/// Methods panic if the member does not exist or can't do what the test asks.
#[derive(Clone, Debug)]
pub struct ReplicaSetState {
    pub(super) name: String,
    pub(super) term: i64,
    pub(super) members: Vec<Member>,
    pub(super) last_write: (Timestamp, DateTime),
}

impl ReplicaSetState {
    /// Creates a set without a primary, in which all members run. `now` is the time of its last
    /// write.
    pub fn new(
        name: &str,
        members: impl IntoIterator<Item = (ConfigEntry, Process)>,
        now: DateTime,
    ) -> Self {
        let (entries, processes): (Vec<_>, Vec<_>) = members.into_iter().unzip();
        let config = Arc::new(SetConfig {
            version: 1,
            entries,
        });
        let member = |process| Member::new(process, Arc::clone(&config));
        let mut state = Self {
            name: name.to_owned(),
            term: 0,
            members: processes.into_iter().map(member).collect(),
            last_write: (
                Timestamp {
                    time: 1,
                    increment: 1,
                },
                now,
            ),
        };
        state.spread();
        state
    }

    /// `setName`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many members there are or were.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The running primary of the newest term that is connected to the others.
    pub fn primary(&self) -> Option<usize> {
        self.hearing()
            .filter(|&member| self.standing(member) == Standing::Primary)
            .max_by_key(|&member| self.members[member].elected_in)
    }

    /// A member's own view of its state.
    pub fn standing(&self, member: usize) -> Standing {
        let state = &self.members[member];
        match state.config.entry(member).map(|entry| entry.kind) {
            None => Standing::Removed,
            Some(MemberKind::Arbiter) => Standing::Arbiter,
            Some(_) if state.elected_in.is_some() => Standing::Primary,
            Some(_) if state.is_recovering => Standing::Recovering,
            Some(_) => Standing::Secondary,
        }
    }

    /// The configuration that a member knows.
    pub fn config(&self, member: usize) -> &SetConfig {
        &self.members[member].config
    }

    /// A member's process.
    pub fn process(&self, member: usize) -> &Process {
        &self.members[member].process
    }

    pub(super) fn process_mut(&mut self, member: usize) -> &mut Process {
        &mut self.members[member].process
    }

    /// Whether a member's process runs.
    pub fn is_running(&self, member: usize) -> bool {
        self.members[member].is_running
    }

    /// The `electionId` of a term. It grows with the term, as on real servers.
    pub fn election_id(term: i64) -> ObjectId {
        let mut bytes = [0; 12];
        bytes[0] = 0x7f;
        bytes[1..4].fill(0xff);
        bytes[4..].copy_from_slice(&term.to_be_bytes());
        ObjectId::from_bytes(bytes)
    }

    /// Makes a member the primary of a new term. Its predecessor steps down if it is connected.
    pub fn elect(&mut self, member: usize) {
        let standing = self.standing(member);
        let may = matches!(standing, Standing::Primary | Standing::Secondary);
        assert!(
            may && self.is_running(member),
            "member {member} can't be elected: it is {standing:?}, running: {}",
            self.is_running(member)
        );
        self.change(|state| {
            state.term += 1;
            state.members[member].elected_in = Some(state.term);
        });
    }

    /// Makes a primary a secondary, which leaves the set without one.
    pub fn step_down(&mut self, member: usize) {
        self.change(|state| state.members[member].elected_in = None);
    }

    /// Ends a member's process.
    pub fn kill(&mut self, member: usize) {
        self.change(|state| {
            let member = &mut state.members[member];
            member.is_running = false;
            member.elected_in = None;
        });
    }

    /// Restarts a killed member's process. It does not restart as primary.
    pub fn restart(&mut self, member: usize, process_id: ObjectId) {
        self.change(|state| {
            let member = &mut state.members[member];
            member.process.id = process_id;
            member.process.counter = 0;
            member.is_running = true;
            member.elected_in = None;
            member.known_primary = None;
            member.frozen_until = None;
        });
    }

    /// Disconnects a member from the other members, but not from clients.
    pub fn isolate(&mut self, member: usize) {
        self.change(|state| state.members[member].is_connected = false);
    }

    /// Ends [`isolate`](Self::isolate), so that all members share their knowledge.
    pub fn rejoin(&mut self, member: usize) {
        self.change(|state| state.members[member].is_connected = true);
    }

    /// Makes a member recovering, or a secondary again.
    pub fn set_recovering(&mut self, member: usize, is_recovering: bool) {
        self.change(|state| {
            let member = &mut state.members[member];
            member.is_recovering = is_recovering;
            if is_recovering {
                member.elected_in = None;
            }
        });
    }

    /// Changes a member's wire versions.
    pub fn set_wire_versions(&mut self, member: usize, min: i32, max: i32) {
        self.change(|state| state.members[member].process.wire_versions = (min, max));
    }

    /// Sets how far a member's `lastWrite` dates are behind the primary's. This is no topology
    /// change.
    pub fn set_lag(&mut self, member: usize, lag: Duration) {
        self.members[member].lag = lag;
    }

    /// Makes a member not electable until then, or electable again.
    pub fn freeze_elections(&mut self, member: usize, until: Option<DateTime>) {
        self.members[member].frozen_until = until;
    }

    /// Installs the next version of the configuration on all connected members.
    pub fn reconfigure(&mut self, edit: impl FnOnce(&mut SetConfig)) {
        self.change(|state| {
            let mut config = (*state.newest_config()).clone();
            edit(&mut config);
            config.version += 1;
            let config = Arc::new(config);
            for member in state.members.iter_mut().filter(|member| member.hears()) {
                member.config = Arc::clone(&config);
            }
        });
    }

    /// Adds a new or removed member.
    pub fn add(&mut self, entry: ConfigEntry, process: Process) {
        let number = entry.member;
        assert!(number <= self.len(), "members have consecutive numbers");
        if number == self.len() {
            let config = self.newest_config();
            self.members.push(Member::new(process, config));
        }
        self.reconfigure(|config| config.entries.push(entry));
    }

    /// Removes a member from the set. Its process continues.
    pub fn remove(&mut self, member: usize) {
        self.reconfigure(|config| config.entries.retain(|entry| entry.member != member));
    }

    /// Lists a member under another address from now on.
    pub fn rename(&mut self, member: usize, address: &str) {
        self.reconfigure(|config| address.clone_into(&mut config.entry_mut(member).address));
    }

    /// Replaces a member's tags.
    pub fn set_tags(&mut self, member: usize, tags: Document) {
        self.reconfigure(|config| config.entry_mut(member).tags = tags);
    }

    /// Records a write on a member.
    pub fn wrote(&mut self, member: usize, now: DateTime) {
        self.members[member].process.tick(now);
        let time = self.members[member].process.cluster_time;
        self.last_write = (time, now);
        let hears = self.members[member].hears();
        for (number, other) in self.members.iter_mut().enumerate() {
            if number == member || hears && other.hears() {
                other.process.learn(time);
                other.process.last_write = time;
            }
        }
    }

    /// The member to elect now, if there is no primary and a majority is available.
    pub fn candidate(&self, now: DateTime) -> Option<usize> {
        let config = self.newest_config();
        let is_in = |&member: &usize| config.entry(member).is_some();
        let voters = self.hearing().filter(is_in).count();
        if self.primary().is_some() || voters * 2 <= config.entries.len() {
            return None;
        }
        self.hearing().find(|&member| {
            let is_electable = |entry: &ConfigEntry| entry.kind == MemberKind::Electable;
            config.entry(member).is_some_and(is_electable)
                && self.standing(member) == Standing::Secondary
                && self.members[member]
                    .frozen_until
                    .is_none_or(|until| until <= now)
        })
    }

    /// The members' connections to each other.
    pub(super) fn contacts(&self) -> Vec<Contact> {
        let primary = self.primary();
        let contact = |(number, member): (usize, &Member)| Contact {
            is_connected: member.is_connected,
            is_primary: Some(number) == primary,
        };
        self.members.iter().enumerate().map(contact).collect()
    }

    /// Whether a member reaches a majority of the set.
    pub(super) fn has_majority(&self, member: usize) -> bool {
        let config = &self.members[member].config;
        let is_in = |&other: &usize| config.entry(other).is_some();
        let reached = match self.members[member].hears() {
            true => self.hearing().filter(is_in).count(),
            false => 1,
        };
        reached * 2 > config.entries.len()
    }

    fn hearing(&self) -> impl Iterator<Item = usize> + '_ {
        let hears = |&member: &usize| self.members[member].hears();
        (0..self.members.len()).filter(hears)
    }

    /// The newest configuration of the connected members, or else of any member.
    fn newest_config(&self) -> Arc<SetConfig> {
        let all = self.members.iter();
        let newest = all.max_by_key(|member| (member.hears(), member.config.version));
        Arc::clone(&newest.expect("a set has members").config)
    }

    fn change(&mut self, edit: impl FnOnce(&mut Self)) {
        let before: Vec<_> = (0..self.len()).map(|member| self.face(member)).collect();
        edit(self);
        self.spread();
        for (member, before) in before.into_iter().enumerate() {
            if self.is_running(member) && self.face(member) != before {
                self.members[member].process.counter += 1;
            }
        }
    }

    /// The parts of a member's hello that may change.
    fn face(&self, member: usize) -> impl PartialEq + use<> {
        let state = &self.members[member];
        (
            self.standing(member),
            state.elected_in,
            state.known_primary,
            state.config.version,
            state.process.wire_versions,
        )
    }

    /// Shares the newest knowledge among connected members.
    fn spread(&mut self) {
        let config = self.newest_config();
        for member in self.members.iter_mut().filter(|member| member.hears()) {
            member.config = Arc::clone(&config);
        }
        let leader = self.primary();
        for (number, member) in self.members.iter_mut().enumerate() {
            if !member.is_running {
                continue;
            }
            if member.is_connected {
                if Some(number) != leader {
                    member.elected_in = None;
                }
                member.known_primary = leader;
            } else if member.elected_in.is_some() {
                member.known_primary = Some(number);
            } else if member.known_primary == Some(number) {
                member.known_primary = None;
            }
        }
    }
}
