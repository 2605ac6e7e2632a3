//! One attempt: a check-out and a command.

use super::run::{Done, Owner, Run};
use crate::ServerAddress;
use crate::error::{Error, RETRYABLE_WRITE, Result};
use crate::net::{Deadline, OwnedReply, Prepared, was_sent};
use crate::operation::{ClientSession, Facts, OperationKind, Request};
use crate::pools::guard::Pinned;
use crate::pools::registry::check_out::Wanted;
use crate::pools::{Backend, PinReason, PooledConnection};
use crate::sdam::TopologyType;
use crate::select::{Criterion, ReadPreference, ReadPreferenceMode, ServerSelector};

/// A failed attempt.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) server: Option<ServerAddress>,
    pub(super) was_sent: bool,
    /// The reply, if the write was done but its write concern failed.
    pub(super) reply: Option<OwnedReply>,
    /// Whether no further attempt can succeed: too little time is left.
    pub(super) is_final: bool,
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

/// A command that is ready to be sent, on the connection in hand.
struct Ready<'a, B: Backend> {
    connection: &'a mut PooledConnection<B>,
    request: &'a mut Request,
    session: Option<&'a mut ClientSession>,
    prepared: Prepared,
    deadline: Option<Deadline>,
}

impl<B: Backend> Run<'_, '_, B> {
    pub(super) async fn attempt(&mut self) -> Result<Done<B>, Failed> {
        let taken = match self.take_pinned() {
            Some(pinned) => pinned,
            None => self.check_out().await?,
        };
        let Ready {
            connection,
            request,
            session,
            prepared,
            deadline,
        } = match self.prepare(taken) {
            Ok(ready) => ready,
            Err(failed) => {
                drop(self.put_back(false));
                return Err(failed);
            }
        };
        let outcome = connection
            .execute(request, session, prepared, deadline)
            .await;
        let (server, is_closed) = (connection.server().clone(), connection.is_closed());
        let outcome = match outcome {
            Ok(reply) => check(request, reply, server),
            Err(error) => Err(self.failed(error, server, is_closed)),
        };
        let connection = self.put_back(outcome.is_ok());
        let (reply, server) = outcome?;
        Ok(Done {
            reply,
            server,
            connection,
        })
    }

    /// Takes a connection in hand, and prepares the command for it. No await needs what it was
    /// given, so that the future is small.
    fn prepare(&mut self, taken: PooledConnection<B>) -> Result<Ready<'_, B>, Failed> {
        let facts = self.facts(&taken);
        let connection = self.in_hand.insert(taken);
        let mut session = self.owner.state();
        let prepared = connection.prepare(self.request, session.as_deref_mut(), &facts?);
        Ok(Ready {
            prepared: prepared.map_err(Failed::unsent)?,
            connection,
            request: self.request,
            session,
            deadline: self.limits.of_command(),
        })
    }

    fn failed(&mut self, error: Error, server: ServerAddress, is_closed: bool) -> Failed {
        if self.request.kind == OperationKind::Write && !self.request.is_numbered() {
            self.retry.forbid();
        }
        Failed {
            server: Some(server),
            was_sent: was_sent(&error, is_closed),
            error: match self.in_transaction {
                true => error,
                false => explain(error),
            },
            reply: None,
            is_final: false,
        }
    }

    /// What the fields of the command depend on, and the session of an operation that has none.
    fn facts(&mut self, connection: &PooledConnection<B>) -> Result<Facts, Failed> {
        let topology = self.pools.topology().snapshot();
        let topology_type = topology.topology().topology_type();
        let min_rtt = self.limits.has_timeout().then(|| {
            let entry = topology.server(connection.server());
            entry.and_then(|entry| entry.description().min_round_trip_time)
        });
        drop(topology);
        let mut facts = connection.facts(topology_type == TopologyType::Single);
        if self.request.has_session
            && matches!(self.owner, Owner::None)
            && !self.request.is_unacknowledged(&self.client.defaults)
            && let Some(session) = connection.implicit_session(&self.client)
        {
            *self.owner = Owner::Implicit(session);
        }
        if self.request.is_numbered() && facts.is_standalone {
            let error = Error::configuration("the server does not support retryable writes");
            return Err(Failed::unsent(error.at(connection.server())));
        }
        let min_rtt = min_rtt.flatten().unwrap_or_default();
        if let Err(error) = self.limits.apply(self.request, min_rtt, &mut facts) {
            return Err(Failed {
                is_final: true,
                ..Failed::unsent(error.at(connection.server()))
            });
        }
        // In a sharded cluster all are routers.
        if self.in_transaction
            && topology_type == TopologyType::Sharded
            && let Some(session) = self.owner.state()
        {
            session.transaction.pin(connection.server());
        }
        Ok(facts)
    }

    /// The connection that the cursor or the session keeps.
    fn take_pinned(&mut self) -> Option<PooledConnection<B>> {
        self.is_of_session = false;
        if let Some(connection) = self.pinned.as_mut().and_then(|own| own.take()) {
            return Some(connection);
        }
        let connection = self.owner.explicit()?.connection.take();
        self.is_of_session = connection.is_some();
        connection
    }

    /// Returns the connection to the session or the cursor that keeps it. Any other is handed on with
    /// a success, and returned to its pool after a failure.
    pub(super) fn put_back(&mut self, has_succeeded: bool) -> Pinned<B> {
        let mut connection = self.in_hand.take()?;
        let is_load_balanced = self.client.defaults.load_balanced;
        if let Some(own) = self
            .pinned
            .as_mut()
            .filter(|_| is_load_balanced && !self.is_of_session)
        {
            **own = Some(connection);
            return None;
        }
        let is_kept = is_load_balanced && (self.in_transaction || self.is_of_session);
        match self.owner.explicit().filter(|_| is_kept) {
            Some(session) => {
                connection.pin(PinReason::Transaction);
                session.connection = Some(connection);
                None
            }
            None => has_succeeded.then_some(connection),
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
        let (pools, limits) = (self.pools, self.limits);
        let deadline = || {
            let (wait_limit, selection_limit) = pools.wait_limits();
            match limits.has_timeout() {
                true => limits.deadline.within(Some(selection_limit)),
                false => Deadline::after(wait_limit),
            }
        };
        let wanted = Wanted {
            criterion: &criterion,
            // The only server can't be avoided.
            deprioritized: match pinned {
                Some(_) => &[],
                None => self.retry.deprioritized(),
            },
            operation: Some(self.request),
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
}

/// A retryable write is tried again if the server says so of its write concern.
fn check(
    request: &Request,
    reply: OwnedReply,
    server: ServerAddress,
) -> Result<(OwnedReply, ServerAddress), Failed> {
    if !request.is_numbered() {
        return Ok((reply, server));
    }
    match reply.check_write() {
        Err(error) if error.has_label(RETRYABLE_WRITE) => Err(Failed {
            error,
            server: Some(server),
            was_sent: true,
            reply: Some(reply),
            is_final: false,
        }),
        Ok(()) | Err(_) => Ok((reply, server)),
    }
}

/// The criterion of one server.
fn only(server: ServerAddress) -> Criterion {
    let nearest = ReadPreference::new(ReadPreferenceMode::Nearest);
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
