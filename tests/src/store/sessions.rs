//! Server sessions: which ones are known, and what each has executed with its newest `txnNumber`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, Uuid, doc};

use super::outcomes::retried;
use super::{Call, Collections, Result};
use crate::action::ErrorReply;
use crate::statement::{is_retryable_write, missing};
use crate::transactions::Tenure;

/// Until a session ends that is not used, in minutes.
const TIMEOUT: i32 = 30;

/// A session's id, and the user whose session it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionKey {
    id: Vec<u8>,
    user: Option<String>,
}

impl SessionKey {
    /// The session that a command names, if any.
    pub(super) fn of(call: &Call<'_>) -> Result<Option<Self>> {
        match call.command.get("lsid") {
            None => Ok(None),
            Some(Bson::Document(lsid)) => Self::read(lsid, call.user).map(Some),
            Some(_) => Err(missing("lsid")),
        }
    }

    fn read(lsid: &Document, user: Option<&str>) -> Result<Self> {
        match lsid.get("id") {
            Some(Bson::Binary(id)) if id.subtype == BinarySubtype::Uuid => Ok(Self {
                id: id.bytes.clone(),
                user: user.map(str::to_owned),
            }),
            _ => Err(missing("lsid.id")),
        }
    }
}

pub(super) fn needs_session() -> ErrorReply {
    let message = "Transaction number requires a session ID to also be specified";
    ErrorReply::new(72, "InvalidOptions", message)
}

/// The documents and whole collections that a command writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Touched {
    pub(super) documents: BTreeSet<(String, Vec<u8>)>,
    pub(super) namespaces: BTreeSet<String>,
    /// The inserted documents, in order, with their namespaces, if change streams need them.
    pub(super) inserted: Vec<(String, Document)>,
    pub(super) is_watched: bool,
}

impl Touched {
    pub(super) fn document(&mut self, namespace: &str, id: &Bson) {
        let id = match crate::query::integer(id) {
            Some(id) => Bson::Int64(id),
            None => id.clone(),
        };
        let id = crate::codec::document_bytes(&doc! {"": id});
        self.documents.insert((namespace.to_owned(), id));
    }

    pub(super) fn namespace(&mut self, namespace: &str) {
        self.namespaces.insert(namespace.to_owned());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.namespaces.is_empty()
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.documents.extend(other.documents);
        self.namespaces.extend(other.namespaces);
        self.inserted.extend(other.inserted);
    }

    fn meets(&self, other: &Self) -> bool {
        !self.documents.is_disjoint(&other.documents)
            || !self.namespaces.is_disjoint(&other.namespaces)
            || self.holds_part_of(other)
            || other.holds_part_of(self)
    }

    fn holds_part_of(&self, other: &Self) -> bool {
        let is_within = |(namespace, _): &(String, _)| self.namespaces.contains(namespace);
        !self.namespaces.is_empty() && other.documents.iter().any(is_within)
    }
}

/// An open transaction.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    pub(super) tenure: Tenure,
    /// The server aborts it then.
    pub(super) deadline: DateTime,
    /// The collections at its start.
    pub(super) base: Collections,
    /// The collections as the transaction sees them.
    pub(super) view: Collections,
    pub(super) touched: Touched,
}

/// What a session has done with its newest number.
#[derive(Clone, Debug, Default)]
pub(super) enum State {
    #[default]
    Nothing,
    /// A retryable write, and its reply.
    Written(Document),
    Open(Box<Transaction>),
    /// A transaction, by this tenure.
    Committed(Tenure),
    Aborted,
}

#[derive(Clone, Debug)]
pub(super) struct ServerSession {
    pub(super) number: i64,
    pub(super) state: State,
    last_use: DateTime,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(BTreeMap<SessionKey, ServerSession>);

impl Sessions {
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Records the use of a session, which is a new one if it has expired.
    pub(super) fn touch(&mut self, key: &SessionKey, now: DateTime) {
        let is_live = |session: &&mut ServerSession| {
            let idle = now.timestamp_millis() - session.last_use.timestamp_millis();
            idle < i64::from(TIMEOUT) * 60_000
        };
        match self.0.get_mut(key).filter(is_live) {
            Some(session) => session.last_use = now,
            None => {
                let session = ServerSession {
                    number: -1,
                    state: State::Nothing,
                    last_use: now,
                };
                self.0.insert(key.clone(), session);
            }
        }
    }

    /// A session that was touched.
    pub(super) fn get(&mut self, key: &SessionKey) -> &mut ServerSession {
        self.0.get_mut(key).expect("a command touches its session")
    }

    pub(super) fn open(&self) -> impl Iterator<Item = (&SessionKey, &Transaction)> {
        self.0
            .iter()
            .filter_map(|(key, session)| match &session.state {
                State::Open(transaction) => Some((key, transaction.as_ref())),
                _ => None,
            })
    }

    /// Aborts transactions. Returns whether there were any.
    pub(super) fn abort_where(&mut self, is_over: impl Fn(&Transaction) -> bool) -> bool {
        let mut has_aborted = false;
        for session in self.0.values_mut() {
            if matches!(&session.state, State::Open(open) if is_over(open)) {
                session.state = State::Aborted;
                has_aborted = true;
            }
        }
        has_aborted
    }

    /// If an open transaction of another session has written the same: how long it may stay open.
    pub(super) fn conflict(
        &self,
        touched: &Touched,
        own: Option<&SessionKey>,
        now: DateTime,
    ) -> Option<Duration> {
        let others = self.open().filter(|(key, _)| Some(*key) != own);
        let rivals = others.filter(|(_, open)| open.touched.meets(touched));
        let left = rivals.map(|(_, open)| {
            let left = open.deadline.timestamp_millis() - now.timestamp_millis();
            Duration::from_millis(u64::try_from(left).unwrap_or(0))
        });
        left.min()
    }

    /// Begins a retryable write. Returns its reply if it was executed before.
    pub(super) fn begin_write(
        &mut self,
        key: &SessionKey,
        call: &Call<'_>,
    ) -> Result<Option<Document>> {
        if !is_retryable_write(call.name, call.command) {
            let message = format!("{} is not a retryable write command", call.name);
            return Err(ErrorReply::new(50768, "Location50768", &message));
        }
        let number = transaction_number(call)?;
        let session = self.get(key);
        if number > session.number {
            // A transaction of an older number ends.
            session.number = number;
            session.state = State::Nothing;
            return Ok(None);
        }
        if number < session.number {
            return Err(too_old(number, session.number));
        }
        match &session.state {
            State::Nothing => Ok(None),
            State::Written(reply) => Ok(Some(retried(call, reply.clone()))),
            State::Open(_) | State::Committed(_) | State::Aborted => {
                let message = format!("txnNumber {number} is a transaction's");
                Err(ErrorReply::new(
                    217,
                    "IncompleteTransactionHistory",
                    &message,
                ))
            }
        }
    }

    /// Records a retryable write's reply.
    pub(super) fn executed(&mut self, key: &SessionKey, reply: &Document) {
        self.get(key).state = State::Written(reply.clone());
    }

    /// Executes `endSessions` and `killSessions`.
    pub(super) fn end(&mut self, call: &Call<'_>) -> Result<Document> {
        for key in named(call)? {
            self.0.remove(&key);
        }
        Ok(Document::new())
    }

    /// Executes `killAllSessions`.
    pub(super) fn kill_all(&mut self) -> Document {
        self.abort_where(|_| true);
        Document::new()
    }

    pub(super) fn refresh(&mut self, call: &Call<'_>) -> Result<Document> {
        for key in named(call)? {
            self.touch(&key, call.now());
        }
        Ok(Document::new())
    }

    pub(super) fn start(&mut self, call: &Call<'_>) -> Result<Document> {
        let lsid = doc! {"id": Binary::from(Uuid::new())};
        self.touch(&SessionKey::read(&lsid, call.user)?, call.now());
        Ok(doc! {"id": lsid, "timeoutMinutes": TIMEOUT})
    }

    /// The documents of `$listLocalSessions`.
    pub(super) fn list(&self, user: Option<&str>) -> Vec<Document> {
        let own = self.0.iter().filter(|(key, _)| key.user.as_deref() == user);
        own.map(|(key, session)| {
            let id = Binary {
                subtype: BinarySubtype::Uuid,
                bytes: key.id.clone(),
            };
            doc! {"_id": {"id": id}, "lastUse": session.last_use}
        })
        .collect()
    }
}

/// The sessions in a command's array.
fn named(call: &Call<'_>) -> Result<Vec<SessionKey>> {
    let array = call.command.values().next().and_then(Bson::as_array);
    let array = array.ok_or_else(|| missing(call.name))?;
    let lsids = array.iter().map(|lsid| lsid.as_document());
    lsids
        .map(|lsid| SessionKey::read(lsid.ok_or_else(|| missing("lsid"))?, call.user))
        .collect()
}

/// The `txnNumber` of a command to a server that supports it.
pub(super) fn transaction_number(call: &Call<'_>) -> Result<i64> {
    if call.seat.is_none_or(|seat| !seat.has_cluster_time()) {
        let message = "Transaction numbers are only allowed on a replica set member or mongos";
        return Err(ErrorReply::new(20, "IllegalOperation", message));
    }
    match call.command.get("txnNumber") {
        Some(Bson::Int64(number)) if *number >= 0 => Ok(*number),
        Some(_) => Err(missing("txnNumber")),
        None => {
            let message = "autocommit requires a txnNumber";
            Err(ErrorReply::new(72, "InvalidOptions", message))
        }
    }
}

pub(super) fn too_old(number: i64, newest: i64) -> ErrorReply {
    let message = format!("txnNumber {number} is older than {newest} of this session");
    ErrorReply::new(225, "TransactionTooOld", &message)
}

/// A transaction's lifetime on the server.
pub(super) fn lifetime(now: DateTime) -> DateTime {
    DateTime::from_millis(now.timestamp_millis().saturating_add(60_000))
}
