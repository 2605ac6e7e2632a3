//! The accounts, the transfers, and the comparison of both at the end.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use mongo_core::bson::{Bson, Document, doc};
use mongo_testkit::Deployment;
use tokio::time::Instant;

use crate::{Entry, Outcome, TELLERS};

pub(crate) const ACCOUNTS: i64 = 64;
/// The balance of each account at the start, in cents.
const CENTS: i64 = 100_000;
pub(crate) const DATABASE: &str = "bank";

/// A transfer, by a teller who knows how much and between which accounts.
#[derive(Clone, Copy)]
pub(crate) struct Transfer {
    pub(crate) id: i64,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) cents: i64,
}

/// The books of each teller: a reply has room for those of one.
fn books() -> impl Iterator<Item = String> {
    (0..TELLERS).map(|teller| format!("transfers{teller}"))
}

impl Transfer {
    /// The collection of its entry.
    pub(crate) fn book(&self) -> String {
        format!("transfers{}", self.id >> 32)
    }

    /// The same for each client.
    pub(crate) fn new(teller: u64, count: u64) -> Self {
        let id = (teller << 32 | count).cast_signed();
        // SplitMix64.
        let mut bits = id.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mut draw = |below: i64| {
            let drawn = (bits & 0xffff).cast_signed() % below;
            bits >>= 16;
            drawn
        };
        let from = draw(ACCOUNTS);
        Self {
            id,
            from,
            to: (from + 1 + draw(ACCOUNTS - 1)) % ACCOUNTS,
            cents: 1 + draw(4_999),
        }
    }
}

/// Opens the accounts, and creates the books.
pub(crate) fn open_accounts(set: &Deployment) {
    let accounts = (0..ACCOUNTS).map(|id| doc! { "_id": id, "cents": CENTS });
    set.insert("bank.accounts", accounts);
    for book in books() {
        set.insert(&format!("{DATABASE}.{book}"), [doc! { "transfer": -1_i64 }]);
    }
}

/// Durations in ascending order.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// In milliseconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100);
        let time = self.0.get(rank.saturating_sub(1));
        time.copied().unwrap_or_default().as_secs_f64() * 1e3
    }
}

/// The result for one client.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) per_second: f64,
    pub(crate) steady: Times,
    pub(crate) recovery: Times,
    pub(crate) made: usize,
    pub(crate) refused: usize,
    pub(crate) failed: usize,
    pub(crate) repeated: usize,
    /// Acknowledged transfers without an entry.
    pub(crate) lost: usize,
    /// Transfers with more than one entry.
    pub(crate) twice: usize,
    /// Entries of transfers that were refused, or failed and can't have been made.
    pub(crate) unexpected: usize,
    pub(crate) wrong_balances: usize,
    pub(crate) difference: i64,
    pub(crate) texts: Vec<String>,
}

impl Report {
    pub(crate) fn new(
        set: &Deployment,
        logs: &[Vec<Entry>],
        steady: &Range<Instant>,
        elections: &[Instant],
    ) -> Self {
        let made = |entry: &&Entry| matches!(entry.outcome, Outcome::Made);
        let within =
            |entry: &&Entry| steady.contains(&entry.begun) && steady.contains(&entry.ended);
        let all = || logs.iter().flatten();
        let times = all().filter(made).filter(within);
        let times = Times::new(times.map(|entry| entry.ended - entry.begun).collect());
        let seconds = (steady.end - steady.start).as_secs_f64();
        let mut recovery = Vec::new();
        for elected in elections {
            for log in logs {
                let first = log.partition_point(|entry| entry.ended < *elected);
                let next = log[first..].iter().find(made);
                recovery.extend(next.map(|entry| entry.ended - *elected));
            }
        }
        let mut report = Self {
            per_second: times.len() as f64 / seconds,
            steady: times,
            recovery: Times::new(recovery),
            repeated: all().map(|entry| entry.runs.saturating_sub(1)).sum(),
            ..Self::default()
        };
        report.compare(set, logs);
        report
    }

    /// Compares the books with what the tellers were told, and the balances with the books.
    fn compare(&mut self, set: &Deployment, logs: &[Vec<Entry>]) {
        let mut balances: HashMap<i64, i64> = (0..ACCOUNTS).map(|id| (id, CENTS)).collect();
        let mut entries: HashMap<i64, usize> = HashMap::new();
        let all = books().flat_map(|book| set.documents(&format!("{DATABASE}.{book}")));
        for entry in all {
            let number = |name| integer(&entry, name);
            if number("transfer") < 0 {
                continue;
            }
            *entries.entry(number("transfer")).or_default() += 1;
            *balances.entry(number("from")).or_default() -= number("cents");
            *balances.entry(number("to")).or_default() += number("cents");
        }
        self.twice = entries.values().filter(|count| **count > 1).count();
        for entry in logs.iter().flatten() {
            let found = entries.remove(&entry.transfer.id).unwrap_or_default();
            match &entry.outcome {
                Outcome::Made => {
                    self.made += 1;
                    self.lost += usize::from(found == 0);
                }
                Outcome::Refused => {
                    self.refused += 1;
                    self.unexpected += found;
                }
                Outcome::Failed { text, is_unknown } => {
                    self.failed += 1;
                    self.unexpected += if *is_unknown { 0 } else { found };
                    self.texts.push(text.clone());
                }
            }
        }
        self.unexpected += entries.values().sum::<usize>();
        let mut total = 0;
        for account in set.documents("bank.accounts") {
            let cents = integer(&account, "cents");
            total += cents;
            let expected = balances.remove(&integer(&account, "_id"));
            self.wrong_balances += usize::from(expected != Some(cents));
        }
        self.wrong_balances += balances.len();
        self.difference = (total - ACCOUNTS * CENTS).abs();
    }
}

/// A whole number of either size.
fn integer(document: &Document, name: &str) -> i64 {
    match document.get(name) {
        Some(Bson::Int64(number)) => *number,
        Some(Bson::Int32(number)) => (*number).into(),
        other => panic!("{name}: {other:?}"),
    }
}
