//! What the operations of one client and credential share.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bson::RawDocumentBuf;

use super::{ClientSession, ServerSession};
use crate::ServerAddress;
use crate::operation::defaults::Defaults;
use crate::operation::request::Request;
use crate::sync::lock;

/// A server session with less time left than this is not used again.
const LEAST_LIFE: Duration = Duration::from_secs(60);

/// The most sessions that one command ends.
const MAX_ENDED_SESSIONS: usize = 10_000;

/// What a dropped cursor or session leaves to do on the server: a command to be sent.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) request: Box<Request>,
    /// The server of the cursor.
    pub(crate) server: Option<ServerAddress>,
    /// The session of the transaction.
    pub(crate) session: Option<Box<ClientSession>>,
}

impl Leftover {
    /// Whether the server keeps something until it is sent. Idle sessions expire.
    pub(crate) fn is_needed(&self) -> bool {
        self.server.is_some() || self.session.is_some()
    }

    /// The end of a cursor.
    pub(crate) fn kill(request: Box<Request>, server: ServerAddress) -> Self {
        Self {
            request,
            server: Some(server),
            session: None,
        }
    }
}

/// Sends a leftover in the background.
pub(crate) type Background = Arc<dyn Fn(Leftover) + Send + Sync>;

/// The options and the server sessions of one client and credential.
#[derive(Default)]
pub(crate) struct ClientContext {
    pub(crate) defaults: Defaults,
    sessions: Mutex<Sessions>,
    background: OnceLock<Background>,
}

/// The pool of server sessions: the last one returned is at the front.
#[derive(Debug, Default)]
struct Sessions {
    idle: VecDeque<ServerSession>,
    /// The session timeout that a server reported last.
    timeout: Option<Duration>,
}

impl Sessions {
    fn is_expiring(&self, session: &ServerSession, now: Instant) -> bool {
        let age = now.saturating_duration_since(session.last_use);
        self.timeout
            .is_some_and(|timeout| age.saturating_add(LEAST_LIFE) > timeout)
    }
}

impl ClientContext {
    pub(crate) fn new(defaults: Defaults) -> Self {
        Self {
            defaults,
            ..Self::default()
        }
    }

    /// The same client without its sessions.
    pub(crate) fn renewed(&self) -> Self {
        Self {
            defaults: self.defaults.clone(),
            sessions: Mutex::default(),
            background: self.background.clone(),
        }
    }

    /// Sets what sends leftovers.
    pub(crate) fn set_background(&self, background: Background) {
        // Each context is attached once.
        let _ = self.background.set(background);
    }

    /// Leaves a command to the background. Returns whether there is one.
    pub(crate) fn leave(&self, leftover: Leftover) -> bool {
        let background = self.background.get();
        background.map(|send| send(leftover)).is_some()
    }

    /// Takes the server session that was returned last, unless it expires within a minute. `minutes`
    /// is the session timeout of the deployment.
    ///
    /// Specification: driver sessions, "Algorithm to acquire a ServerSession instance".
    pub(crate) fn take_session(
        &self,
        now: Instant,
        minutes: Option<u32>,
        random: impl FnOnce() -> [u8; 16],
    ) -> ServerSession {
        let mut sessions = lock(&self.sessions);
        // Behind a load balancer sessions are not compared with any time-out. Without a known server
        // the last one counts.
        if let Some(minutes) = minutes.filter(|_| !self.defaults.load_balanced) {
            sessions.timeout = Some(Duration::from_secs(60 * u64::from(minutes)));
        }
        while let Some(session) = sessions.idle.pop_front() {
            if !sessions.is_expiring(&session, now) {
                return session;
            }
        }
        drop(sessions);
        ServerSession::new(random(), now)
    }

    /// Returns a server session, unless it is dirty.
    ///
    /// Specification: driver sessions, "Algorithm to return a ServerSession instance".
    pub(crate) fn return_session(&self, session: ServerSession) {
        if session.is_dirty() {
            return;
        }
        let mut sessions = lock(&self.sessions);
        // Its last use is the latest time that is known here.
        let now = session.last_use;
        while let Some(oldest) = sessions.idle.back()
            && sessions.is_expiring(oldest, now)
        {
            sessions.idle.pop_back();
        }
        sessions.idle.push_front(session);
    }

    /// Removes the idle server sessions and returns their ids.
    pub(in crate::operation) fn take_all_sessions(&self) -> Vec<RawDocumentBuf> {
        let sessions = std::mem::take(&mut lock(&self.sessions).idle);
        let ids = sessions.into_iter().map(|session| session.id);
        ids.map(Arc::unwrap_or_clone).collect()
    }

    /// Removes the idle server sessions. Returns the commands that end them.
    ///
    /// Specification: driver sessions, "endSessions".
    pub(crate) fn end_sessions(&self) -> Vec<Leftover> {
        let ids = self.take_all_sessions();
        let ends = ids.chunks(MAX_ENDED_SESSIONS).map(|ids| Leftover {
            request: Request::end_sessions(ids),
            server: None,
            session: None,
        });
        ends.collect()
    }
}

impl fmt::Debug for ClientContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientContext")
            .field("defaults", &self.defaults)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(load_balanced: bool) -> ClientContext {
        ClientContext::new(Defaults {
            load_balanced,
            ..Defaults::default()
        })
    }

    fn take(context: &ClientContext, now: Instant, seed: u8) -> ServerSession {
        context.take_session(now, Some(30), || [seed; 16])
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_last_session_returned_is_the_first_one_used() {
        let (context, now) = (context(false), Instant::now());
        let (first, second) = (take(&context, now, 1), take(&context, now, 2));
        let (first_id, second_id) = (first.id.clone(), second.id.clone());
        assert_ne!(first_id, second_id);
        context.return_session(first);
        context.return_session(second);
        assert_eq!(take(&context, now, 3).id, second_id);
        assert_eq!(take(&context, now, 3).id, first_id);
        assert!(context.take_all_sessions().is_empty());
    }

    #[test]
    fn a_take_without_a_known_server_keeps_the_timeout() {
        let (context, now) = (context(false), Instant::now());
        let session = take(&context, now, 1);
        let id = session.id.clone();
        context.return_session(session);
        let later = now + 30 * MINUTE;
        let next = context.take_session(later, None, || [2; 16]);
        assert_ne!(next.id, id, "it has expired");
    }

    #[test]
    fn a_session_with_less_than_a_minute_left_is_discarded() {
        for (age, load_balanced, is_used) in [
            (28 * MINUTE, false, true),
            (29 * MINUTE + Duration::from_secs(1), false, false),
            (29 * MINUTE + Duration::from_secs(1), true, true),
        ] {
            let (context, now) = (context(load_balanced), Instant::now());
            let session = take(&context, now, 1);
            let id = session.id.clone();
            context.return_session(session);
            let next = take(&context, now + age, 2);
            assert_eq!(next.id == id, is_used, "{age:?}");
        }
    }

    #[test]
    fn expiring_sessions_are_removed_from_the_back() {
        let (context, now) = (context(false), Instant::now());
        let (old, mut fresh) = (take(&context, now, 1), take(&context, now, 2));
        fresh.last_use = now + 30 * MINUTE;
        let kept = fresh.id.clone();
        context.return_session(old);
        context.return_session(fresh);
        assert_eq!(context.take_all_sessions(), [(*kept).clone()]);
    }

    #[test]
    fn a_dirty_session_is_discarded() {
        let (context, now) = (context(false), Instant::now());
        let mut session = take(&context, now, 1);
        session.mark_dirty();
        context.return_session(session);
        assert!(context.take_all_sessions().is_empty());
    }

    #[test]
    fn a_leftover_is_small() {
        // Up to 10,000 wait.
        let size = size_of::<Leftover>() + size_of::<ClientSession>();
        assert!(size <= 1536, "{size} bytes");
    }

    #[test]
    fn the_transaction_number_stays_with_the_session() {
        let (context, now) = (context(false), Instant::now());
        let mut session = take(&context, now, 1);
        assert_eq!(session.next_number(), 1);
        context.return_session(session);
        assert_eq!(take(&context, now, 2).next_number(), 2);
    }
}
