//! The attempts of one operation.

use std::sync::Arc;

use tracing::Instrument;

use super::session::Session;
use crate::ServerAddress;
use crate::error::{Error, Result};
use crate::event::logs;
use crate::net::{Limits, OwnedReply, jitter, wait};
use crate::operation::{
    ClientContext, ClientSession, Ending, Failure, OperationKind, Request, Retry, RetryOptions,
    Verdict, is_time_limit, is_unpinned, timed_out,
};
use crate::pools::guard::Pinned;
use crate::pools::{Backend, PooledConnection, Pools};
use crate::sdam::TopologyType;

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

/// One operation.
pub(super) struct Run<'r, 's, B: Backend> {
    pub(super) pools: &'r Pools<B>,
    pub(super) owner: &'r mut Owner<'s, B>,
    pub(super) request: &'r mut Request,
    pub(super) client: Arc<ClientContext>,
    pub(super) limits: Limits,
    pub(super) retry: Retry,
    pub(super) in_transaction: bool,
    /// Where the cursor that the command is for keeps its connection, behind a load balancer.
    pub(super) pinned: Option<&'r mut Pinned<B>>,
    /// The server of the cursor that the command is for.
    pub(super) server: Option<ServerAddress>,
    /// The connection of the current attempt.
    pub(super) in_hand: Option<PooledConnection<B>>,
    /// Whether it is the session's.
    pub(super) is_of_session: bool,
}

/// A connection that a session or a cursor keeps stays with it, even if the operation is dropped.
impl<B: Backend> Drop for Run<'_, '_, B> {
    fn drop(&mut self) {
        drop(self.put_back(false));
    }
}

impl<'r, 's, B: Backend> Run<'r, 's, B> {
    /// # Errors
    /// The session can't be used here.
    pub(super) fn new(
        pools: &'r Pools<B>,
        owner: &'r mut Owner<'s, B>,
        request: &'r mut Request,
    ) -> Result<Self> {
        let client = pools.client();
        let timeout = request.timeout.or(client.defaults.timeout);
        let mut limits = Limits::new(timeout);
        let mut in_transaction = false;
        if let Some(session) = owner.explicit() {
            session.check(pools, &client, request)?;
            in_transaction = session.state.enter(request)?;
            if !in_transaction && !request.is_bare {
                session.unpin();
            }
            let is_within = in_transaction || request.ending.is_some();
            if let Some(within) = session.within.filter(|_| is_within) {
                if request.timeout.is_some() {
                    return Err(Error::configuration(
                        "a time limit of an operation can't override that of with_transaction",
                    ));
                }
                limits = match request.ending {
                    // Once it is over, the transaction is still to be aborted.
                    Some(Ending::Abort) => within.renewed(),
                    Some(Ending::Commit) | None => within,
                };
            }
        }
        let has_timeout = limits.has_timeout();
        let options =
            RetryOptions::of_request(request, &client.defaults, has_timeout, in_transaction);
        let mut retry = Retry::new(options);
        let deprioritized = std::mem::take(&mut request.deprioritized).into_iter();
        deprioritized.for_each(|server| retry.deprioritize(server));
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
            in_hand: None,
            is_of_session: false,
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
                return Err(timed_out(error, self.limits.deadline.elapsed()));
            }
            if let (Some(reply), Some(server)) = (failed.reply, failed.server.clone()) {
                let done = Done {
                    reply,
                    server,
                    connection: None,
                };
                // Boxed: rare, and would enlarge the future.
                unconfirmed = Some(Box::new((error.clone(), done)));
            }
            let failure = Failure {
                server: failed.server,
                is_sharded: self.topology_type() == TopologyType::Sharded,
                was_sent: failed.was_sent,
                remaining: self.limits.remaining(),
                jitter: jitter(self.pools.topology().shared().random()),
                ..Failure::of_command(error)
            };
            match self.retry.failed(failure) {
                Verdict::Again { pause } => wait(pause).await,
                Verdict::Stop(error) => {
                    let error = self.limits.conclude(error);
                    return match unconfirmed.map(|own| *own) {
                        // The write was done: its reply says what is not confirmed.
                        Some((own, done)) if own.is_same(&error) => Ok(done),
                        _ => Err(error),
                    };
                }
            }
        }
    }

    /// A write whose time on the server was over while it waited for its write concern has failed.
    fn accept(&self, done: Done<B>) -> Result<Done<B>> {
        if self.limits.has_timeout() && self.request.kind == OperationKind::Write {
            let outcome = done.reply.check_write();
            if let Some(error) = outcome.err().filter(is_time_limit) {
                return Err(self.limits.conclude(error));
            }
        }
        Ok(done)
    }

    /// Labels the error of a transaction, and unpins the session if it has to be.
    fn react(&mut self, error: Error) -> Error {
        let Some(session) = self.owner.explicit() else {
            return error;
        };
        let ending = self.request.ending;
        if ending.is_none() && !self.in_transaction {
            return error;
        }
        let error = session.state.transaction.failed(error, ending);
        if is_unpinned(&error, ending) {
            session.connection = None;
        }
        error
    }

    pub(super) fn topology_type(&self) -> TopologyType {
        self.pools.topology().snapshot().topology().topology_type()
    }
}
