//! Operations on a connection in hand.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::cursor::{BatchCursor, CursorLimits, CursorSource};
use super::{Limits, jitter, random_id, wait, was_sent};
use crate::error::Result;
use crate::net::{Connection, OwnedReply};
use crate::operation::{
    ClientContext, ClientSession, Command, Ending, Failure, Leftover, Request, Retry, RetryOptions,
    SessionOptions, Verdict,
};

/// The target of [`Connection::command`].
#[derive(Debug)]
pub struct OnConnection<'a> {
    connection: &'a mut Connection,
    session: Option<&'a mut ClientSession>,
    /// The session of an operation that was given none.
    implicit: Option<Box<ClientSession>>,
    client: Arc<ClientContext>,
}

impl<'a> OnConnection<'a> {
    fn new(connection: &'a mut Connection, session: Option<&'a mut ClientSession>) -> Self {
        Self {
            client: connection.client(),
            connection,
            session,
            implicit: None,
        }
    }
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
        Command::new(OnConnection::new(self, None), database, command)
    }

    /// Starts a session for operations on connections of this connection's pool. A connection
    /// without a pool has a session for itself alone.
    ///
    /// A transaction that the server may have open when the session is dropped is aborted in the
    /// background by the `Pools` of the connection; without them, and behind a load balancer, the
    /// server ends it (`transactionLifetimeLimitSeconds`, 60 s).
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
    /// There is no transaction, or it was aborted; it ran on another mongos; the command failed, or
    /// its write concern.
    pub async fn commit_transaction(&mut self, session: &mut ClientSession) -> Result<()> {
        self.end_transaction(session, Ending::Commit).await
    }

    /// Aborts the session's transaction, which ran on this connection. Errors of the command are
    /// ignored: the server aborts the transaction in the end.
    ///
    /// # Errors
    /// There is no transaction, or it has ended; it ran on another mongos.
    pub async fn abort_transaction(&mut self, session: &mut ClientSession) -> Result<()> {
        self.end_transaction(session, Ending::Abort).await
    }

    async fn end_transaction(&mut self, session: &mut ClientSession, ending: Ending) -> Result<()> {
        session.check_server(self.server())?;
        if !session.transaction.end(ending)? {
            return Ok(());
        }
        let mut request = Request::end_transaction(ending);
        request.timeout = session.options().default_timeout;
        let command = Command {
            request: Ok(request),
            target: OnConnection::new(self, Some(session)),
        };
        let outcome = command.await;
        match ending {
            Ending::Commit => match outcome {
                Ok(reply) => session.transaction.committed(reply.check_write()),
                Err(error) => Err(session.transaction.failed(error, Some(ending))),
            },
            Ending::Abort => Ok(()),
        }
    }
}

impl<'a> Command<OnConnection<'a>> {
    /// Runs it in this session. The borrow prevents that two operations use the session at a time.
    pub fn session(mut self, session: &'a mut ClientSession) -> Self {
        self.target.session = Some(session);
        self
    }

    /// Lets the server send the batches of its cursor without a `getMore` for each
    /// (`exhaustAllowed`). It sends as fast as they are read: what is not read stays in the socket.
    /// Servers that do not stream answer each `getMore`. Events and logs show the `getMore` that
    /// begins a stream. Without effect if this is not run as a [`cursor`](Self::cursor).
    ///
    /// A cursor that is dropped or closed before its last batch leaves a connection that can't be used
    /// any more, since the batches under way have no known end. Pools close the cursor over another
    /// connection. Cursors over `Pools` have no such option: they keep no connection.
    pub fn exhaust(self) -> Self {
        self.with(|request| request.cursor.exhaust = true)
    }

    /// Runs it, and returns the cursor of its reply.
    ///
    /// # Errors
    /// See [`Connection::command`];
    /// [`ErrorKind::Deserialization`](crate::ErrorKind::Deserialization): the reply has no cursor.
    pub async fn cursor(self) -> Result<ConnectionCursor<'a>> {
        let mut request = self.request?;
        let mut target = self.target;
        let timeout = request.timeout.or(target.client.defaults.timeout);
        let limits = CursorLimits::of(&mut request, timeout)?;
        let reply = target.run(&mut request, limits.of_command()).await?;
        let state = request
            .open_cursor(reply.into_raw())
            .map_err(|error| target.connection.identity().name(error))?;
        let kill = state.kill();
        let source = kill.map(|kill| InHand {
            target,
            kill: Some(kill),
        });
        Ok(BatchCursor::new(state, source, limits))
    }

    /// Runs it, and returns the first document of its reply's cursor; `None` if there is none.
    ///
    /// Limit the command to one document, so that the server does not open a cursor: a `find` with
    /// `limit: 1`, or with `singleBatch: true` and `batchSize: 1`; an `aggregate` with a last stage
    /// `$limit`. A cursor that is open nevertheless is closed by a `killCursors` before this
    /// returns, or in the background if this fails or is cancelled after the command's reply. If it is
    /// cancelled before, the cursor's id is unknown, and the server closes it after 10 minutes.
    ///
    /// # Errors
    /// See [`cursor`](Self::cursor) and [`BatchCursor::next`](crate::net::BatchCursor::next).
    pub async fn first<T: DeserializeOwned>(self) -> Result<Option<T>> {
        self.cursor().await?.only().await
    }
}

impl<'a> IntoFuture for Command<OnConnection<'a>> {
    type Output = Result<OwnedReply>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut request = self.request?;
            let mut target = self.target;
            let limits = Limits::new(request.timeout.or(target.client.defaults.timeout));
            target.run(&mut request, limits).await
        })
    }
}

impl OnConnection<'_> {
    /// Runs an operation on a connection, again only after an overload.
    async fn run(&mut self, request: &mut Request, limits: Limits) -> Result<OwnedReply> {
        let Self {
            connection,
            session,
            implicit,
            client,
        } = self;
        match session {
            Some(own) => {
                if connection.pool_handle().is_some() {
                    own.check(client)?;
                }
                own.enter(request)?;
                own.check_server(connection.server())?;
                request.selection(Some(own), &client.defaults)?;
                let description = connection.description();
                let is_router = description.mongos && description.service_id.is_none();
                if is_router && own.is_in_transaction() {
                    own.transaction.pin(connection.server());
                }
            }
            None if implicit.is_some() || request.is_unacknowledged(&client.defaults) => {}
            None => *implicit = connection.implicit_session(client),
        }
        let mut session = session.as_deref_mut().or(implicit.as_deref_mut());
        let has_timeout = limits.has_timeout();
        let mut options = RetryOptions::of_request(request, &client.defaults, has_timeout, false);
        options.retries_errors = false;
        let mut retry = Retry::new(options);
        loop {
            let mut facts = connection.facts(connection.description().secondary);
            if let Err(error) = limits.apply(request, Duration::ZERO, &mut facts) {
                let error = connection.identity().name(error);
                return Err(limits.conclude(retry.stop(error)));
            }
            let outcome = connection
                .attempt(request, session.as_deref_mut(), &facts, limits.of_command())
                .await;
            let error = match outcome {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let error = match session.as_deref_mut().filter(|own| own.is_in_transaction()) {
                Some(own) => own.transaction.failed(error, None),
                None => error,
            };
            let failure = Failure {
                was_sent: was_sent(&error, connection.is_closed()),
                remaining: limits.remaining(),
                jitter: match connection.pool_handle() {
                    Some(pool_handle) => pool_handle.owner.jitter(),
                    None => jitter(getrandom::u64().unwrap_or_default()),
                },
                ..Failure::of_command(error)
            };
            match retry.failed(failure) {
                Verdict::Again { pause } => wait(pause).await,
                Verdict::Stop(error) => return Err(limits.conclude(error)),
            }
        }
    }
}

/// A cursor on a connection in hand, which it borrows. If it is dropped early, pools close it over
/// another connection; behind a load balancer and without pools its own connection is closed.
pub type ConnectionCursor<'a> = BatchCursor<'a, InHand<'a>>;

/// Runs the commands of a [`ConnectionCursor`].
pub struct InHand<'a> {
    target: OnConnection<'a>,
    /// Closes the cursor, unless the server has.
    kill: Option<Box<Request>>,
}

impl InHand<'_> {
    /// Leaves it to the background to close the server's cursor; without one, closes the connection.
    fn leave(&mut self) {
        let Some(kill) = self.kill.take() else {
            return;
        };
        let connection = &mut *self.target.connection;
        let leftover = Leftover::kill(kill, connection.server().clone());
        let is_elsewhere = connection.description().service_id.is_none();
        if !is_elsewhere || !self.target.client.leave(leftover) {
            connection.close();
        }
    }
}

impl CursorSource for InHand<'_> {
    async fn get_more(&mut self, mut request: Box<Request>, limits: Limits) -> Result<OwnedReply> {
        self.target.run(&mut request, limits).await
    }

    async fn kill(&mut self, limits: Limits) {
        // Neither a closed connection nor one that streams can send it.
        if let Some(kill) = &mut self.kill
            && !self.target.connection.send_end(kill, None, limits).await
        {
            self.leave();
        }
    }

    fn set_kill(&mut self, kill: Option<Box<Request>>) {
        if kill.is_none() {
            self.target.implicit = None;
        }
        self.kill = kill;
    }

    fn min_round_trip_time(&self) -> Duration {
        Duration::ZERO
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}
