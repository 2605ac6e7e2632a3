//! A small in-memory store with cursors, server sessions and transactions.

mod branches;
mod change_streams;
mod cursors;
mod outcomes;
mod reads;
mod sessions;
mod snapshots;
#[cfg(test)]
mod tests;
mod transactions;
mod writes;

pub(crate) use branches::Contact;
pub(crate) use outcomes::spoiled;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::{Bson, DateTime, Document};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::action::ErrorReply;
use crate::deployment::{Seat, is_write};
use crate::fail_point::{FailPoint, exceeded_time};
use crate::query::equal;
use crate::statement::{is_in_transaction, max_time, sleeping};
use branches::Branches;
use cursors::Cursors;
use sessions::{SessionKey, Sessions, Transaction};
use snapshots::Snapshots;

type Result<T> = std::result::Result<T, ErrorReply>;

/// A server's documents, which it may share with others, and its own cursors.
#[derive(Debug, Default)]
pub(crate) struct Store {
    shared: Arc<Shared>,
    server: usize,
}

#[derive(Debug, Default)]
struct Shared {
    data: Mutex<Data>,
    /// Wakes waiters in the order of waiting, so that a seed replays exactly.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Data {
    /// What is committed on the members that are connected to each other.
    collections: Collections,
    cursors: Cursors,
    sessions: Sessions,
    snapshots: Snapshots,
    /// How many writes the connected members have executed.
    writes: u64,
    branches: Branches,
    servers: usize,
}

/// The collections by namespace. A clone shares their documents until either changes.
type Collections = BTreeMap<String, Collection>;

#[derive(Clone, Debug, Default)]
struct Collection {
    /// In the order of insertion.
    documents: Arc<Vec<Document>>,
    options: Document,
    /// Without the index on `_id`.
    indexes: Vec<Document>,
}

impl Collection {
    /// The position of the document with this `_id`.
    fn position(&self, id: &Bson) -> Option<usize> {
        let is_it = |one: &Document| equal(one.get("_id").unwrap_or(&Bson::Null), id);
        self.documents.iter().position(is_it)
    }

    fn edit(&mut self) -> &mut Vec<Document> {
        Arc::make_mut(&mut self.documents)
    }
}

/// A command for the store, and its circumstances. Its name is in lower case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) name: &'a str,
    pub(crate) database: &'a str,
    pub(crate) command: &'a Document,
    pub(crate) user: Option<&'a str>,
    /// `None` for a server outside of a deployment.
    pub(crate) seat: Option<&'a Seat>,
    pub(crate) fail_point: &'a FailPoint,
    /// How long the command has waited for changes.
    pub(crate) waited: Duration,
}

impl Call<'_> {
    /// The namespace of the collection that the command's first value names.
    fn namespace(&self) -> Result<String> {
        let target = self.command.values().next().and_then(Bson::as_str);
        let target = target.ok_or_else(|| {
            ErrorReply::new(73, "InvalidNamespace", "the collection's name is missing")
        })?;
        Ok(format!("{}.{target}", self.database))
    }

    fn now(&self) -> DateTime {
        self.seat
            .map_or_else(DateTime::now, |seat| seat.world.now())
    }

    /// Whether it is a part of a transaction, or the end of one.
    fn is_in_transaction(&self) -> bool {
        is_in_transaction(self.command)
            || matches!(self.name, "committransaction" | "aborttransaction")
    }

    fn is_unknown(&self) -> ErrorReply {
        let message = format!("no such command: '{}'", self.name);
        ErrorReply::new(59, "CommandNotFound", &message)
    }
}

/// How far a command got.
#[derive(Debug)]
pub(crate) enum Progress {
    /// It was executed, and has this reply.
    Done(Document),
    /// It was not executed. It waits for a change, for at most this long, and is then run again.
    Waits(Duration),
    /// A fail point closes the connection without a reply.
    Lost,
}

type Step = Result<Progress>;

impl Store {
    /// Returns a store with the same documents for another server.
    pub(crate) fn share(&self) -> Self {
        let mut data = self.lock();
        data.servers += 1;
        Self {
            shared: Arc::clone(&self.shared),
            server: data.servers,
        }
    }

    /// Drops the server's cursors, as when its process ends.
    pub(crate) fn forget_cursors(&self) {
        self.lock().cursors.forget(self.server);
    }

    /// The documents of a collection, as a member has them.
    pub(crate) fn documents(&self, namespace: &str, member: Option<usize>) -> Vec<Document> {
        let data = self.lock();
        let own = member.and_then(|member| data.branches.collections(member));
        let collection = own.unwrap_or(&data.collections).get(namespace);
        collection.map_or_else(Vec::new, |one| one.documents.as_ref().clone())
    }

    pub(crate) fn put(&self, namespace: &str, documents: impl IntoIterator<Item = Document>) {
        let mut data = self.lock();
        let collection = data.collections.entry(namespace.to_owned()).or_default();
        collection.edit().extend(documents);
        data.snapshots.clear();
        self.shared.changed.notify_waiters();
    }

    pub(crate) fn open_cursors(&self) -> usize {
        self.lock().cursors.count(self.server)
    }

    /// How many transactions are open, of those that their servers have not lost.
    pub(crate) fn open_transactions(&self, seat: Option<&Seat>) -> usize {
        let data = self.lock();
        let is_open = |open: &Transaction| seat.is_some_and(|seat| seat.is_current(&open.tenure));
        data.sessions
            .open()
            .filter(|(_, open)| is_open(open))
            .count()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.lock().sessions.count()
    }

    /// Changes the roles of members, and has them follow their connections to each other.
    pub(crate) fn follow<R>(&self, change: impl FnOnce() -> (R, Vec<Contact>)) -> R {
        let mut data = self.lock();
        let (result, contacts) = change();
        data.follow(&contacts);
        self.shared.changed.notify_waiters();
        result
    }

    /// The next change, also one before the first poll.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.shared.changed.notified()
    }

    /// Executes a command.
    pub(crate) fn run(&self, call: &Call<'_>) -> Step {
        let mut data = self.lock();
        let has_aborted = data.end_lost_transactions(call);
        let is_write = call.is_in_transaction() || is_write(call.name, call.command);
        let step = data.perform_on_branch(self.server, call);
        let ends_sessions = call.name.ends_with("sessions");
        if has_aborted || ends_sessions || (is_write && !matches!(step, Ok(Progress::Waits(_)))) {
            self.shared.changed.notify_waiters();
        }
        step
    }

    fn lock(&self) -> MutexGuard<'_, Data> {
        let data = self.shared.data.lock();
        data.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Data {
    fn perform(&mut self, server: usize, call: &Call<'_>) -> Step {
        if let Some(left) = asleep(call) {
            return wait(call, left);
        }
        let session = SessionKey::of(call)?;
        if let Some(session) = &session {
            self.sessions.touch(session, call.now());
        }
        if call.is_in_transaction() {
            let session = session.ok_or_else(sessions::needs_session)?;
            return self.run_in_transaction(server, &session, call);
        }
        if call.command.contains_key("startTransaction") {
            let message = "Specifying startTransaction requires autocommit: false";
            return Err(ErrorReply::new(72, "InvalidOptions", message));
        }
        let writes = is_write(call.name, call.command);
        if writes {
            snapshots::refuse(call)?;
        }
        if call.command.contains_key("txnNumber") {
            let session = session.ok_or_else(sessions::needs_session)?;
            return self.run_once(&session, call);
        }
        if writes {
            return self.write(call, None);
        }
        self.read(server, session.as_ref(), call)
    }

    /// Commands that change no documents, outside of transactions.
    fn read(&mut self, server: usize, session: Option<&SessionKey>, call: &Call<'_>) -> Step {
        let reply = match call.name {
            "getmore" => return self.get_more(server, session, None, call),
            "killcursors" => self.cursors.kill(server, call.command),
            "endsessions" | "killsessions" => self.sessions.end(call)?,
            "killallsessions" | "killallsessionsbypattern" => self.sessions.kill_all(),
            "refreshsessions" => self.sessions.refresh(call)?,
            "startsession" => self.sessions.start(call)?,
            _ => {
                let (collections, time) = self.snapshots.choose(call, &self.collections)?;
                let collections = collections.as_ref().unwrap_or(&self.collections);
                let found = reads::execute(collections, &self.sessions, call)?;
                let mut reply = self.cursors.answer(server, session, None, call, found);
                snapshots::mark(&mut reply, time);
                reply
            }
        };
        Ok(Progress::Done(reply))
    }

    /// Executes a write outside of transactions. It waits for transactions that have written the
    /// same documents. `retryable` is the session of a retryable write.
    fn write(&mut self, call: &Call<'_>, retryable: Option<&SessionKey>) -> Step {
        let mut touched = self.cursors.touched();
        let may_be_spoiled = retryable.is_some() && call.fail_point.spoils_writes();
        if !may_be_spoiled && self.sessions.open().next().is_none() {
            let reply = writes::execute(&mut self.collections, call, &mut touched)?;
            let reply = self.executed(call, retryable, touched, reply);
            return Ok(Progress::Done(reply));
        }
        let mut attempt = self.collections.clone();
        let reply = writes::execute(&mut attempt, call, &mut touched)?;
        if let Some(limit) = self.sessions.conflict(&touched, None, call.now()) {
            return wait(call, limit);
        }
        let spoil = retryable.and_then(|_| call.fail_point.hit_write());
        if let Some(spoil) = &spoil
            && let Some(code) = spoil.code
        {
            return match spoil.closes {
                true => Ok(Progress::Lost),
                false => spoiled(call.name, code).map(Progress::Done),
            };
        }
        self.collections = attempt;
        let reply = self.executed(call, retryable, touched, reply);
        Ok(match spoil.is_some_and(|spoil| spoil.closes) {
            true => Progress::Lost,
            false => Progress::Done(reply),
        })
    }

    /// Executes a retryable write, unless it was executed before.
    fn run_once(&mut self, session: &SessionKey, call: &Call<'_>) -> Step {
        if let Some(reply) = self.sessions.begin_write(session, call)? {
            return Ok(Progress::Done(reply));
        }
        self.cursors.end_transaction(session);
        self.write(call, Some(session))
    }

    /// Records a write, whose time is the deployment's newest.
    fn executed(
        &mut self,
        call: &Call<'_>,
        retryable: Option<&SessionKey>,
        touched: sessions::Touched,
        reply: Document,
    ) -> Document {
        self.wrote(call);
        self.cursors.note(touched.inserted);
        if let Some(session) = retryable {
            self.sessions.executed(session, &reply);
        }
        reply
    }
}

impl Data {
    fn wrote(&mut self, call: &Call<'_>) {
        self.writes += 1;
        if let Some(seat) = call.seat {
            seat.wrote();
        }
    }
}

/// How much longer the command's filters sleep.
fn asleep(call: &Call<'_>) -> Option<Duration> {
    let command = call.command;
    let own = ["filter", "query"].into_iter();
    let own = own.filter_map(|name| command.get_document(name).ok());
    let statements = ["updates", "deletes"].into_iter();
    let statements = statements
        .filter_map(|name| command.get_array(name).ok())
        .flatten()
        .filter_map(|one| one.as_document()?.get_document("q").ok());
    let time = own.chain(statements).find_map(sleeping)?;
    time.checked_sub(call.waited).filter(|left| !left.is_zero())
}

/// A command's wait for others, within its `maxTimeMS`.
fn wait(call: &Call<'_>, limit: Duration) -> Step {
    let Some(max) = max_time(call.command) else {
        return Ok(Progress::Waits(limit));
    };
    match max.checked_sub(call.waited) {
        Some(left) if !left.is_zero() => Ok(Progress::Waits(limit.min(left))),
        _ => Err(exceeded_time()),
    }
}
