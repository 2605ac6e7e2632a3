//! Members without a connection to the others: each goes on with its own copy of the data, which
//! rolls back when it rejoins.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Bson, Document, doc};

use super::sessions::{Sessions, Transaction};
use super::snapshots::Snapshots;
use super::{Call, Collections, Data, Progress, Step, wait};
use crate::deployment::is_write;
use crate::statement::size;

/// How long a write waits at a time for other members.
const REPLICATION: Duration = Duration::from_secs(3600);

/// The data of an isolated member.
#[derive(Debug)]
struct Branch {
    collections: Collections,
    sessions: Sessions,
    snapshots: Snapshots,
    /// The number of writes of the others when the member was isolated.
    writes: u64,
}

/// The isolated members by number.
#[derive(Debug, Default)]
pub(super) struct Branches(BTreeMap<usize, Branch>);

/// A member's connection to the others, and whether it is their primary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contact {
    pub(crate) is_connected: bool,
    pub(crate) is_primary: bool,
}

impl Branches {
    /// The documents as an isolated member has them.
    pub(super) fn collections(&self, member: usize) -> Option<&Collections> {
        self.0.get(&member).map(|branch| &branch.collections)
    }
}

impl Data {
    fn swap(&mut self, branch: &mut Branch) {
        std::mem::swap(&mut self.collections, &mut branch.collections);
        std::mem::swap(&mut self.sessions, &mut branch.sessions);
        std::mem::swap(&mut self.snapshots, &mut branch.snapshots);
    }

    /// Gives newly isolated members their own copy. The copy of one that rejoins is dropped, except
    /// that of a primary without a successor.
    pub(super) fn follow(&mut self, contacts: &[Contact]) {
        for (member, contact) in contacts.iter().enumerate() {
            if contact.is_connected {
                let Some(mut branch) = self.branches.0.remove(&member) else {
                    continue;
                };
                if contact.is_primary && branch.writes == self.writes {
                    self.swap(&mut branch);
                }
            } else if !self.branches.0.contains_key(&member) {
                let mut sessions = self.sessions.clone();
                let is_own = |open: &Transaction| open.tenure.0 == member;
                sessions.abort_where(|open| !is_own(open));
                self.sessions.abort_where(is_own);
                let branch = Branch {
                    collections: self.collections.clone(),
                    sessions,
                    snapshots: self.snapshots.clone(),
                    writes: self.writes,
                };
                self.branches.0.insert(member, branch);
            }
        }
    }

    /// Executes a command on the data that its member has.
    pub(super) fn perform_on_branch(&mut self, server: usize, call: &Call<'_>) -> Step {
        let member = call.seat.map(|seat| seat.server);
        let branch = member.and_then(|member| Some((member, self.branches.0.remove(&member)?)));
        let Some((member, mut branch)) = branch else {
            return self.perform_replicated(server, call);
        };
        let writes = self.writes;
        self.swap(&mut branch);
        self.end_lost_transactions(call);
        let step = self.perform_replicated(server, call);
        self.swap(&mut branch);
        self.writes = writes;
        self.branches.0.insert(member, branch);
        step
    }

    /// A write that a majority has to acknowledge waits, without its execution, while the primary
    /// can't reach one. After its `wtimeout` it is executed on the primary alone.
    fn perform_replicated(&mut self, server: usize, call: &Call<'_>) -> Step {
        let Some(concern) = unreplicated(call) else {
            return self.perform(server, call);
        };
        let limit = size(concern, "wtimeout").filter(|&limit| limit > 0);
        let limit = limit.and_then(|limit| u64::try_from(limit).ok());
        let limit = limit.map_or(REPLICATION + call.waited, Duration::from_millis);
        match limit.checked_sub(call.waited) {
            Some(left) if !left.is_zero() => wait(call, left),
            _ => Ok(match self.perform(server, call)? {
                Progress::Done(reply) => Progress::Done(unacknowledged(reply)),
                unfinished => unfinished,
            }),
        }
    }
}

/// The write concern of a write, if the primary can't satisfy it now.
fn unreplicated<'a>(call: &Call<'a>) -> Option<&'a Document> {
    let writes = is_write(call.name, call.command);
    let concern = call.command.get_document("writeConcern").ok()?;
    let needs_others = match concern.get("w")? {
        Bson::String(_) => true,
        _ => size(concern, "w").is_some_and(|w| w > 1),
    };
    let is_alone = call.seat.is_some_and(|seat| !seat.has_majority());
    (writes && needs_others && is_alone).then_some(concern)
}

fn unacknowledged(mut reply: Document) -> Document {
    reply.insert(
        "writeConcernError",
        doc! {
            "code": 64,
            "codeName": "WriteConcernTimeout",
            "errmsg": "waiting for replication timed out",
            "errInfo": {"wtimeout": true},
        },
    );
    reply
}
