//! One server's place in its deployment, as its connections see it.

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, Timestamp, doc};

use super::state::{ReplicaSetState, Standing};
use super::world::{Roles, World};
use crate::action::ErrorReply;
use crate::codec::{Form, Request};
use crate::commands::Outcome;
use crate::statement::size;
use crate::transactions::Tenure;

/// OP_QUERY flag that allows a secondary to answer.
const SECONDARY_OK: u32 = 1 << 2;

const WRITES: [&str; 15] = [
    "insert",
    "update",
    "delete",
    "findandmodify",
    "bulkwrite",
    "create",
    "collmod",
    "drop",
    "dropdatabase",
    "renamecollection",
    "createindexes",
    "dropindexes",
    "createuser",
    "updateuser",
    "dropuser",
];
const READS: [&str; 9] = [
    "find",
    "aggregate",
    "count",
    "distinct",
    "listcollections",
    "listdatabases",
    "listindexes",
    "collstats",
    "dbstats",
];

#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) world: Arc<World>,
    pub(crate) server: usize,
    /// Whether it is behind a load balancer.
    pub(crate) is_balanced: bool,
}

/// The `topologyVersion` that a client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownVersion {
    process_id: ObjectId,
    counter: i64,
}

impl KnownVersion {
    pub(crate) fn of(document: &Document) -> Option<Self> {
        let version = document.get_document("topologyVersion").ok()?;
        Some(Self {
            process_id: version.get_object_id("processId").ok()?,
            counter: version.get_i64("counter").ok()?,
        })
    }
}

impl Seat {
    /// The time by the server's own clock.
    pub(crate) fn now(&self) -> DateTime {
        let skew = |roles: &Roles| roles.process(self.server).clock_skew;
        let now = self.world.now().timestamp_millis();
        DateTime::from_millis(now.saturating_add(self.world.look(skew)))
    }

    pub(crate) fn wire_versions(&self) -> (i32, i32) {
        self.world
            .look(|roles| roles.process(self.server).wire_versions)
    }

    pub(crate) fn has_sessions(&self) -> bool {
        self.world.look(|roles| match roles {
            Roles::Set(set) => !matches!(
                set.standing(self.server),
                Standing::Arbiter | Standing::Removed
            ),
            Roles::Mongoses(_) | Roles::Standalones(_) => true,
        })
    }

    /// The fields of a hello reply that depend on this server's place.
    pub(crate) fn hello(&self, wants_service: bool) -> Document {
        self.world.look(|roles| {
            let mut reply = roles.hello(self.server);
            if wants_service && self.is_balanced {
                reply.insert("serviceId", roles.process(self.server).id);
            }
            reply
        })
    }

    pub(crate) fn tenure(&self) -> Tenure {
        self.world.look(|roles| roles.tenure(self.server))
    }

    /// Whether a server is in its role still.
    pub(crate) fn is_current(&self, tenure: &Tenure) -> bool {
        self.world.look(|roles| roles.tenure(tenure.0) == *tenure)
    }

    /// Whether a write on this server can reach a majority.
    pub(crate) fn has_majority(&self) -> bool {
        self.world.look(|roles| match roles {
            Roles::Set(set) => set.has_majority(self.server),
            Roles::Mongoses(_) | Roles::Standalones(_) => true,
        })
    }

    pub(crate) fn is_mongos(&self) -> bool {
        let is_mongos = |roles: &Roles| matches!(roles, Roles::Mongoses(_));
        self.world.look(is_mongos)
    }

    /// The time of the newest write, if the server has a cluster time.
    pub(crate) fn operation_time(&self) -> Option<Timestamp> {
        self.world.look(|roles| roles.operation_time(self.server))
    }

    /// Waits until the server's hello changes, for at most `limit`.
    pub(crate) async fn wait_for_news(&self, known: KnownVersion, limit: Duration) {
        let has_news = |roles: &Roles| {
            let process = roles.process(self.server);
            process.id != known.process_id || process.counter > known.counter
        };
        // A timeout is a valid outcome.
        let _ = tokio::time::timeout(limit, self.world.wait_until(has_news)).await;
    }

    /// Learns a cluster time from a command.
    pub(crate) fn hear(&self, command: &Document) {
        let time = command
            .get_document("$clusterTime")
            .and_then(|time| time.get_timestamp("clusterTime"));
        if let Ok(time) = time {
            self.world
                .note(|roles| roles.process_mut(self.server).learn(time));
        }
    }

    /// Adds the cluster time to a reply, if the server has one.
    pub(crate) fn sign(&self, reply: &mut Document) {
        if self.has_cluster_time() {
            self.world
                .look(|roles| roles.process(self.server).sign(reply));
        }
    }

    pub(crate) fn has_cluster_time(&self) -> bool {
        self.world.look(|roles| match roles {
            Roles::Set(_) | Roles::Mongoses(_) => true,
            Roles::Standalones(_) => false,
        })
    }

    /// Whether the server may execute this command now. Its name is in lower case.
    pub(crate) fn admit(&self, name: &str, request: &Request) -> Result<(), ErrorReply> {
        self.world.look(|roles| match roles {
            Roles::Set(set) => admit(set, self.server, name, request),
            Roles::Mongoses(_) | Roles::Standalones(_) => Ok(()),
        })
    }

    /// Refuses a read after a time that the server does not know.
    pub(crate) fn check_cluster_time(&self, command: &Document) -> Result<(), ErrorReply> {
        let concern = command.get_document("readConcern");
        let Ok(after) = concern.and_then(|concern| concern.get_timestamp("afterClusterTime"))
        else {
            return Ok(());
        };
        let is_known = self.has_cluster_time()
            && self
                .world
                .look(|roles| after <= roles.process(self.server).cluster_time);
        if is_known {
            return Ok(());
        }
        let message = "readConcern afterClusterTime value must not be greater than the current \
                       clusterTime";
        Err(ErrorReply::new(72, "InvalidOptions", message))
    }

    /// Adds a mongos' `recoveryToken` to the reply to a part of a transaction.
    pub(crate) fn add_recovery_token(&self, command: &Document, reply: &mut Document) {
        let is_part = command.get_bool("autocommit").is_ok_and(|own| !own);
        if is_part && self.is_mongos() {
            reply.insert("recoveryToken", doc! {"recoveryShardId": "shard0"});
        }
    }

    /// Records that the real server has executed a command.
    pub(crate) fn done(&self, name: &str, command: &Document) {
        if is_write(name, command) {
            self.wrote();
        }
    }

    /// Records a write.
    pub(crate) fn wrote(&self) {
        let now = self.now();
        self.world.note(|roles| roles.wrote(self.server, now));
    }

    /// Runs the commands that only members of replica sets or only mongos have; `None` if it is
    /// not one of them.
    pub(crate) fn run(&self, name: &str, request: &Request) -> Option<Outcome> {
        let command = &request.command;
        if name == "checkmetadataconsistency" && self.is_mongos() {
            // Nothing is inconsistent.
            let none = Bson::Array(Vec::new());
            let namespace = format!("{}.$cmd.aggregate", request.database);
            let cursor = doc! {"firstBatch": none, "id": 0_i64, "ns": namespace};
            return Some(Ok(doc! {"cursor": cursor}));
        }
        if !matches!(
            name,
            "replsetstepdown" | "replsetfreeze" | "replsetgetstatus"
        ) {
            return None;
        }
        let (server, now) = (self.server, self.now());
        Some(self.world.change(|roles| {
            let Roles::Set(set) = roles else {
                let message = "not running with --replSet";
                return Err(ErrorReply::new(76, "NoReplicationEnabled", message));
            };
            match name {
                "replsetstepdown" => step_down(set, server, command, now),
                "replsetfreeze" => freeze(set, server, command, now),
                _ => Ok(set.status(server, now)),
            }
        }))
    }
}

/// Whether only a primary may execute a command. These include all commands of a transaction, also
/// its reads and its end.
pub(crate) fn is_write(name: &str, command: &Document) -> bool {
    let stage_writes = |stage: &Bson| {
        let stage = stage.as_document();
        stage.is_some_and(|stage| stage.contains_key("$out") || stage.contains_key("$merge"))
    };
    let pipeline = command.get_array("pipeline");
    WRITES.contains(&name)
        || command.get_bool("autocommit").is_ok_and(|own| !own)
        || (name == "aggregate" && pipeline.is_ok_and(|stages| stages.iter().any(stage_writes)))
}

fn admit(
    set: &ReplicaSetState,
    server: usize,
    name: &str,
    request: &Request,
) -> Result<(), ErrorReply> {
    let standing = set.standing(server);
    let (is_write, is_read) = (is_write(name, &request.command), READS.contains(&name));
    let refusal = match standing {
        Standing::Primary => return Ok(()),
        _ if is_write => ErrorReply::new(10107, "NotWritablePrimary", "not primary"),
        _ if !is_read => return Ok(()),
        Standing::Secondary if allows_secondary(request) => return Ok(()),
        Standing::Secondary => {
            let message = "not primary and secondaryOk=false";
            ErrorReply::new(13435, "NotPrimaryNoSecondaryOk", message)
        }
        Standing::Recovering | Standing::Arbiter | Standing::Removed => {
            let message = "node is not in primary or recovering state";
            ErrorReply::new(13436, "NotPrimaryOrSecondary", message)
        }
    };
    Err(refusal.field("topologyVersion", set.process(server).topology_version()))
}

fn allows_secondary(request: &Request) -> bool {
    let preference = request.command.get_document("$readPreference");
    let mode = preference.and_then(|preference| preference.get_str("mode"));
    mode.is_ok_and(|mode| mode != "primary")
        || (request.form == Form::Query && request.flags & SECONDARY_OK != 0)
}

/// The time from now by the seconds in a command's first value.
fn after_seconds(command: &Document, now: DateTime) -> Option<DateTime> {
    let name = command.keys().next()?;
    let seconds = i64::try_from(size(command, name)?).ok()?;
    let millis = seconds.checked_mul(1000)?;
    (millis > 0).then(|| DateTime::from_millis(now.timestamp_millis().saturating_add(millis)))
}

fn step_down(
    set: &mut ReplicaSetState,
    server: usize,
    command: &Document,
    now: DateTime,
) -> Outcome {
    if set.standing(server) != Standing::Primary {
        let error = ErrorReply::new(
            10107,
            "NotWritablePrimary",
            "not primary so can't step down",
        );
        return Err(error.field("topologyVersion", set.process(server).topology_version()));
    }
    set.freeze_elections(server, after_seconds(command, now));
    set.step_down(server);
    // An up-to-date successor is elected at once, as real primaries hand over.
    let successor = set.candidate(now).filter(|&successor| successor != server);
    if let Some(successor) = successor {
        set.elect(successor);
    }
    Ok(Document::new())
}

fn freeze(set: &mut ReplicaSetState, server: usize, command: &Document, now: DateTime) -> Outcome {
    if set.standing(server) == Standing::Primary {
        let message = "cannot freeze node when primary or running for election";
        return Err(ErrorReply::new(95, "NotSecondary", message));
    }
    let until = after_seconds(command, now);
    set.freeze_elections(server, until);
    // The only member of a set does not wait for an election timeout.
    let entries = &set.config(server).entries;
    if until.is_none() && entries.len() == 1 && set.candidate(now) == Some(server) {
        set.elect(server);
    }
    Ok(Document::new())
}
