//! Transactions: each works on its own view of the collections, which its commit merges.

use bson::{Bson, Document};

use super::sessions::{self, SessionKey, State, Touched, Transaction, transaction_number};
use super::{Call, Collection, Collections, Data, Progress, Result, Step, reads, writes};
use crate::action::ErrorReply;
use crate::deployment::is_write;
use crate::query::equal;
use crate::statement::{is_in_transaction, is_set};

/// The commands that a transaction may contain.
const STATEMENTS: [&str; 10] = [
    "find",
    "aggregate",
    "distinct",
    "getmore",
    "killcursors",
    "insert",
    "update",
    "delete",
    "findandmodify",
    "create",
];

fn no_such(number: i64) -> ErrorReply {
    let message = format!("Transaction with {{ txnNumber: {number} }} is not in progress");
    ErrorReply::new(251, "NoSuchTransaction", &message)
}

fn invalid(message: &str) -> ErrorReply {
    ErrorReply::new(72, "InvalidOptions", message)
}

fn conflict() -> ErrorReply {
    let message = "Write conflict during plan execution; please retry the transaction";
    ErrorReply::new(112, "WriteConflict", message)
}

impl Data {
    /// Aborts the transactions that their servers have lost, or that are too old.
    pub(super) fn end_lost_transactions(&mut self, call: &Call<'_>) -> bool {
        let Some(seat) = call.seat else {
            return false;
        };
        let now = call.now();
        let is_over = |open: &Transaction| open.deadline <= now || !seat.is_current(&open.tenure);
        self.sessions.abort_where(is_over)
    }

    pub(super) fn run_in_transaction(
        &mut self,
        server: usize,
        key: &SessionKey,
        call: &Call<'_>,
    ) -> Step {
        let number = transaction_number(call)?;
        check_options(call)?;
        let newest = self.sessions.get(key).number;
        if number < newest {
            return Err(sessions::too_old(number, newest));
        }
        match call.name {
            "committransaction" => self.commit(key, number, call),
            "aborttransaction" => self.abort(key, number, call),
            name if !STATEMENTS.contains(&name) => {
                let message = format!("Cannot run '{name}' in a multi-document transaction");
                Err(ErrorReply::new(
                    263,
                    "OperationNotSupportedInTransaction",
                    &message,
                ))
            }
            _ => self.statement(server, key, number, call),
        }
    }

    /// Executes a statement. An error aborts the transaction.
    fn statement(&mut self, server: usize, key: &SessionKey, number: i64, call: &Call<'_>) -> Step {
        let starts = is_set(call.command, "startTransaction");
        if starts {
            self.start(key, number, call)?;
        }
        let session = self.sessions.get(key);
        let seat = call.seat.map(|seat| seat.tenure());
        let state = std::mem::replace(&mut session.state, State::Aborted);
        let mut open = match state {
            State::Open(open)
                if session.number == number && seat.as_ref() == Some(&open.tenure) =>
            {
                open
            }
            other => {
                session.state = other;
                return Err(no_such(number));
            }
        };
        let step = match call.name {
            "getmore" => self.get_more(server, Some(key), Some(number), call),
            "killcursors" => Ok(Progress::Done(self.cursors.kill(server, call.command))),
            name if is_write(name, &without_autocommit(call.command)) => {
                self.write_within(&mut open, key, call)
            }
            _ => reads::execute(&open.view, &self.sessions, call).map(|found| {
                let cursors = &mut self.cursors;
                Progress::Done(cursors.answer(server, Some(key), Some(number), call, found))
            }),
        };
        let has_failed = match &step {
            Ok(Progress::Done(reply)) => reply.contains_key("writeErrors"),
            Ok(_) => false,
            Err(_) => true,
        };
        match has_failed {
            true => self.cursors.end_transaction(key),
            false => self.sessions.get(key).state = State::Open(open),
        }
        step
    }

    fn start(&mut self, key: &SessionKey, number: i64, call: &Call<'_>) -> Result<()> {
        let seat = call.seat.ok_or_else(|| no_such(number))?;
        let collections = self.collections.clone();
        let session = self.sessions.get(key);
        let is_unused = number > session.number || matches!(session.state, State::Nothing);
        if !is_unused {
            let message = format!("txnNumber {number} was already used on this session");
            return Err(ErrorReply::new(
                117,
                "ConflictingOperationInProgress",
                &message,
            ));
        }
        session.number = number;
        session.state = State::Open(Box::new(Transaction {
            tenure: seat.tenure(),
            deadline: sessions::lifetime(call.now()),
            base: collections.clone(),
            view: collections,
            touched: Touched::default(),
        }));
        self.cursors.end_transaction(key);
        Ok(())
    }

    /// A write of a transaction. It conflicts with writes of others since its start.
    fn write_within(&mut self, open: &mut Transaction, key: &SessionKey, call: &Call<'_>) -> Step {
        let mut touched = self.cursors.touched();
        let reply = writes::execute(&mut open.view, call, &mut touched)?;
        let rival = self.sessions.conflict(&touched, Some(key), call.now());
        if rival.is_some() || has_changed(&touched, &open.base, &self.collections) {
            return Err(conflict());
        }
        open.touched.extend(touched);
        Ok(Progress::Done(reply))
    }

    fn commit(&mut self, key: &SessionKey, number: i64, call: &Call<'_>) -> Step {
        let tenure = call
            .seat
            .map(|seat| seat.tenure())
            .ok_or_else(|| no_such(number))?;
        let has_token = call.command.contains_key("recoveryToken");
        let is_mongos = call.seat.is_some_and(|seat| seat.is_mongos());
        let session = self.sessions.get(key);
        let is_elsewhere = match &session.state {
            State::Open(open) => open.tenure != tenure,
            State::Committed(by) => *by != tenure,
            State::Aborted => false,
            State::Nothing | State::Written(_) => true,
        };
        if is_mongos && is_elsewhere && !has_token {
            let message = "cannot commit with no participants";
            return Err(ErrorReply::new(50940, "Location50940", message));
        }
        if session.number != number {
            return Err(no_such(number));
        }
        match std::mem::replace(&mut session.state, State::Aborted) {
            State::Open(open) if !is_elsewhere => {
                session.state = State::Committed(tenure);
                self.cursors.end_transaction(key);
                self.merge(*open, call);
                Ok(Progress::Done(Document::new()))
            }
            State::Committed(by) => {
                session.state = State::Committed(by);
                Ok(Progress::Done(Document::new()))
            }
            // Recovery on another mongos aborts what is not committed.
            State::Open(_) | State::Aborted => Err(no_such(number)),
            other => {
                session.state = other;
                Err(no_such(number))
            }
        }
    }

    fn merge(&mut self, open: Transaction, call: &Call<'_>) {
        if open.touched.is_empty() {
            return;
        }
        self.cursors.note(open.touched.inserted);
        for namespace in &open.touched.namespaces {
            if let Some(new) = open.view.get(namespace) {
                let own = self.collections.entry(namespace.clone()).or_default();
                own.options = new.options.clone();
            }
        }
        for (namespace, id) in &open.touched.documents {
            let new = open.view.get(namespace).and_then(|one| of_id(one, id));
            let own = self.collections.entry(namespace.clone()).or_default();
            let position = position(own, id);
            match (position, new) {
                (Some(position), Some(new)) => own.edit()[position] = new.clone(),
                (Some(position), None) => drop(own.edit().remove(position)),
                (None, Some(new)) => own.edit().push(new.clone()),
                (None, None) => {}
            }
        }
        self.wrote(call);
    }

    fn abort(&mut self, key: &SessionKey, number: i64, call: &Call<'_>) -> Step {
        let tenure = call.seat.map(|seat| seat.tenure());
        self.cursors.end_transaction(key);
        let session = self.sessions.get(key);
        match &session.state {
            _ if session.number != number => Err(no_such(number)),
            State::Open(open) => {
                let is_own = tenure.as_ref() == Some(&open.tenure);
                session.state = State::Aborted;
                match is_own {
                    true => Ok(Progress::Done(Document::new())),
                    false => Err(no_such(number)),
                }
            }
            State::Committed(_) => {
                let message = format!("Transaction {number} has been committed");
                Err(ErrorReply::new(256, "TransactionCommitted", &message))
            }
            State::Nothing | State::Written(_) | State::Aborted => Err(no_such(number)),
        }
    }
}

fn check_options(call: &Call<'_>) -> Result<()> {
    let command = call.command;
    let is_end = matches!(call.name, "committransaction" | "aborttransaction");
    let starts = is_set(command, "startTransaction");
    if !is_in_transaction(command) {
        return Err(invalid("a part of a transaction needs autocommit: false"));
    }
    if command.contains_key("startTransaction") && (is_end || !starts) {
        return Err(invalid("startTransaction is true or absent"));
    }
    if command.contains_key("writeConcern") && !is_end {
        let message = "writeConcern is not allowed within a multi-statement transaction";
        return Err(invalid(message));
    }
    if command.contains_key("readConcern") && !starts {
        return Err(invalid(
            "readConcern is only allowed on the first command in a transaction",
        ));
    }
    Ok(())
}

/// The command as outside of a transaction, where its reads are no writes.
fn without_autocommit(command: &Document) -> Document {
    let mut plain = command.clone();
    plain.remove("autocommit");
    plain
}

/// Whether others have changed what a transaction writes since its start.
fn has_changed(touched: &Touched, base: &Collections, now: &Collections) -> bool {
    let one = |collections: &Collections, namespace: &str, id: &[u8]| {
        collections
            .get(namespace)
            .and_then(|one| of_id(one, id))
            .cloned()
    };
    touched
        .namespaces
        .iter()
        .any(|namespace| base.contains_key(namespace) != now.contains_key(namespace))
        || touched
            .documents
            .iter()
            .any(|(namespace, id)| one(base, namespace, id) != one(now, namespace, id))
}

fn of_id<'a>(collection: &'a Collection, id: &[u8]) -> Option<&'a Document> {
    collection.documents.get(position(collection, id)?)
}

/// The position of a document whose `_id` is in a [`Touched`].
fn position(collection: &Collection, id: &[u8]) -> Option<usize> {
    let id = Document::from_reader(id).ok()?;
    let id = id.get("").unwrap_or(&Bson::Null);
    let is_it = |one: &Document| equal(one.get("_id").unwrap_or(&Bson::Null), id);
    collection.documents.iter().position(is_it)
}
