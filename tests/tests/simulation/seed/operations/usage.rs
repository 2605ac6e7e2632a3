//! The user of each server session, as the command events show it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mongo_core::ServerAddress;
use mongo_core::bson::RawDocument;
use mongo_core::event::{CommandEvent, CommandStartedEvent, EventHandlers};

use super::super::log::Log;

type SessionId = Vec<u8>;

/// A command under way: its server, its connection and its number there.
type Request = (ServerAddress, u64, i32);

/// The use of all server sessions. The comment of a command names its owner: an operation, or the
/// explicit session that several share. The ends of transactions have no comment.
pub(super) struct Usage {
    log: Log,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: BTreeMap<SessionId, Session>,
    requests: BTreeMap<Request, SessionId>,
    /// Sessions that no caller used before the calm phase.
    new: Option<BTreeSet<SessionId>>,
}

#[derive(Default)]
struct Session {
    /// The explicit session that has it.
    holder: Option<i64>,
    /// Its last user, and whether a command of it is not answered yet.
    user: Option<i64>,
    under_way: usize,
    /// Whether a command on it has failed without a reply.
    is_dirty: bool,
    /// Whether it may have a transaction that no abort was answered for, and no commit was sent for.
    is_open: bool,
    /// The name of its last command.
    last: Arc<str>,
    is_ended: bool,
}

impl Usage {
    pub(super) fn new(log: Log) -> Arc<Self> {
        Arc::new(Self {
            log,
            state: Mutex::default(),
        })
    }

    pub(super) fn handlers(self: &Arc<Self>) -> EventHandlers {
        let usage = self.clone();
        EventHandlers::new().on_command(move |event| usage.see(event))
    }

    /// An explicit session has this server session until the result is dropped.
    pub(super) fn hold(self: &Arc<Self>, id: &RawDocument, holder: i64) -> Held {
        let id = id.as_bytes().to_vec();
        let former = self
            .lock()
            .sessions
            .entry(id.clone())
            .or_default()
            .holder
            .replace(holder);
        self.log.require(
            former.is_none(),
            format_args!("the session of {former:?} was given to {holder}"),
        );
        Held {
            usage: self.clone(),
            id,
        }
    }

    /// The sessions that `endSessions` should have named: without those that must not be used again.
    pub(super) fn not_ended(&self) -> Vec<String> {
        let state = self.lock();
        let is_lost = |one: &Session| one.is_dirty || one.is_open || one.under_way > 0;
        let left = state.sessions.values();
        left.filter(|one| !one.is_ended && !is_lost(one))
            .map(|one| format!("{:?} after {}", one.user, one.last))
            .collect()
    }

    pub(super) fn count_new(&self) {
        self.lock().new = Some(BTreeSet::new());
    }

    pub(super) fn new_sessions(&self) -> usize {
        self.lock().new.as_ref().map_or(0, BTreeSet::len)
    }

    fn see(&self, event: &CommandEvent) {
        match event {
            CommandEvent::Started(event) => self.begin(event),
            CommandEvent::Succeeded(event) => {
                let request = (
                    event.address.clone(),
                    event.driver_connection_id,
                    event.request_id,
                );
                let is_whole = event
                    .reply
                    .get("writeConcernError")
                    .is_ok_and(|own| own.is_none());
                let is_abort = event.command_name.as_ref() == "abortTransaction";
                self.end(&request, false, (is_abort && is_whole).then_some(false));
            }
            CommandEvent::Failed(event) => {
                let request = (
                    event.address.clone(),
                    event.driver_connection_id,
                    event.request_id,
                );
                let is_lost = event.failure.command().is_none();
                // After an abort that failed, the transaction may still be open; a commit that an
                // overloaded server refused had no effect.
                let is_refused = event.failure.has_label("SystemOverloadedError")
                    && event.command_name.as_ref() == "commitTransaction";
                self.end(&request, is_lost, is_refused.then_some(true));
            }
            _ => {}
        }
    }

    fn begin(&self, event: &CommandStartedEvent) {
        if let Ok(ids) = event.command.get_array("endSessions") {
            let ids = ids.into_iter().flatten();
            let mut state = self.lock();
            for id in ids.filter_map(|id| id.as_document()) {
                let session = state.sessions.entry(id.as_bytes().to_vec()).or_default();
                session.is_ended = true;
            }
        }
        let Ok(lsid) = event.command.get_document("lsid") else {
            return;
        };
        let id = lsid.as_bytes().to_vec();
        let user = event.command.get_i64("comment").ok();
        let mut state = self.lock();
        if !state.sessions.contains_key(&id)
            && let Some(new) = &mut state.new
        {
            new.insert(id.clone());
        }
        let request = (
            event.address.clone(),
            event.driver_connection_id,
            event.request_id,
        );
        state.requests.insert(request, id.clone());
        let session = state.sessions.entry(id).or_default();
        // The end of a transaction may overtake a command that was cancelled.
        let is_other = user.is_some() && session.user.is_some() && user != session.user;
        let name = &event.command_name;
        self.log.require(
            !is_other || session.under_way == 0,
            format_args!(
                "{user:?} uses the session of {:?}, under way: {name}",
                session.user
            ),
        );
        self.log.require(
            !is_other || !session.is_dirty,
            format_args!(
                "{user:?} uses the lost session of {:?}: {name}",
                session.user
            ),
        );
        self.log.require(
            user.is_none() || session.holder.is_none() || user == session.holder,
            format_args!(
                "{user:?} uses the session that {:?} has: {name}",
                session.holder
            ),
        );
        session.is_open |= event.command.get_bool("startTransaction").is_ok();
        session.is_open &= name.as_ref() != "commitTransaction";
        session.user = user.or(session.user);
        session.last = name.clone();
        session.under_way += 1;
    }

    fn end(&self, request: &Request, is_lost: bool, is_open: Option<bool>) {
        let mut state = self.lock();
        let Some(id) = state.requests.remove(request) else {
            return;
        };
        let session = state.sessions.entry(id).or_default();
        session.under_way = session.under_way.saturating_sub(1);
        session.is_dirty |= is_lost;
        session.is_open = is_open.unwrap_or(session.is_open);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Usage::hold`].
pub(super) struct Held {
    usage: Arc<Usage>,
    id: SessionId,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(session) = self.usage.lock().sessions.get_mut(&self.id) {
            session.holder = None;
        }
    }
}
