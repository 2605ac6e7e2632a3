//! The part of a replica set member's hello reply that describes the set.

use bson::{Bson, DateTime, Document, doc};

use super::config::MemberKind;
use super::state::{ReplicaSetState, Standing};

impl ReplicaSetState {
    /// A member's hello reply, without the fields common to all servers.
    pub fn hello(&self, member: usize) -> Document {
        let state = &self.members[member];
        let mut reply = doc! {"topologyVersion": state.process.topology_version()};
        let standing = self.standing(member);
        let Some(entry) = state.config.entry(member) else {
            reply.extend(doc! {
                "isWritablePrimary": false,
                "secondary": false,
                "info": "Does not have a valid replica set config",
                "isreplicaset": true,
            });
            return reply;
        };
        let lists = [
            ("hosts", MemberKind::Electable),
            ("passives", MemberKind::Passive),
            ("arbiters", MemberKind::Arbiter),
        ];
        for (name, kind) in lists {
            let addresses = state.config.addresses(kind);
            if kind == MemberKind::Electable || !addresses.is_empty() {
                reply.insert(name, addresses);
            }
        }
        reply.extend(doc! {
            "setName": self.name.as_str(),
            "setVersion": state.config.version,
            "isWritablePrimary": standing == Standing::Primary,
            "secondary": standing == Standing::Secondary,
        });
        let primary = state.known_primary.and_then(|p| state.config.entry(p));
        if let Some(primary) = primary {
            reply.insert("primary", primary.address.as_str());
        }
        match entry.kind {
            MemberKind::Electable => {}
            MemberKind::Passive => reply.extend([flag("passive")]),
            MemberKind::Hidden => reply.extend([flag("passive"), flag("hidden")]),
            MemberKind::Arbiter => reply.extend([flag("arbiterOnly")]),
        }
        if !entry.tags.is_empty() {
            reply.insert("tags", entry.tags.clone());
        }
        reply.insert("me", entry.address.as_str());
        if let Some(term) = state.elected_in {
            reply.insert("electionId", Self::election_id(term));
        }
        if entry.kind != MemberKind::Arbiter {
            reply.insert("lastWrite", self.last_write(member));
        }
        reply
    }

    fn last_write(&self, member: usize) -> Document {
        let (time, date) = self.last_write;
        let lag = match self.standing(member) {
            Standing::Primary => 0,
            _ => i64::try_from(self.members[member].lag.as_millis()).unwrap_or(i64::MAX),
        };
        let date = DateTime::from_millis(date.timestamp_millis().saturating_sub(lag));
        let op_time = doc! {"ts": time, "t": self.term};
        doc! {
            "opTime": op_time.clone(),
            "lastWriteDate": date,
            "majorityOpTime": op_time,
            "majorityWriteDate": date,
        }
    }

    /// A minimal reply to `replSetGetStatus`.
    pub fn status(&self, member: usize, now: DateTime) -> Document {
        let members: Vec<Bson> = self.members[member]
            .config
            .entries
            .iter()
            .map(|entry| {
                let (number, name) = self.state_of(entry.member);
                let id = i32::try_from(entry.member).unwrap_or(i32::MAX);
                doc! {
                    "_id": id,
                    "name": entry.address.as_str(),
                    "health": if self.is_running(entry.member) { 1.0 } else { 0.0 },
                    "state": number,
                    "stateStr": name,
                    "self": entry.member == member,
                }
                .into()
            })
            .collect();
        doc! {
            "set": self.name.as_str(),
            "date": now,
            "myState": self.state_of(member).0,
            "term": self.term,
            "members": members,
        }
    }

    /// A member's state, as number and name in `replSetGetStatus`.
    fn state_of(&self, member: usize) -> (i32, &'static str) {
        if !self.is_running(member) {
            return (8, "(not reachable/healthy)");
        }
        match self.standing(member) {
            Standing::Primary => (1, "PRIMARY"),
            Standing::Secondary => (2, "SECONDARY"),
            Standing::Recovering => (3, "RECOVERING"),
            Standing::Arbiter => (7, "ARBITER"),
            Standing::Removed => (10, "REMOVED"),
        }
    }
}

fn flag(name: &str) -> (String, Bson) {
    (name.to_owned(), Bson::Boolean(true))
}
