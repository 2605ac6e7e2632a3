//! The report of a load.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use mongo_core::bson;
use mongo_testkit::{Deployment, KEPT_ENTRIES};
use tokio::time::Instant;

use super::{Attempt, BOUND, COLLECTIONS, Failure, Log, MEMBERS, View};

/// One change, as the client saw it.
pub(super) struct Round {
    /// The time from which the client knew the new primary.
    pub(crate) since: Instant,
    pub(crate) primary: Option<String>,
    pub(crate) cut: Option<Cut>,
}

/// A member that was cut off for a while.
pub(super) struct Cut {
    pub(crate) member: String,
    /// The time when bytes passed again.
    pub(crate) healed: Instant,
}

/// The results of a failover under load.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) acknowledged: usize,
    /// The number of failures by kind.
    pub(crate) failures: BTreeMap<String, usize>,
    /// Failures before the timeout that no specification allows to be retried.
    pub(crate) unretryable: Vec<String>,
    /// The longest time by which an operation exceeded its timeout.
    pub(crate) latest: Duration,
    /// Replies to other requests, and documents that should have been found.
    pub(crate) wrong: Vec<String>,
    /// Writes that members refused because they were not primary.
    pub(crate) refused: usize,
    /// Those of them that were sent to a member that the client knew not to be primary.
    pub(crate) misdirected: Vec<String>,
    /// Acknowledged writes that are missing at the end.
    pub(crate) lost: Vec<i64>,
    /// Documents at the end that certainly failed, are duplicated, or were never written.
    pub(crate) unexpected: Vec<i64>,
    /// The time from the client's knowledge of a new primary to the first write of each task that
    /// it acknowledged, in ascending order.
    pub(crate) recovery: Vec<Duration>,
    /// The same for tasks that were waiting for a reply of a member that was cut off. They can't
    /// know that no reply comes.
    pub(crate) held: Vec<Duration>,
}

/// The collection that a task writes into.
pub(super) fn collection(round: usize, group: u64) -> String {
    format!("r{round}c{group}")
}

impl Report {
    pub(super) fn new(set: &Deployment, view: &View, rounds: Vec<Round>, logs: Vec<Log>) -> Self {
        let mut report = Self::default();
        for log in &logs {
            report.add(log);
        }
        report.look_for_misdirected(set, view, &logs);
        report.compare_documents(set, rounds.len(), &logs);
        // For a client that does not report its servers, a task without a reply counts as held.
        let writes = || logs.iter().flat_map(|log| &log.writes);
        let tells = writes().any(|attempt| attempt.write.sent.is_some());
        for (place, round) in rounds.iter().enumerate() {
            let until = rounds.get(place + 1).map(|next| next.since);
            for log in &logs {
                report.measure(round, until, log, tells);
            }
        }
        report.recovery.sort();
        report.held.sort();
        report
    }

    fn add(&mut self, log: &Log) {
        self.wrong.extend(log.wrong.iter().cloned());
        for attempt in &log.writes {
            let took = attempt.ended - attempt.begun;
            match &attempt.write.outcome {
                Ok(()) => {
                    self.acknowledged += 1;
                    self.latest = self.latest.max(took.saturating_sub(BOUND));
                }
                Err(failure) => self.failed("write", failure, took),
            }
        }
        for (failure, begun, ended) in &log.failed_reads {
            self.failed("read", failure, *ended - *begun);
        }
    }

    fn failed(&mut self, what: &str, failure: &Failure, took: Duration) {
        self.latest = self.latest.max(took.saturating_sub(BOUND));
        let kind = format!("{what}: {}", failure.kind);
        *self.failures.entry(kind).or_default() += 1;
        // After the timeout there is no time for a retry.
        if !failure.is_retryable && took < BOUND {
            self.unretryable.push(format!("{what}: {}", failure.text));
        }
    }

    /// Compares the client's events before each write with the writes that the members received. An
    /// event comes a little after the client's knowledge, so a write to a new primary may come
    /// before its event.
    fn look_for_misdirected(&mut self, set: &Deployment, view: &View, logs: &[Log]) {
        let mut refused = BTreeSet::new();
        for member in 0..MEMBERS {
            set.server(member).look(|seen| {
                let writes = &seen.refused_writes;
                assert!(writes.len() < KEPT_ENTRIES, "some are forgotten");
                refused.extend(writes.iter().filter_map(|own| id_of(&own.command)));
            });
        }
        self.refused = refused.len();
        let attempts = logs.iter().flat_map(|log| &log.writes);
        for attempt in attempts.filter(|attempt| refused.contains(&attempt.id)) {
            let Some((server, moment)) = &attempt.write.sent else {
                continue;
            };
            let known = view.at(*moment);
            if known
                .as_ref()
                .is_none_or(|known| known.is_no_primary(server))
            {
                let text = format!("{} to {server}, not {known:?}", attempt.id);
                self.misdirected.push(text);
            }
        }
    }

    fn compare_documents(&mut self, set: &Deployment, rounds: usize, logs: &[Log]) {
        let mut there: HashMap<i64, usize> = HashMap::new();
        for round in 0..rounds.max(1) {
            for group in 0..COLLECTIONS {
                let namespace = format!("load.{}", collection(round, group));
                for document in set.documents(&namespace) {
                    let id = document.get_i64("_id").expect("an _id");
                    *there.entry(id).or_default() += 1;
                }
            }
        }
        for attempt in logs.iter().flat_map(|log| &log.writes) {
            let found = there.remove(&attempt.id).unwrap_or_default();
            match &attempt.write.outcome {
                Ok(()) if found == 0 => self.lost.push(attempt.id),
                Ok(()) if found == 1 => {}
                Err(failure) if found == 0 || failure.is_ambiguous && found == 1 => {}
                Ok(()) | Err(_) => self.unexpected.push(attempt.id),
            }
        }
        self.unexpected.extend(there.keys());
    }

    /// Measures how soon one task continued after a change.
    fn measure(&mut self, round: &Round, until: Option<Instant>, log: &Log, tells: bool) {
        let (Some(primary), since) = (&round.primary, round.since) else {
            return;
        };
        let first = log.writes.partition_point(|attempt| attempt.ended < since);
        let later = &log.writes[first..];
        let is_of = |attempt: &Attempt| match &attempt.write.sent {
            Some((server, _)) => server == primary,
            None => true,
        };
        let next = later
            .iter()
            .find(|attempt| attempt.write.outcome.is_ok() && is_of(attempt))
            .filter(|attempt| until.is_none_or(|until| attempt.ended < until));
        let Some(next) = next else { return };
        let is_held = round.cut.as_ref().is_some_and(|cut| {
            let waited = |begun: &Instant, ended: &Instant| *begun <= since && since < *ended;
            let mut failed = log.failed_reads.iter();
            let mut slow = log.slow_reads.iter();
            failed.any(|(_, begun, ended)| waited(begun, ended))
                || slow.any(|(begun, ended)| waited(begun, ended) && cut.healed <= *ended)
                || later.first().is_some_and(|attempt| {
                    attempt.begun <= since
                        && match &attempt.write.sent {
                            Some((server, sent)) => *server == cut.member && *sent <= since,
                            None if tells => false,
                            None => attempt.write.outcome.is_err() || cut.healed <= attempt.ended,
                        }
                })
        });
        let took = next.ended - since;
        match is_held {
            true => self.held.push(took),
            false => self.recovery.push(took),
        }
    }
}

/// The `_id` of the first document that a command inserts.
fn id_of(insert: &bson::Document) -> Option<i64> {
    let documents = insert.get_array("documents").ok()?;
    documents.first()?.as_document()?.get_i64("_id").ok()
}
