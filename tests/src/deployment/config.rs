//! A replica set's configuration: its members and their kinds.

use bson::Document;

/// The kind of a member of a replica set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberKind {
    /// Bears data and may become primary: listed in `hosts`.
    #[default]
    Electable,
    /// Bears data, priority 0: listed in `passives`.
    Passive,
    /// Bears data, priority 0, and is listed nowhere.
    Hidden,
    /// Bears no data: listed in `arbiters`.
    Arbiter,
}

/// One member in the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigEntry {
    /// Its number in the [`ReplicaSetState`](super::ReplicaSetState).
    pub member: usize,
    /// `host:port`: its `me`, and what the others list.
    pub address: String,
    /// Its kind.
    pub kind: MemberKind,
    /// Its tags. All values are strings.
    pub tags: Document,
}

/// A version of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct SetConfig {
    /// `setVersion`, from 1.
    pub version: i32,
    /// The members, in the order in which they are listed.
    pub entries: Vec<ConfigEntry>,
}

impl SetConfig {
    /// A member's entry, `None` if it is not in the set.
    pub fn entry(&self, member: usize) -> Option<&ConfigEntry> {
        self.entries.iter().find(|entry| entry.member == member)
    }

    pub(super) fn entry_mut(&mut self, member: usize) -> &mut ConfigEntry {
        self.entries
            .iter_mut()
            .find(|entry| entry.member == member)
            .unwrap_or_else(|| panic!("member {member} is not in the set"))
    }

    /// The addresses of all members of a kind.
    pub fn addresses(&self, kind: MemberKind) -> Vec<&str> {
        self.entries
            .iter()
            .filter(|entry| entry.kind == kind)
            .map(|entry| entry.address.as_str())
            .collect()
    }
}
