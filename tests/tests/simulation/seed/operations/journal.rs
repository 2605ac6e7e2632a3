//! What callers have done, and the check of the members' data against it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mongo_core::bson::{Document, doc};
use mongo_testkit::Deployment;

use super::super::log::Log;

pub(super) const ACCOUNTS: i32 = 4;

/// The balance of each account at the start, in cents.
const BALANCE: i64 = 100_000;

/// The sum of all balances.
pub(super) const TOTAL: i64 = BALANCE * ACCOUNTS as i64;

/// The result of a push or transfer for its caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    /// It failed, was cancelled, or is under way.
    #[default]
    Unknown,
    /// It was acknowledged, and must not be lost.
    Done,
    /// It was acknowledged by one member alone, whose writes may roll back.
    Weak,
    /// It must not have an effect: it was aborted, or failed before its commit.
    Aborted,
}

/// The pushes by caller, and the transfers.
#[derive(Default)]
pub(super) struct Journal(Mutex<State>);

#[derive(Default)]
struct State {
    pushes: BTreeMap<i64, (i64, Fate)>,
    transfers: BTreeMap<i64, Fate>,
}

impl Journal {
    /// Creates the documents before the first client.
    pub(super) fn prepare(set: &Deployment, callers: u64) {
        let accounts = (0..ACCOUNTS).map(|own| doc! {"_id": own, "balance": BALANCE});
        set.insert("db.accounts", accounts);
        let callers = (0..callers).map(|own| doc! {"_id": own as i64, "pushes": Vec::<i64>::new()});
        set.insert("db.callers", callers);
        set.insert("db.ledger", []);
    }

    pub(super) fn push_begins(&self, caller: i64, number: i64) {
        self.lock().pushes.insert(number, (caller, Fate::Unknown));
    }

    /// A push was acknowledged, by a majority if it is safe.
    pub(super) fn push_is_done(&self, number: i64, is_safe: bool) {
        if let Some((_, fate)) = self.lock().pushes.get_mut(&number) {
            *fate = acknowledged(is_safe);
        }
    }

    /// A transfer begins. Without a commit it has no effect.
    pub(super) fn transfer_begins(&self, number: i64) {
        self.lock().transfers.insert(number, Fate::Aborted);
    }

    /// A transfer is about to be committed.
    pub(super) fn transfer_commits(&self, number: i64) {
        self.lock().transfers.insert(number, Fate::Unknown);
    }

    pub(super) fn transfer_is_done(&self, number: i64, is_safe: bool) {
        self.lock().transfers.insert(number, acknowledged(is_safe));
    }

    /// Checks the data of one member, or of all at the end.
    pub(super) fn check(&self, log: &Log, whose: &str, data: &Data, is_final: bool) {
        let state = self.lock();
        state.check_pushes(log, whose, data, is_final);
        state.check_transfers(log, whose, data, is_final);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn acknowledged(is_safe: bool) -> Fate {
    match is_safe {
        true => Fate::Done,
        false => Fate::Weak,
    }
}

/// The documents of one member, or those of all at the end.
pub(super) struct Data {
    accounts: Vec<Document>,
    callers: Vec<Document>,
    ledger: Vec<Document>,
}

impl Data {
    pub(super) fn read(documents: impl Fn(&str) -> Vec<Document>) -> Self {
        Self {
            accounts: documents("db.accounts"),
            callers: documents("db.callers"),
            ledger: documents("db.ledger"),
        }
    }
}

impl State {
    /// Each push is there at most once, acknowledged ones are there in their order.
    fn check_pushes(&self, log: &Log, whose: &str, data: &Data, is_final: bool) {
        let mut there = BTreeSet::new();
        for own in &data.callers {
            let caller = own.get_i64("_id").unwrap_or(-1);
            let pushes = own.get_array("pushes").cloned().unwrap_or_default();
            let mut newest = 0;
            for number in pushes.iter().filter_map(|number| number.as_i64()) {
                let push = self.pushes.get(&number);
                log.require(
                    push.is_some_and(|push| push.0 == caller),
                    format_args!("{whose}: push {number} is not of caller {caller}"),
                );
                log.require(
                    there.insert(number),
                    format_args!("{whose}: push {number} was executed twice"),
                );
                if push.is_some_and(|push| push.1 == Fate::Done) {
                    let is_later = number > newest;
                    log.require(
                        is_later,
                        format_args!("{whose}: push {number} is after {newest}"),
                    );
                    newest = number;
                }
            }
        }
        for (number, (_, fate)) in self.pushes.iter().filter(|_| is_final) {
            log.require(
                *fate != Fate::Done || there.contains(number),
                format_args!("{whose}: push {number} was acknowledged, and is lost"),
            );
        }
    }

    /// Transfers are whole or absent, once.
    fn check_transfers(&self, log: &Log, whose: &str, data: &Data, is_final: bool) {
        let mut balances = vec![BALANCE; ACCOUNTS as usize];
        let mut runs: BTreeMap<(i64, i64), (usize, i64)> = BTreeMap::new();
        for half in &data.ledger {
            let number = |name| half.get_i64(name).unwrap_or(-1);
            let run = runs.entry((number("transfer"), number("run"))).or_default();
            *run = (run.0 + 1, run.1 + number("amount"));
            if let Some(balance) = balances.get_mut(number("account") as usize) {
                *balance += number("amount");
            }
        }
        let own = data.accounts.iter();
        let own: Vec<_> = own.filter_map(|own| own.get_i64("balance").ok()).collect();
        log.require(
            own == balances,
            format_args!("{whose}: the accounts have {own:?}, by the ledger {balances:?}"),
        );
        let sum: i64 = own.iter().sum();
        log.require(
            sum == TOTAL,
            format_args!("{whose}: the sum is {sum}, not {TOTAL}"),
        );
        let mut there = BTreeSet::new();
        for ((number, run), (halves, amount)) in runs {
            log.require(
                halves == 2 && amount == 0,
                format_args!("{whose}: {halves} halves of transfer {number}, run {run}"),
            );
            log.require(
                there.insert(number),
                format_args!("{whose}: transfer {number} was executed twice"),
            );
            let fate = self.transfers.get(&number);
            log.require(
                fate.is_some_and(|fate| *fate != Fate::Aborted),
                format_args!("{whose}: transfer {number} is there, but is {fate:?}"),
            );
        }
        for (number, fate) in self.transfers.iter().filter(|_| is_final) {
            log.require(
                *fate != Fate::Done || there.contains(number),
                format_args!("{whose}: transfer {number} was acknowledged, and is lost"),
            );
        }
    }
}
