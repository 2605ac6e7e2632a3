//! What the operations of one client and credential share.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bson::RawDocumentBuf;

use super::command::{OperationKind, Request};
use super::session::{ClientSession, ServerSession};
use crate::ServerAddress;
use crate::concern::{ReadConcern, WriteConcern};
use crate::select::{ReadPreference, ReadPreferenceMode};
use crate::sync::lock;
use crate::uri::ClientOptions;

/// A server session with less time left than this is not used again.
const LEAST_LIFE: Duration = Duration::from_secs(60);

/// The options that [`Defaults::given`] names.
pub(super) const WRITE_OPTIONS: &str = "w, journal, wTimeoutMS";
pub(super) const READ_CONCERN: &str = "readConcernLevel";
pub(super) const READ_PREFERENCE: &str = "readPreference";

/// The most sessions that one command ends.
const MAX_ENDED_SESSIONS: usize = 10_000;

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
    pub(crate) usage: Arc<Usage>,
}

/// Whether the concerns and the read preference of a connection string reach commands. Warns once if
/// they do not.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    is_applied: AtomicBool,
    is_warned: AtomicBool,
}

impl Usage {
    /// An operation is about to be sent.
    pub(super) fn note(&self, request: &Request, defaults: &Defaults) {
        if request.kind != OperationKind::Command {
            if !request.is_bare || request.ending.is_some() {
                self.applied();
            }
            return;
        }
        if self.is_warned.load(Ordering::Relaxed) || defaults.given().next().is_none() {
            return;
        }
        let lost = request.lost_option(defaults);
        if let Some(option) = lost.filter(|_| !self.is_warned.swap(true, Ordering::Relaxed)) {
            let name = request.command_name();
            tracing::warn!(
                "`{name}` was run by `command` without a kind: {option} of the connection string \
                 does not apply to it. Set `OperationKind::Read` or `Write`, or a concern"
            );
        }
    }

    /// The application applies the options.
    pub(crate) fn applied(&self) {
        if !self.is_applied.load(Ordering::Relaxed) {
            self.is_applied.store(true, Ordering::Relaxed);
        }
    }
}

impl Defaults {
    /// The options of the connection string that only operations of a kind apply.
    pub(super) fn given(&self) -> impl Iterator<Item = &'static str> {
        let is_primary = self.read_preference.mode == ReadPreferenceMode::Primary;
        let given = [
            (!self.write_concern.is_default()).then_some(WRITE_OPTIONS),
            (!self.read_concern.is_default()).then_some(READ_CONCERN),
            (!is_primary).then_some(READ_PREFERENCE),
        ];
        given.into_iter().flatten()
    }

    /// Connections were checked out for some time. Warns if options of the connection string were
    /// given that nothing has applied.
    pub(crate) fn warn_if_unapplied(&self) {
        let Usage {
            is_applied,
            is_warned,
        } = &*self.usage;
        let given: Vec<_> = self.given().collect();
        let is_needless = given.is_empty() || is_applied.load(Ordering::Relaxed);
        if !is_needless && !is_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{} of the connection string have not been applied to any command so far: \
                 `run_command` sends commands as they are. Use `command` with a kind, or \
                 `Pools::write_concern`, `read_concern` and `read_preference`",
                given.join(", ")
            );
        }
    }

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
            usage: Arc::default(),
        }
    }
}

/// What a dropped cursor or session leaves to do on the server: a command to be sent.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) request: Request,
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
    pub(crate) fn kill(request: Request, server: ServerAddress) -> Self {
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
    pub(super) fn take_all_sessions(&self) -> Vec<RawDocumentBuf> {
        let sessions = std::mem::take(&mut lock(&self.sessions).idle);
        sessions.into_iter().map(|session| session.id).collect()
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
