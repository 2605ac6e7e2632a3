//! What the operations of one client and credential share.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bson::RawDocumentBuf;

use super::session::ServerSession;
use crate::concern::{ReadConcern, WriteConcern};
use crate::select::ReadPreference;
use crate::sync::lock;
use crate::uri::ClientOptions;

/// A server session with less time left than this is not used again.
const LEAST_LIFE: Duration = Duration::from_secs(60);

/// The options of operations in a connection string.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) read_preference: ReadPreference,
    pub(crate) read_concern: ReadConcern,
    pub(crate) write_concern: WriteConcern,
    pub(crate) retry_reads: bool,
    pub(crate) retry_writes: bool,
    pub(crate) max_adaptive_retries: u32,
    pub(crate) enable_overload_retargeting: bool,
    /// `timeoutMS`; zero is no limit.
    pub(crate) timeout: Option<Duration>,
    pub(crate) load_balanced: bool,
}

impl Defaults {
    pub(crate) fn of(options: &ClientOptions) -> Self {
        Self {
            read_preference: options.read_preference.clone(),
            read_concern: options.read_concern.clone(),
            write_concern: options.write_concern.clone(),
            retry_reads: options.retry_reads,
            retry_writes: options.retry_writes,
            max_adaptive_retries: options.max_adaptive_retries,
            enable_overload_retargeting: options.enable_overload_retargeting,
            timeout: options.timeout,
            load_balanced: options.load_balanced == Some(true),
        }
    }
}

/// The options and the server sessions of one client and credential.
#[derive(Debug, Default)]
pub(crate) struct ClientContext {
    pub(crate) defaults: Defaults,
    sessions: Mutex<Sessions>,
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
            sessions: Mutex::default(),
        }
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
        let timeout = minutes.map(|minutes| Duration::from_secs(60 * u64::from(minutes)));
        // Behind a load balancer sessions are not compared with any time-out.
        sessions.timeout = timeout.filter(|_| !self.defaults.load_balanced);
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

    /// Removes all server sessions and returns their ids, for `endSessions`.
    pub(crate) fn take_all_sessions(&self) -> Vec<RawDocumentBuf> {
        let sessions = std::mem::take(&mut lock(&self.sessions).idle);
        sessions.into_iter().map(|session| session.id).collect()
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
        assert_eq!(context.take_all_sessions(), [kept]);
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
    fn the_transaction_number_stays_with_the_session() {
        let (context, now) = (context(false), Instant::now());
        let mut session = take(&context, now, 1);
        assert_eq!(session.next_number(), 1);
        context.return_session(session);
        assert_eq!(take(&context, now, 2).next_number(), 2);
    }
}
