//! One attempt: a check-out and a command.

use super::run::{Done, Owner, Run};
use crate::ServerAddress;
use crate::error::{Error, RETRYABLE_WRITE, Result};
use crate::net::{Deadline, OwnedReply, was_sent};
use crate::operation::{Facts, OperationKind, Request};
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

impl<B: Backend> Run<'_, '_, B> {
    pub(super) async fn attempt(&mut self) -> Result<Done<B>, Failed> {
        let taken = match self.take_pinned() {
            Some(pinned) => pinned,
            None => (self.check_out().await?, true),
        };
        let server = taken.0.server().clone();
        let outcome = self.attempt_on(taken).await;
        let connection = self.put_back(outcome.is_ok());
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

    /// What the fields of the command depend on, and the session of an operation that has none.
    fn prepare(&mut self, connection: &PooledConnection<B>) -> Result<Facts, Failed> {
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
            *self.owner = Owner::Implicit(Box::new(session));
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

    async fn attempt_on(
        &mut self,
        taken: (PooledConnection<B>, bool),
    ) -> Result<OwnedReply, Failed> {
        let prepared = self.prepare(&taken.0);
        let (connection, _) = self.in_hand.insert(taken);
        let deadline = self.limits.of_command();
        let outcome = connection
            .attempt(self.request, self.owner.state(), &prepared?, deadline)
            .await;
        let error = match outcome {
            Ok(reply) => return check(self.request, reply),
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

    /// The connection that the cursor or the session keeps, and whether it is the cursor's.
    fn take_pinned(&mut self) -> Option<(PooledConnection<B>, bool)> {
        if let Some(connection) = self.pinned.as_mut().and_then(|own| own.take()) {
            return Some((connection, true));
        }
        let session = self.owner.explicit()?;
        session.connection.take().map(|pinned| (pinned, false))
    }

    /// Returns the connection to the session or the cursor that keeps it. Any other is handed on with
    /// a success, and returned to its pool after a failure.
    pub(super) fn put_back(&mut self, has_succeeded: bool) -> Pinned<B> {
        let (mut connection, is_own) = self.in_hand.take()?;
        let is_load_balanced = self.client.defaults.load_balanced;
        if let Some(own) = self.pinned.as_mut().filter(|_| is_own && is_load_balanced) {
            **own = Some(connection);
            return None;
        }
        let is_kept = is_load_balanced && (self.in_transaction || !is_own);
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
            match (limits.has_timeout(), limits.deadline) {
                (true, Some(deadline)) => deadline.within(Some(selection_limit)),
                (true, None) => Deadline::after(selection_limit),
                (false, _) => Deadline::after(wait_limit),
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
fn check(request: &Request, reply: OwnedReply) -> Result<OwnedReply, Failed> {
    if !request.is_numbered() {
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
