//! Snapshot reads outside of transactions.

use std::collections::BTreeMap;

use bson::{Document, Timestamp};

use super::{Call, Collections, Result};
use crate::action::ErrorReply;
use crate::statement::is_text;

/// More are forgotten, the oldest first.
const KEPT: usize = 64;

/// The collections at the times that were read.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshots(BTreeMap<(u32, u32), Collections>);

impl Snapshots {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The collections that a read with `readConcern.level: "snapshot"` sees, and their time.
    pub(super) fn choose(
        &mut self,
        call: &Call<'_>,
        current: &Collections,
    ) -> Result<(Option<Collections>, Option<Timestamp>)> {
        let concern = call.command.get_document("readConcern").ok();
        let Some(concern) = concern.filter(|one| is_text(one, "level", "snapshot")) else {
            return Ok((None, None));
        };
        if !matches!(call.name, "find" | "aggregate" | "distinct") {
            return Err(unsupported(call));
        }
        let Some(newest) = call.seat.and_then(|seat| seat.operation_time()) else {
            let message = "readConcern snapshot needs a replica set";
            return Err(ErrorReply::new(123, "NotAReplicaSet", message));
        };
        let time = concern.get_timestamp("atClusterTime").unwrap_or(newest);
        let key = (time.time, time.increment);
        if let Some(kept) = self.0.get(&key) {
            return Ok((Some(kept.clone()), Some(time)));
        }
        if time < newest {
            let message = format!("the snapshot at {time} is not available any more");
            return Err(ErrorReply::new(239, "SnapshotTooOld", &message));
        }
        if time > newest {
            let message = "readConcern atClusterTime must not be greater than the current time";
            return Err(ErrorReply::new(72, "InvalidOptions", message));
        }
        self.0.insert(key, current.clone());
        if self.0.len() > KEPT {
            self.0.pop_first();
        }
        Ok((None, Some(time)))
    }
}

/// Refuses a write with `readConcern.level: "snapshot"`.
pub(super) fn refuse(call: &Call<'_>) -> Result<()> {
    let concern = call.command.get_document("readConcern");
    match concern.is_ok_and(|one| is_text(one, "level", "snapshot")) {
        true => Err(unsupported(call)),
        false => Ok(()),
    }
}

fn unsupported(call: &Call<'_>) -> ErrorReply {
    let message = format!("{} does not support readConcern snapshot", call.name);
    ErrorReply::new(72, "InvalidOptions", &message)
}

/// Adds the time of a snapshot to its reply.
pub(super) fn mark(reply: &mut Document, time: Option<Timestamp>) {
    let Some(time) = time else {
        return;
    };
    match reply.get_document_mut("cursor") {
        Ok(cursor) => cursor.insert("atClusterTime", time),
        Err(_) => reply.insert("atClusterTime", time),
    };
}
