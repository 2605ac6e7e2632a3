//! The open transactions on the real server, and the servers through which they began.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bson::oid::ObjectId;
use bson::{Document, doc};

/// A server's time in its role, which no transaction outlives: its number, its process and, for a
/// primary, its term.
pub(crate) type Tenure = (usize, ObjectId, Option<i64>);

/// The open transactions by session.
#[derive(Debug, Default)]
pub(crate) struct Transactions(Mutex<BTreeMap<Vec<u8>, Open>>);

#[derive(Debug)]
struct Open {
    number: i64,
    tenure: Tenure,
}

impl Transactions {
    /// Records a command before its execution. If its transaction began in another tenure, it is
    /// over: returns the command that aborts it on the real server.
    pub(crate) fn begin(&self, command: &Document, tenure: Tenure) -> Option<Document> {
        let (session, number) = named(command)?;
        let mut open = self.lock();
        if command
            .get_bool("startTransaction")
            .is_ok_and(|start| start)
        {
            open.insert(session, Open { number, tenure });
            return None;
        }
        open.get(&session)
            .filter(|begun| begun.number == number && begun.tenure != tenure)?;
        open.remove(&session);
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
        if matches!(name, "committransaction" | "aborttransaction")
            && let Some((session, number)) = named(command)
        {
            let mut open = self.lock();
            if open
                .get(&session)
                .is_some_and(|begun| begun.number == number)
            {
                open.remove(&session);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session and the number of the transaction that a command is part of.
fn named(command: &Document) -> Option<(Vec<u8>, i64)> {
    command.get_bool("autocommit").ok().filter(|own| !own)?;
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
