//! Operations on a connection in hand.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::Connection;
use super::reply::OwnedReply;
use crate::error::{Error, ErrorKind, Result, Wait};
use crate::net::deadline::{Deadline, sleep_until};
use crate::operation::{
    ClientContext, ClientSession, Command, Ending, Facts, Failure, Observed, Request, Retry,
    RetryOptions, SessionOptions, Verdict, is_time_limit, label_commit, max_time, timed_out,
};

/// The target of [`Connection::command`].
#[derive(Debug)]
pub struct OnConnection<'a> {
    connection: &'a mut Connection,
    session: Option<&'a mut ClientSession>,
}

impl Connection {
    /// A command on this connection, with a session, concerns, a time limit and a cursor: see
    /// [`Command`]. It is serialised at once; an error shows when it is awaited. Unlike
    /// [`run_command`](Self::run_command) it adds a session id and the cluster time.
    ///
    /// It is retried on this connection only if an overloaded server refused it. Without
    /// [`session`](Command::session) it has a session of the connection's pool, if it has a pool.
    ///
    /// # Errors
    /// See [`run_command`](Self::run_command);
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration): the session belongs to another
    /// client, the server supports no sessions, or options contradict each other or the transaction.
    ///
    /// # Cancellation
    /// As with [`run_command`](Self::run_command). The server session is not used again.
    pub fn command<'a, C>(&'a mut self, database: &str, command: &C) -> Command<OnConnection<'a>>
    where
        C: Serialize + ?Sized,
    {
        let target = OnConnection {
            connection: self,
            session: None,
        };
        Command::new(target, database, command)
    }

    /// Starts a session for operations on connections of this connection's pool. A connection
    /// without a pool has a session for itself alone.
    ///
    /// # Errors
    /// The options contradict each other.
    pub fn start_session(&self, options: SessionOptions) -> Result<ClientSession> {
        let client = self.client();
        let minutes = self.description().logical_session_timeout_minutes;
        ClientSession::start(client, options, |client| {
            client.take_session(Instant::now().into_std(), minutes, random_id)
        })
    }

    /// Commits the session's transaction, which ran on this connection. May be called again if the
    /// error has the label `UnknownTransactionCommitResult`.
    ///
    /// # Errors
    /// There is no transaction, or it was aborted; the command failed, or its write concern.
    pub async fn commit_transaction(&mut self, session: &mut ClientSession) -> Result<()> {
        self.end_transaction(session, Ending::Commit).await
    }

    /// Aborts the session's transaction, which ran on this connection. Errors of the command are
    /// ignored: the server aborts the transaction in the end.
    ///
    /// # Errors
    /// There is no transaction, or it has ended.
    pub async fn abort_transaction(&mut self, session: &mut ClientSession) -> Result<()> {
        self.end_transaction(session, Ending::Abort).await
    }

    async fn end_transaction(&mut self, session: &mut ClientSession, ending: Ending) -> Result<()> {
        if !session.transaction.end(ending)? {
            return Ok(());
        }
        let timeout = session.options().default_timeout;
        let command = Command {
            request: Ok(Request::end_transaction(ending)),
            target: OnConnection {
                connection: self,
                session: Some(session),
            },
        };
        let command = match timeout {
            Some(timeout) => command.timeout(timeout),
            None => command,
        };
        match (command.await, ending) {
            (Ok(reply), Ending::Commit) => {
                let outcome = reply.check_write();
                outcome.map_err(|error| {
                    session.transaction.commit_failed(false);
                    label_commit(error, true)
                })
            }
            (Err(error), Ending::Commit) => {
                session
                    .transaction
                    .commit_failed(error.is_retryable_overload());
                Err(label_commit(error, false))
            }
            (_, Ending::Abort) => Ok(()),
        }
    }

    /// The options and the sessions of operations on this connection.
    pub(crate) fn client(&self) -> Arc<ClientContext> {
        match self.pool_handle() {
            Some(pool_handle) => pool_handle.owner.client().clone(),
            None => Arc::default(),
        }
    }

    pub(crate) fn supports_sessions(&self) -> bool {
        let description = self.description();
        description.logical_session_timeout_minutes.is_some()
    }

    /// The session of an operation that has none.
    pub(crate) fn implicit_session(&self, client: &Arc<ClientContext>) -> Option<ClientSession> {
        // Without a pool it could not be used again.
        self.pool_handle()?;
        let minutes = self.description().logical_session_timeout_minutes?;
        let now = Instant::now().into_std();
        let server = client.take_session(now, Some(minutes), random_id);
        Some(ClientSession::implicit(client.clone(), server))
    }

    /// What the fields of a command depend on.
    pub(crate) fn facts(&self, is_direct: bool) -> Facts {
        let description = self.description();
        let is_router = description.mongos || description.service_id.is_some();
        let pool = self.pool_handle();
        Facts {
            is_direct,
            is_router,
            is_standalone: description.set_name.is_none() && !is_router,
            max_wire_version: description.max_wire_version,
            cluster_time: pool.and_then(|pool| pool.owner.newest_cluster_time()),
            max_time: None,
        }
    }

    /// Runs a command once, with what is added to it, and tells the session.
    pub(crate) async fn attempt(
        &mut self,
        request: &mut Request,
        mut session: Option<&mut ClientSession>,
        facts: &Facts,
        deadline: Option<Deadline>,
    ) -> Result<OwnedReply> {
        if session.is_some() && !self.supports_sessions() {
            let error = Error::configuration("the server does not support sessions");
            return Err(self.identity().name(error));
        }
        let had_begun = session.as_ref().is_some_and(|own| own.has_begun());
        let client = self.client();
        request.prepare(session.as_deref_mut(), facts, &client.defaults)?;
        if let Some(session) = &mut session {
            session.sending(Instant::now().into_std());
        }
        let (database, body) = (&*request.database, request.body());
        let outcome = match deadline {
            Some(deadline) => self.run_command_by(deadline, database, &body).await,
            None => self.run_command(database, &body).await,
        };
        let outcome = match outcome {
            Ok(reply) => {
                if let Some(session) = &mut session {
                    session.observe(&Observed::of(reply.raw()));
                }
                Ok(reply.into_owned())
            }
            Err(error) => Err(error),
        };
        if let Some(session) = session {
            match &outcome {
                Ok(_) => session.received(false),
                Err(error) => {
                    let was_sent = was_sent(error, self.is_closed());
                    session.received(was_sent && error.command().is_none());
                    if let Some(command) = error.command() {
                        session.observe(&Observed::of(&command.reply));
                    }
                    // Errors before the command was sent leave the transaction as it was.
                    if !was_sent && !had_begun && session.has_begun() {
                        session.transaction.rewind();
                    }
                }
            }
        }
        outcome
    }
}

/// Whether a command that failed with this error may have reached the server.
pub(crate) fn was_sent(error: &Error, is_closed: bool) -> bool {
    match error.kind() {
        // A command that is too long leaves the connection open.
        ErrorKind::Protocol(_) => is_closed,
        _ => Failure::of_command(error.clone()).was_sent,
    }
}

pub(crate) fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    // Without the system's randomness nothing else works either: no nonce, no TLS.
    let _ = getrandom::fill(&mut id);
    id
}

/// The pause before a retry.
pub(crate) async fn wait(pause: Duration) {
    if !pause.is_zero() {
        sleep_until(Instant::now() + pause).await;
    }
}

impl<'a> Command<OnConnection<'a>> {
    /// Runs it in this session. The borrow prevents that two operations use the session at a time.
    pub fn session(mut self, session: &'a mut ClientSession) -> Self {
        self.target.session = Some(session);
        self
    }
}

impl<'a> IntoFuture for Command<OnConnection<'a>> {
    type Output = Result<OwnedReply>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut request = self.request?;
            let OnConnection {
                connection,
                session,
            } = self.target;
            let client = connection.client();
            let mut implicit = None;
            let session = match session {
                Some(session) => Some(session),
                None if request.is_unacknowledged(&client.defaults) => None,
                None => {
                    implicit = connection.implicit_session(&client);
                    implicit.as_mut()
                }
            };
            let reply = run(connection, &mut request, session, &client).await;
            drop(implicit);
            reply
        })
    }
}

/// Runs an operation on a connection, again only after an overload.
async fn run(
    connection: &mut Connection,
    request: &mut Request,
    mut session: Option<&mut ClientSession>,
    client: &Arc<ClientContext>,
) -> Result<OwnedReply> {
    let timeout = request.timeout.or(client.defaults.timeout);
    let begun = Instant::now();
    let limit = timeout.filter(|limit| !limit.is_zero());
    let deadline = limit.map(Deadline::after);
    if let Some(own) = &mut session
        && !own.is_implicit()
    {
        if connection.pool_handle().is_some() {
            own.check(client)?;
        }
        if request.is_unacknowledged(&client.defaults) {
            return Err(unacknowledged());
        }
        if request.ending.is_none() {
            own.transaction.enter();
        }
        request.selection(Some(own), &client.defaults)?;
    }
    request.limits_server &= timeout.is_none();
    let mut options = RetryOptions::of(request.kind, &client.defaults, timeout.is_some());
    options.retries_errors = false;
    options.retries_overload |= request.ending.is_some();
    let mut retry = Retry::new(options);
    loop {
        let mut facts = connection.facts(connection.description().secondary);
        let left = deadline.and_then(|deadline| deadline.remaining());
        let Ok(time) = max_time(left, Duration::ZERO) else {
            return Err(timed_out_before(connection, &begun, &retry));
        };
        facts.max_time = time.filter(|_| !request.is_bare || request.ending.is_some());
        let had_begun = session.as_ref().is_some_and(|own| own.has_begun());
        let by = deadline.or_else(|| timeout.map(|_| Deadline::never()));
        let outcome = connection
            .attempt(request, session.as_deref_mut(), &facts, by)
            .await;
        let error = match outcome {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        let failure = Failure {
            was_sent: was_sent(&error, connection.is_closed()),
            remaining: deadline.and_then(|deadline| deadline.remaining()),
            jitter: jitter(),
            ..Failure::of_command(error)
        };
        match retry.failed(failure) {
            Verdict::Again { pause } => {
                if let Some(session) = session.as_deref_mut().filter(|own| own.has_begun())
                    && !had_begun
                {
                    session.transaction.rewind();
                }
                wait(pause).await;
            }
            Verdict::Stop(error) => {
                let is_over = deadline.is_some_and(|deadline| deadline.is_over());
                return Err(
                    match timeout.is_some() && (is_over || is_time_limit(&error)) {
                        true => timed_out(error, begun.elapsed()),
                        false => error,
                    },
                );
            }
        }
    }
}

fn timed_out_before(connection: &Connection, begun: &Instant, retry: &Retry) -> Error {
    let error = Error::timeout(Wait::Command, begun.elapsed());
    timed_out(
        retry.stop(connection.identity().name(error)),
        begun.elapsed(),
    )
}

/// An unacknowledged write can't have a session.
pub(crate) fn unacknowledged() -> Error {
    Error::configuration("an unacknowledged write can't use a session: the write concern has w=0")
}

/// A random number from 0 to 1.
fn jitter() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}
