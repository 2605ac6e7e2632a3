//! The state of a server process, independent of its role.

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Document, Timestamp, doc};

/// The newest wire version that a server claims (MongoDB 8.0).
pub(crate) const MAX_WIRE_VERSION: i32 = 25;

/// A server process, from its start to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// `topologyVersion.processId`: new with each start.
    pub id: ObjectId,
    /// `topologyVersion.counter`: incremented with each change that a hello shows.
    pub counter: i64,
    /// `minWireVersion` and `maxWireVersion`.
    pub wire_versions: (i32, i32),
    /// How far its wall clock is ahead of the true time, in milliseconds.
    pub clock_skew: i64,
    /// The newest cluster time that it knows.
    pub cluster_time: Timestamp,
    /// The time of the newest write that it knows: the `operationTime` of its replies.
    pub last_write: Timestamp,
}

impl Process {
    /// A process that has just started.
    pub fn new(id: ObjectId) -> Self {
        let start = Timestamp {
            time: 1,
            increment: 1,
        };
        Self {
            id,
            counter: 0,
            wire_versions: (0, MAX_WIRE_VERSION),
            clock_skew: 0,
            cluster_time: start,
            last_write: start,
        }
    }

    /// The `topologyVersion` of its replies.
    pub fn topology_version(&self) -> Document {
        doc! {"processId": self.id, "counter": self.counter}
    }

    /// Counts a write.
    pub(super) fn tick(&mut self, now: DateTime) {
        let now = u32::try_from(now.timestamp_millis() / 1000).unwrap_or(u32::MAX);
        let last = self.cluster_time;
        self.cluster_time = if now > last.time {
            Timestamp {
                time: now,
                increment: 1,
            }
        } else {
            Timestamp {
                time: last.time,
                increment: last.increment.saturating_add(1),
            }
        };
    }

    /// Advances to this cluster time, if it is newer.
    pub(super) fn learn(&mut self, cluster_time: Timestamp) {
        self.cluster_time = self.cluster_time.max(cluster_time);
    }

    /// The `$clusterTime` and `operationTime` of its replies.
    pub(super) fn sign(&self, reply: &mut Document) {
        let hash = Binary {
            subtype: BinarySubtype::Generic,
            bytes: vec![0; 20],
        };
        let signature = doc! {"hash": hash, "keyId": 0_i64};
        let time = self.cluster_time;
        reply.insert(
            "$clusterTime",
            doc! {"clusterTime": time, "signature": signature},
        );
        reply.insert("operationTime", self.last_write);
    }
}
