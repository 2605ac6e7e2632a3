//! Cursors. Each belongs to one server.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bson::{Bson, Document, doc};

use super::change_streams::{Watch, token};
use super::reads::Found;
use super::sessions::{SessionKey, Touched};
use super::{Call, Data, Progress, Result, Step};
use crate::action::ErrorReply;
use crate::statement::{is_set, max_time, missing, size};

/// The first batch of a cursor without a `batchSize`.
const FIRST_BATCH: usize = 101;
/// How long a `getMore` of an `awaitData` cursor waits without `maxTimeMS`.
const AWAIT: Duration = Duration::from_secs(1);

/// The session and transaction in which a cursor is opened and used.
type Origin = (Option<SessionKey>, Option<i64>);

#[derive(Debug)]
struct Cursor {
    server: usize,
    namespace: String,
    origin: Origin,
    rest: VecDeque<Document>,
    tail: Option<Tail>,
    /// The tail is the events of a change stream, not the collection.
    watch: Option<Watch>,
}

/// A tailable cursor's position in its collection.
#[derive(Clone, Copy, Debug)]
struct Tail {
    next: usize,
    awaits: bool,
}

#[derive(Debug, Default)]
pub(super) struct Cursors {
    open: BTreeMap<i64, Cursor>,
    last: i64,
    /// All inserts, for change streams.
    log: Vec<(String, Document)>,
}

impl Cursors {
    pub(super) fn forget(&mut self, server: usize) {
        self.open.retain(|_, cursor| cursor.server != server);
    }

    pub(super) fn count(&self, server: usize) -> usize {
        let own = self.open.values().filter(|one| one.server == server);
        own.count()
    }

    /// An empty record of a write.
    pub(super) fn touched(&self) -> Touched {
        let is_watched = self.open.values().any(|cursor| cursor.watch.is_some());
        Touched {
            is_watched: is_watched || !self.log.is_empty(),
            ..Touched::default()
        }
    }

    /// Records inserts for change streams.
    pub(super) fn note(&mut self, inserted: Vec<(String, Document)>) {
        self.log.extend(inserted);
    }

    /// Closes the cursors of a session's transaction.
    pub(super) fn end_transaction(&mut self, session: &SessionKey) {
        let is_of_it = |origin: &Origin| origin.1.is_some() && origin.0.as_ref() == Some(session);
        self.open.retain(|_, cursor| !is_of_it(&cursor.origin));
    }

    /// The reply to a read: its first batch, or what it found as it is.
    pub(super) fn answer(
        &mut self,
        server: usize,
        session: Option<&SessionKey>,
        transaction: Option<i64>,
        call: &Call<'_>,
        found: Found,
    ) -> Document {
        let (namespace, documents, tail, watch) = match found {
            Found::Reply(reply) => return reply,
            Found::Documents(namespace, documents) => (namespace, documents, None, None),
            Found::Tail(namespace, documents, end) => (namespace, documents, Some(end), None),
            Found::Changes(watch) => {
                let next = watch.next.unwrap_or(self.log.len()).min(self.log.len());
                (watch.namespace.clone(), Vec::new(), Some(next), Some(watch))
            }
        };
        let resume = watch.as_ref().and(tail).map(token);
        let command = call.command;
        let options = command.get_document("cursor").unwrap_or(command);
        let limit = size(options, "batchSize").unwrap_or(FIRST_BATCH);
        let mut rest = VecDeque::from(documents);
        let batch: Vec<Document> = rest.drain(..limit.min(rest.len())).collect();
        let mut id = 0;
        if (!rest.is_empty() || tail.is_some()) && !is_set(command, "singleBatch") {
            self.last += 1;
            id = self.last;
            let cursor = Cursor {
                server,
                namespace: namespace.clone(),
                origin: (session.cloned(), transaction),
                rest,
                tail: tail.map(|next| Tail {
                    next,
                    awaits: watch.is_some() || is_set(command, "awaitData"),
                }),
                watch,
            };
            self.open.insert(id, cursor);
        }
        let mut cursor = doc! {"firstBatch": batch, "id": id, "ns": namespace};
        cursor.extend(resume.map(|resume| ("postBatchResumeToken".to_owned(), resume.into())));
        doc! {"cursor": cursor}
    }

    pub(super) fn kill(&mut self, server: usize, command: &Document) -> Document {
        let (mut killed, mut unknown) = (Vec::new(), Vec::new());
        for id in command.get_array("cursors").into_iter().flatten() {
            let own = id.as_i64().filter(|id| {
                let cursor = self.open.get(id);
                cursor.is_some_and(|cursor| cursor.server == server)
            });
            let known = own.and_then(|id| self.open.remove(&id)).is_some();
            if known { &mut killed } else { &mut unknown }.push(id.clone());
        }
        let none = Bson::Array(Vec::new());
        doc! {
            "cursorsKilled": killed,
            "cursorsNotFound": unknown,
            "cursorsAlive": none.clone(),
            "cursorsUnknown": none,
        }
    }
}

/// The server's own cursor of a `getMore`, if it may use it.
fn used_by<'a>(
    cursors: &'a mut BTreeMap<i64, Cursor>,
    server: usize,
    origin: &Origin,
    call: &Call<'_>,
) -> Result<&'a mut Cursor> {
    let command = call.command;
    let id = command.get_i64("getMore").map_err(|_| missing("getMore"))?;
    let own = cursors.get_mut(&id);
    let Some(cursor) = own.filter(|cursor| cursor.server == server) else {
        let message = format!("cursor id {id} not found");
        return Err(ErrorReply::new(43, "CursorNotFound", &message));
    };
    let name = command.get_str("collection");
    let name = name.map_err(|_| missing("collection"))?;
    if format!("{}.{name}", call.database) != cursor.namespace {
        let message = format!("cursor {id} belongs to {}, not to {name}", cursor.namespace);
        return Err(ErrorReply::new(13, "Unauthorized", &message));
    }
    if &cursor.origin != origin {
        let (code, what) = match cursor.origin.0 == origin.0 {
            true => (50741, "transaction"),
            false => (50738, "session"),
        };
        let message = format!("cursor {id} was created in another {what}");
        return Err(ErrorReply::new(code, &format!("Location{code}"), &message));
    }
    let waits = cursor.tail.is_some_and(|tail| tail.awaits);
    if command.contains_key("maxTimeMS") && !waits {
        let message = "cannot set maxTimeMS on getMore command for a non-awaitData cursor";
        return Err(ErrorReply::new(2, "BadValue", message));
    }
    Ok(cursor)
}

impl Data {
    pub(super) fn get_more(
        &mut self,
        server: usize,
        session: Option<&SessionKey>,
        transaction: Option<i64>,
        call: &Call<'_>,
    ) -> Step {
        let origin = (session.cloned(), transaction);
        let Cursors { open, log, .. } = &mut self.cursors;
        let cursor = used_by(open, server, &origin, call)?;
        if let Some(tail) = &mut cursor.tail {
            if let Some(watch) = &cursor.watch {
                cursor.rest.extend(watch.events(log, tail.next));
                tail.next = log.len();
            } else {
                let collection = self.collections.get(&cursor.namespace);
                let documents = collection.map_or(&[][..], |one| one.documents.as_slice());
                let new = documents.get(tail.next..).unwrap_or_default();
                tail.next += new.len();
                cursor.rest.extend(new.iter().cloned());
            }
            let limit = max_time(call.command).unwrap_or(AWAIT);
            if cursor.rest.is_empty()
                && tail.awaits
                && let Some(left) = limit.checked_sub(call.waited)
                && !left.is_zero()
            {
                return Ok(Progress::Waits(left));
            }
        }
        let limit = size(call.command, "batchSize").filter(|&size| size > 0);
        let limit = limit.unwrap_or(usize::MAX).min(cursor.rest.len());
        let batch: Vec<Document> = cursor.rest.drain(..limit).collect();
        let namespace = cursor.namespace.clone();
        let next = cursor.tail.map(|tail| tail.next);
        let last = batch
            .last()
            .and_then(|event| event.get_document("_id").ok().cloned());
        let resume = cursor.watch.as_ref().and(last.or(next.map(token)));
        let is_done = cursor.rest.is_empty() && cursor.tail.is_none();
        let mut id = call.command.get_i64("getMore").unwrap_or(0);
        if is_done {
            self.cursors.open.remove(&id);
            id = 0;
        }
        let mut cursor = doc! {"nextBatch": batch, "id": id, "ns": namespace};
        cursor.extend(resume.map(|resume| ("postBatchResumeToken".to_owned(), resume.into())));
        Ok(Progress::Done(doc! {"cursor": cursor}))
    }
}
