//! The transactions and retryable writes on the real server, and the servers through which the
//! transactions began.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bson::oid::ObjectId;
use bson::{Document, doc};

use crate::statement::{is_in_transaction, is_retryable_write, is_set};

/// A server's time in its role, which no transaction outlives: its number, its process and, for a
/// primary, its term.
pub(crate) type Tenure = (usize, ObjectId, Option<i64>);

/// The newest transaction or retryable write of each session.
#[derive(Debug, Default)]
pub(crate) struct Transactions(Mutex<BTreeMap<Vec<u8>, Newest>>);

#[derive(Debug)]
struct Newest {
    number: i64,
    /// The tenure in which a transaction began; `None` for a retryable write that was executed.
    began: Option<Tenure>,
    is_over: bool,
}

impl Newest {
    fn is_open(&self) -> bool {
        self.began.is_some() && !self.is_over
    }
}

impl Transactions {
    /// Records a command before its execution. If its transaction began in another tenure, it is
    /// over: returns the command that aborts it on the real server.
    pub(crate) fn begin(&self, command: &Document, tenure: Tenure) -> Option<Document> {
        let (session, number) = named(command)?;
        if !is_in_transaction(command) {
            return None;
        }
        let mut newest = self.lock();
        if is_set(command, "startTransaction") {
            let began = Newest {
                number,
                began: Some(tenure),
                is_over: false,
            };
            newest.insert(session, began);
            return None;
        }
        let lost = newest.get_mut(&session).filter(|one| {
            one.number == number && one.is_open() && one.began.as_ref() != Some(&tenure)
        })?;
        lost.is_over = true;
        Some(doc! {
            "abortTransaction": 1,
            "lsid": command.get("lsid")?.clone(),
            "txnNumber": number,
            "autocommit": false,
            "$db": "admin",
        })
    }

    /// Records that a command was executed. Its name is in lower case.
    pub(crate) fn end(&self, name: &str, command: &Document) {
        let Some((session, number)) = named(command) else {
            return;
        };
        let mut newest = self.lock();
        if is_retryable_write(name, command) {
            let executed = Newest {
                number,
                began: None,
                is_over: true,
            };
            newest.insert(session, executed);
        } else if let Some(one) = newest.get_mut(&session)
            && one.number == number
        {
            one.is_over |= matches!(name, "committransaction" | "aborttransaction");
        }
    }

    /// Whether the command's transaction began in this tenure.
    pub(crate) fn is_of(&self, command: &Document, tenure: &Tenure) -> bool {
        self.is_newest(command, |one| one.began.as_ref() == Some(tenure))
    }

    /// Whether a retryable write was executed before.
    pub(crate) fn has_executed(&self, command: &Document) -> bool {
        self.is_newest(command, |one| one.began.is_none())
    }

    pub(crate) fn open(&self) -> usize {
        self.lock().values().filter(|one| one.is_open()).count()
    }

    fn is_newest(&self, command: &Document, is_it: impl Fn(&Newest) -> bool) -> bool {
        named(command).is_some_and(|(session, number)| {
            let newest = self.lock();
            let one = newest.get(&session);
            one.is_some_and(|one| one.number == number && is_it(one))
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Newest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session and the number of a command's transaction or retryable write.
fn named(command: &Document) -> Option<(Vec<u8>, i64)> {
    let session = command.get_document("lsid").ok()?.get("id")?;
    let bson::Bson::Binary(session) = session else {
        return None;
    };
    Some((session.bytes.clone(), command.get_i64("txnNumber").ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::Uuid;

    #[test]
    fn a_transaction_ends_with_the_tenure_it_began_in() {
        let transactions = Transactions::default();
        let id = Uuid::from_bytes([7; 16]);
        let command = |name: &str, number: i64| {
            doc! {name: 1, "lsid": {"id": id}, "txnNumber": number, "autocommit": false}
        };
        let start = |number| {
            let mut start = command("insert", number);
            start.insert("startTransaction", true);
            start
        };
        let (old, new) = ((0, ObjectId::new(), Some(1)), (1, ObjectId::new(), Some(2)));
        let lost = |command: &Document, tenure| transactions.begin(command, tenure).is_some();
        assert!(!lost(&start(1), old));
        assert!(!lost(&command("insert", 1), old));
        assert!(!lost(&command("insert", 2), new), "of another transaction");
        assert!(lost(&command("insert", 1), new));
        assert!(!lost(&command("insert", 1), new), "reported once");

        assert!(!lost(&start(2), old));
        transactions.end("insert", &command("insert", 2));
        transactions.end("committransaction", &command("commitTransaction", 2));
        assert!(
            !lost(&command("commitTransaction", 2), new),
            "a retried commit"
        );
        assert!(!lost(
            &doc! {"insert": 1, "lsid": {"id": id}, "txnNumber": 2_i64},
            new
        ));
    }
}
