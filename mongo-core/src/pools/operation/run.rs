//! The attempts of one operation.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Instrument;

use super::{Pinned, Session};
use crate::ServerAddress;
use crate::error::{Error, RETRYABLE_WRITE, Result, Wait};
use crate::event::logs;
use crate::net::{Deadline, Limits, OwnedReply, jitter, unacknowledged, wait, was_sent};
use crate::operation::{
    ClientContext, ClientSession, Ending, Failure, OperationKind, Request, Retry, RetryOptions,
    TRANSIENT_TRANSACTION_ERROR, UNKNOWN_COMMIT_RESULT, Verdict, is_time_limit, label_commit,
    label_transient, max_time, timed_out,
};
use crate::pools::registry::check_out::Wanted;
use crate::pools::{Backend, PinReason, PooledConnection, Pools};
use crate::sdam::{ServerType, TopologyType};
use crate::select::{Criterion, ReadPreference, ServerSelector};

/// The session of an operation.
pub(super) enum Owner<'s, B: Backend> {
    /// It has none, or none yet.
    None,
    Implicit(Box<ClientSession>),
    Explicit(&'s mut Session<B>),
}

impl<'s, B: Backend> Owner<'s, B> {
    pub(super) fn of(session: Option<&'s mut Session<B>>) -> Self {
        match session {
            Some(session) => Self::Explicit(session),
            None => Self::None,
        }
    }

    pub(super) fn state(&mut self) -> Option<&mut ClientSession> {
        match self {
            Self::None => None,
            Self::Implicit(session) => Some(session),
            Self::Explicit(session) => Some(&mut session.state),
        }
    }

    pub(super) fn explicit(&mut self) -> Option<&mut Session<B>> {
        match self {
            Self::Explicit(session) => Some(session),
            Self::None | Self::Implicit(_) => None,
        }
    }
}

/// A successful operation.
pub(super) struct Done<B: Backend> {
    pub(super) reply: OwnedReply,
    pub(super) server: ServerAddress,
    /// Its connection, unless the session keeps it.
    pub(super) connection: Pinned<B>,
}

/// A failed attempt.
struct Failed {
    error: Error,
    server: Option<ServerAddress>,
    was_sent: bool,
    /// The reply, if the write was done but its write concern failed.
    reply: Option<OwnedReply>,
    /// Whether no further attempt can succeed: too little time is left.
    is_final: bool,
}

impl Failed {
    fn unsent(error: Error) -> Self {
        Self {
            server: error.server().cloned(),
            error,
            was_sent: false,
            reply: None,
            is_final: false,
        }
    }
}

/// One operation.
pub(super) struct Run<'r, 's, B: Backend> {
    pools: &'r Pools<B>,
    owner: &'r mut Owner<'s, B>,
    request: &'r mut Request,
    client: Arc<ClientContext>,
    limits: Limits,
    retry: Retry,
    in_transaction: bool,
    /// The connection of the cursor that the command is for, behind a load balancer.
    pub(super) pinned: Pinned<B>,
    /// The server of the cursor that the command is for.
    pub(super) server: Option<ServerAddress>,
    /// Whether the current attempt is the first command of its transaction.
    is_first: bool,
}

impl<'r, 's, B: Backend> Run<'r, 's, B> {
    /// # Errors
    /// The session can't be used here.
    pub(super) fn new(
        pools: &'r Pools<B>,
        owner: &'r mut Owner<'s, B>,
        request: &'r mut Request,
        deprioritized: Vec<ServerAddress>,
    ) -> Result<Self> {
        let client = pools.client();
        let timeout = request.timeout.or(client.defaults.timeout);
        let mut limits = Limits::new(timeout);
        let mut in_transaction = false;
        if let Some(session) = owner.explicit() {
            session.state.check(&client)?;
            if request.is_unacknowledged(&client.defaults) {
                return Err(unacknowledged());
            }
            if request.ending.is_none() {
                in_transaction = session.state.transaction.enter();
                if !in_transaction && !request.is_bare {
                    session.unpin();
                }
            }
            let is_within = in_transaction || request.ending.is_some();
            if let Some(until) = session.state.until.filter(|_| is_within) {
                if request.timeout.is_some() {
                    return Err(Error::configuration(
                        "a time limit of an operation can't override that of with_transaction",
                    ));
                }
                limits = Limits::until(Instant::from_std(until));
            }
        }
        if request.ending.is_some() {
            // The limit of the operation overrides that of the transaction.
            request.limits_server = !limits.has_timeout;
        }
        let mut options = RetryOptions::of(request.kind, &client.defaults, limits.has_timeout);
        let is_retryable = request.is_retryable && !request.is_unacknowledged(&client.defaults);
        options.retries_errors &= is_retryable && !in_transaction;
        if request.ending.is_some() {
            (options.retries_errors, options.retries_overload) = (true, true);
        }
        let mut retry = Retry::new(options);
        deprioritized
            .into_iter()
            .for_each(|server| retry.deprioritize(server));
        Ok(Self {
            pools,
            owner,
            request,
            client,
            limits,
            retry,
            in_transaction,
            pinned: None,
            server: None,
            is_first: false,
        })
    }

    /// Sets the time limits.
    pub(super) fn within(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Runs it, in a span if a subscriber wants one. A command on a cursor is part of another
    /// operation.
    pub(super) async fn run(&mut self) -> Result<Done<B>> {
        let is_on_cursor = self.request.is_bare && self.request.ending.is_none();
        if is_on_cursor || !logs::wants_spans() {
            return self.run_attempts().await;
        }
        let parent = match self.owner.explicit() {
            Some(session) if self.in_transaction || self.request.ending.is_some() => {
                Some(session.span.clone())
            }
            Some(_) | None => None,
        };
        let (name, database) = (self.request.name(), &*self.request.database);
        let collection = self.request.collection();
        let span = logs::operation_span(parent.as_ref(), name, database, collection);
        let outcome = Box::pin(self.run_attempts().instrument(span.clone())).await;
        outcome.inspect_err(|error| logs::record_failure(&span, error))
    }

    async fn run_attempts(&mut self) -> Result<Done<B>> {
        let mut unconfirmed = None;
        loop {
            let failed = match self.attempt().await {
                Ok(done) => return self.accept(done),
                Err(failed) => failed,
            };
            let error = self.react(failed.error);
            if failed.is_final {
                let error = self.retry.stop(error);
                return Err(timed_out(error, self.limits.begun.elapsed()));
            }
            if let Some(reply) = failed.reply {
                unconfirmed = Some((error.clone(), reply, failed.server.clone()));
            }
            let is_first = std::mem::take(&mut self.is_first);
            let failure = Failure {
                server: failed.server,
                is_sharded: self.topology_type() == TopologyType::Sharded,
                was_sent: failed.was_sent,
                remaining: self.limits.remaining(),
                jitter: jitter(self.pools.topology().shared().random()),
                ..Failure::of_command(error)
            };
            match self.retry.failed(failure) {
                Verdict::Again { pause } => {
                    if let Some(session) = self.owner.state().filter(|_| is_first) {
                        session.transaction.rewind();
                    }
                    wait(pause).await;
                }
                Verdict::Stop(error) => {
                    let error = self.limits.conclude(error);
                    return match unconfirmed {
                        // The write was done: its reply says what is not confirmed.
                        Some((own, reply, Some(server))) if own.is_same(&error) => Ok(Done {
                            reply,
                            server,
                            connection: None,
                        }),
                        _ => Err(error),
                    };
                }
            }
        }
    }

    /// A write whose time on the server was over while it waited for its write concern has failed.
    fn accept(&self, done: Done<B>) -> Result<Done<B>> {
        if self.limits.has_timeout && self.request.kind == OperationKind::Write {
            let outcome = done.reply.check_write();
            if let Some(error) = outcome.err().filter(is_time_limit) {
                return Err(self.limits.conclude(error));
            }
        }
        Ok(done)
    }

    /// Labels an error, and unpins the session if it has to be.
    fn react(&mut self, error: Error) -> Error {
        let Some(session) = self.owner.explicit() else {
            return error;
        };
        let error = match self.request.ending {
            None if !self.in_transaction => return error,
            None => label_transient(error),
            Some(Ending::Abort) => {
                session.unpin();
                error
            }
            Some(Ending::Commit) => {
                let is_overload = error.is_retryable_overload();
                session.state.transaction.commit_failed(is_overload);
                label_commit(error, false)
            }
        };
        if error.has_label(TRANSIENT_TRANSACTION_ERROR) || error.has_label(UNKNOWN_COMMIT_RESULT) {
            session.unpin();
        }
        error
    }

    async fn attempt(&mut self) -> Result<Done<B>, Failed> {
        let (mut connection, is_own) = match self.take_pinned() {
            Some(pinned) => pinned,
            None => (self.check_out().await?, true),
        };
        let server = connection.server().clone();
        let outcome = self.attempt_on(&mut connection).await;
        // A connection that a session or cursor keeps stays with it, whatever the outcome.
        let connection = self.put_back(connection, is_own, outcome.is_ok());
        match outcome {
            Ok(reply) => Ok(Done {
                reply,
                server,
                connection,
            }),
            Err(failed) => Err(Failed {
                server: Some(server),
                ..failed
            }),
        }
    }

    async fn attempt_on(
        &mut self,
        connection: &mut PooledConnection<B>,
    ) -> Result<OwnedReply, Failed> {
        let topology = self.pools.topology().snapshot();
        let entry = topology.server(connection.server());
        let is_direct = topology.topology().topology_type() == TopologyType::Single;
        let mut facts = connection.facts(is_direct);
        if self.request.has_session
            && matches!(self.owner, Owner::None)
            && !self.request.is_unacknowledged(&self.client.defaults)
            && let Some(session) = connection.implicit_session(&self.client)
        {
            *self.owner = Owner::Implicit(Box::new(session));
        }
        if self.request.is_numbered() && facts.is_standalone {
            let error = Error::configuration("the server does not support retryable writes");
            return Err(Failed::unsent(error.at(connection.server())));
        }
        let min_rtt = entry.and_then(|entry| entry.description().min_round_trip_time);
        match max_time(self.limits.remaining(), min_rtt.unwrap_or_default()) {
            Ok(time) => facts.max_time = time.filter(|_| self.request.sends_max_time()),
            Err(()) => {
                let error = Error::timeout(Wait::Command, self.limits.begun.elapsed());
                return Err(Failed {
                    is_final: true,
                    ..Failed::unsent(error.at(connection.server()))
                });
            }
        }
        self.pin(
            connection,
            entry.map(|entry| entry.description().server_type),
        );
        let had_begun = self.owner.state().is_some_and(|own| own.has_begun());
        let deadline = self.limits.of_command();
        let outcome = connection
            .attempt(self.request, self.owner.state(), &facts, deadline)
            .await;
        let has_begun = self.owner.state().is_some_and(|own| own.has_begun());
        self.is_first = has_begun && !had_begun;
        let error = match outcome {
            Ok(reply) => return self.check(reply),
            Err(error) => error,
        };
        if self.request.kind == OperationKind::Write && !self.request.is_numbered() {
            self.retry.forbid();
        }
        Err(Failed {
            server: None,
            was_sent: was_sent(&error, connection.is_closed()),
            error: match self.in_transaction {
                true => error,
                false => explain(error),
            },
            reply: None,
            is_final: false,
        })
    }

    /// A retryable write is tried again if the server says so of its write concern.
    fn check(&self, reply: OwnedReply) -> Result<OwnedReply, Failed> {
        if !self.request.is_numbered() {
            return Ok(reply);
        }
        match reply.check_write() {
            Err(error) if error.has_label(RETRYABLE_WRITE) => Err(Failed {
                error,
                server: None,
                was_sent: true,
                reply: Some(reply),
                is_final: false,
            }),
            Ok(()) | Err(_) => Ok(reply),
        }
    }

    /// The connection that the cursor or the session keeps, and whether it is the cursor's.
    fn take_pinned(&mut self) -> Option<(PooledConnection<B>, bool)> {
        if let Some(connection) = self.pinned.take() {
            return Some((connection, true));
        }
        let session = self.owner.explicit()?;
        session.connection.take().map(|pinned| (pinned, false))
    }

    /// Returns a connection to the session that keeps it. Any other is handed on with a success, and
    /// returned to its pool after a failure.
    fn put_back(
        &mut self,
        mut connection: PooledConnection<B>,
        is_own: bool,
        has_succeeded: bool,
    ) -> Pinned<B> {
        let is_cursors = self.request.is_bare && self.request.ending.is_none();
        if is_own && is_cursors && self.client.defaults.load_balanced {
            self.pinned = Some(connection);
            return match has_succeeded {
                true => self.pinned.take(),
                false => None,
            };
        }
        let is_kept = self.client.defaults.load_balanced && (self.in_transaction || !is_own);
        match self.owner.explicit().filter(|_| is_kept) {
            Some(session) => {
                connection.pin(PinReason::Transaction);
                session.connection = Some(connection);
                None
            }
            None => has_succeeded.then_some(connection),
        }
    }

    /// Pins a transaction to its mongos.
    fn pin(&mut self, connection: &PooledConnection<B>, server_type: Option<ServerType>) {
        let is_sharded = self.topology_type() == TopologyType::Sharded;
        let is_mongos = server_type == Some(ServerType::Mongos) && is_sharded;
        if self.in_transaction
            && is_mongos
            && let Some(session) = self.owner.state()
        {
            session.transaction.pin(connection.server());
        }
    }

    async fn check_out(&mut self) -> Result<PooledConnection<B>, Failed> {
        let session = self.owner.state();
        let pinned = session.as_ref().and_then(|own| own.pinned_server());
        let pinned = self.server.as_ref().or(pinned).cloned();
        let preference = self
            .request
            .selection(session.as_deref(), &self.client.defaults)
            .map_err(Failed::unsent)?;
        let criterion = match (&pinned, preference) {
            (Some(server), _) => only(server.clone()),
            (None, Some(preference)) => Criterion::read(preference)
                .map_err(|error| Failed::unsent(Error::configuration(error.to_string())))?,
            (None, None) => self.pools.write_criterion().clone(),
        };
        if let Some(server) = &self.server
            && self.pools.topology().snapshot().server(server).is_none()
        {
            let text = format!("the server of the cursor, {server}, has left the deployment");
            return Err(Failed::unsent(Error::configuration(text).at(server)));
        }
        let (wait_limit, selection_limit) = self.pools.wait_limits();
        let deadline = match (self.limits.has_timeout, self.limits.deadline) {
            (true, Some(deadline)) => deadline.within(Some(selection_limit)),
            (true, None) => Deadline::after(selection_limit),
            (false, _) => Deadline::after(wait_limit),
        };
        let wanted = Wanted {
            criterion: &criterion,
            // The only server can't be avoided.
            deprioritized: match pinned {
                Some(_) => &[],
                None => self.retry.deprioritized(),
            },
            operation: Some(self.request.name()),
            // A failed check-out is an attempt: whether there is another one is decided after it.
            selections: 1,
        };
        let mut connection = self
            .pools
            .check_out(deadline, wanted)
            .await
            .map_err(Failed::unsent)?;
        connection.end_span();
        Ok(connection)
    }

    fn topology_type(&self) -> TopologyType {
        self.pools.topology().snapshot().topology().topology_type()
    }
}

/// The criterion of one server.
fn only(server: ServerAddress) -> Criterion {
    let nearest = ReadPreference::new(crate::select::ReadPreferenceMode::Nearest);
    let criterion = Criterion::read(nearest).unwrap_or_default();
    criterion.with_selector(ServerSelector::new(move |servers| {
        let own = servers.iter().filter(|own| own.address == server);
        own.copied().collect()
    }))
}

/// The error of a storage engine that has no retryable writes says what to do.
fn explain(error: Error) -> Error {
    /// `IllegalOperation`.
    const ILLEGAL_OPERATION: i32 = 20;
    match error.command() {
        Some(own) if own.code == ILLEGAL_OPERATION => {
            match own.message.starts_with("Transaction numbers") {
                true => error.with_message(
                    "This MongoDB deployment does not support retryable writes. Please add \
                     retryWrites=false to your connection string.",
                ),
                false => error,
            }
        }
        _ => error,
    }
}
