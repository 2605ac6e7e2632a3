//! One attempt of an operation on a connection: a command with what is added to it.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Limits, random_id, was_sent};
use crate::error::{Error, Result};
use crate::net::deadline::Deadline;
use crate::net::{Connection, OwnedReply, Reply};
use crate::operation::{ClientContext, ClientSession, Ending, Facts, Point, Request};

impl Connection {
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
    pub(crate) fn implicit_session(
        &self,
        client: &Arc<ClientContext>,
    ) -> Option<Box<ClientSession>> {
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
            has_timeout: false,
        }
    }

    /// Sends the end of a cursor, a transaction or sessions. Returns whether the server has done it.
    pub(crate) async fn send_end(
        &mut self,
        request: &mut Request,
        session: Option<&mut ClientSession>,
        limits: Limits,
    ) -> bool {
        let facts = self.facts(false);
        let sent = self.attempt(request, session, &facts, limits.of_command());
        sent.await.is_ok()
    }

    /// Runs a command once, with what is added to it, and tells the session.
    pub(super) async fn attempt(
        &mut self,
        request: &mut Request,
        mut session: Option<&mut ClientSession>,
        facts: &Facts,
        deadline: Option<Deadline>,
    ) -> Result<OwnedReply> {
        let prepared = self.prepare(request, session.as_deref_mut(), facts)?;
        self.execute(request, session, prepared, deadline).await
    }

    /// Runs a prepared command, and tells the session.
    // Not an `async fn`, whose future would contain each argument twice.
    #[inline]
    pub(crate) fn execute(
        &mut self,
        request: &Request,
        session: Option<&mut ClientSession>,
        prepared: Prepared,
        deadline: Option<Deadline>,
    ) -> impl Future<Output = Result<OwnedReply>> {
        let session = session.zip(prepared.before);
        async move {
            let outcome = match prepared.is_unacknowledged {
                true => Box::pin(Named::new(self, request).send(deadline)).await,
                false => Named::new(self, request).run(deadline).await,
            };
            if let Some((session, before)) = session {
                session.note(&outcome, before, request.ending, self.is_closed());
            }
            outcome
        }
    }

    /// Adds to a command what is added for this attempt.
    pub(crate) fn prepare(
        &self,
        request: &mut Request,
        mut session: Option<&mut ClientSession>,
        facts: &Facts,
    ) -> Result<Prepared> {
        if session.is_some() && !self.supports_sessions() {
            let error = Error::configuration("the server does not support sessions");
            return Err(self.identity().name(error));
        }
        let before = session.as_ref().map(|own| own.point());
        let client = self.client();
        if let Some(session) = session.as_deref_mut()
            && self.pool_handle().is_some()
        {
            let identity = self.identity();
            let principal = identity.principal.as_ref();
            let bound = match request.ending.is_some() || session.is_in_transaction() {
                true => session.bind_transaction(&client, principal),
                false => request.bind(principal),
            };
            bound.map_err(|error| identity.name(error))?;
        }
        request.prepare(session.as_deref_mut(), facts, &client.defaults)?;
        if let Some(session) = &mut session {
            session.sending(Instant::now().into_std(), request.ending);
        }
        let is_unacknowledged = session.is_none() && request.is_unacknowledged(&client.defaults);
        Ok(Prepared {
            before,
            is_unacknowledged,
        })
    }
}

/// A command that is ready to be sent.
pub(crate) struct Prepared {
    /// Where the session's transaction stands before it.
    before: Option<Point>,
    /// Whether no reply is awaited.
    is_unacknowledged: bool,
}

impl ClientSession {
    /// Notes the outcome of a command.
    fn note(
        &mut self,
        outcome: &Result<OwnedReply>,
        before: Point,
        ending: Option<Ending>,
        is_closed: bool,
    ) {
        let was_sent = |error| was_sent(error, is_closed);
        let reply = match outcome {
            Ok(reply) => Some(&***reply),
            Err(error) => error.command().map(|own| &*own.reply),
        };
        match (reply, outcome) {
            (Some(reply), _) => self.received(reply, ending),
            (None, Err(error)) => self.failed(was_sent(error)),
            (None, Ok(_)) => {}
        }
        if let Err(error) = outcome
            && (error.is_retryable_overload() || !was_sent(error))
        {
            self.rewind(before);
        }
    }
}

/// A command whose events and logs name its operation, on its connection.
struct Named<'a> {
    connection: &'a mut Connection,
    request: &'a Request,
}

impl<'a> Named<'a> {
    fn new(connection: &'a mut Connection, request: &'a Request) -> Self {
        connection.set_operation(Some(request.id));
        Self {
            connection,
            request,
        }
    }

    // Not an `async fn`, whose future would contain each argument twice.
    #[inline]
    fn run(&mut self, deadline: Option<Deadline>) -> impl Future<Output = Result<OwnedReply>> {
        let (database, body) = (&*self.request.database, self.request.body());
        async move {
            if self.request.cursor.exhaust && self.request.is_bare {
                let own = self.connection.run_exhaust(deadline, database, body);
                // Rare, so boxed: it does not enlarge the future of every command.
                return Box::pin(own).await;
            }
            let deadline = self.connection.deadline_of(deadline)?;
            let reply = self.connection.run(deadline, database, &body).await;
            reply.map(Reply::into_owned)
        }
    }

    async fn send(&mut self, deadline: Option<Deadline>) -> Result<OwnedReply> {
        let (database, body) = (&*self.request.database, self.request.body());
        self.connection
            .run_unacknowledged(deadline, database, body)
            .await
    }
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        self.connection.set_operation(None);
    }
}
