use std::sync::Arc;
use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf};
use tokio::time::Instant;

use crate::ServerAddress;
use crate::error::{Error, LABELS_WRITE_ERRORS, RETRYABLE_WRITE};
use crate::event::EventHandlers;
use crate::handshake::ConnectionDescription;
use crate::net::auth::exchange::ReauthState;
use crate::net::connection::generations::Generation;
use crate::net::connection::pool_handle::{ConnectionState, PoolHandle};

/// What stays the same over a connection's life.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) id: u64,
    pub(crate) generation: Generation,
    pub(crate) server: ServerAddress,
    pub(crate) user: Option<Arc<str>>,
    /// What it was authenticated with, if it was.
    pub(crate) proof: Option<ReauthState>,
    pub(crate) description: ConnectionDescription,
    /// The fields of the stable API, for every command.
    pub(crate) server_api: Option<RawDocumentBuf>,
    /// For commands that name no deadline; `None` is none.
    pub(crate) command_timeout: Option<Duration>,
    pub(crate) drain_timeout: Duration,
    /// Whether writes on it can be retried, and are to be (`retryWrites`).
    pub(crate) retries_writes: bool,
    /// Whether anything compares how long the connection was idle.
    pub(crate) times_idleness: bool,
    pub(crate) created: Instant,
    pub(crate) events: EventHandlers,
    /// To the pool that it belongs to.
    pub(crate) pool_handle: Option<PoolHandle>,
}

impl Identity {
    /// Adds to an error what it is about.
    pub(crate) fn name(&self, error: impl Into<Error>) -> Error {
        error.into().at(&self.server).for_user(self.user.as_ref())
    }

    /// Labels the error of a command that can be retried as a write. `sent` gives the command; it is
    /// asked only where the error is such.
    pub(super) fn label_write(
        &self,
        error: Error,
        sent: impl FnOnce() -> Option<RawDocumentBuf>,
    ) -> Error {
        let wire_version = self.description.max_wire_version;
        if !self.retries_writes || !error.fails_writes_retryably(wire_version) {
            return error;
        }
        match sent() {
            Some(command) if is_retryable_write(&command) => error.with_label(RETRYABLE_WRITE),
            _ => error,
        }
    }

    /// Whether the client labels a `writeConcernError`: of a mongod that labels none itself.
    pub(crate) fn labels_write_concern_errors(&self) -> bool {
        let labels_itself = self.description.max_wire_version >= LABELS_WRITE_ERRORS;
        self.retries_writes && !self.description.mongos && !labels_itself
    }

    /// The same, of no pool, for a connection that nothing can be done with.
    pub(super) fn untied(&self) -> Self {
        Self {
            id: self.id,
            generation: self.generation.clone(),
            server: self.server.clone(),
            user: self.user.clone(),
            proof: None,
            description: self.description.clone(),
            server_api: None,
            command_timeout: self.command_timeout,
            drain_timeout: self.drain_timeout,
            retries_writes: self.retries_writes,
            times_idleness: self.times_idleness,
            created: self.created,
            events: self.events.clone(),
            pool_handle: None,
        }
    }

    /// What the pool interrupts it by.
    #[inline]
    pub(super) fn link(&self) -> Option<&ConnectionState> {
        self.pool_handle
            .as_ref()
            .map(|pool_handle| &*pool_handle.link)
    }
}

/// Whether a command is a retryable write: it has a number, and is no part of a transaction but its
/// end.
fn is_retryable_write(command: &RawDocument) -> bool {
    let mut elements = command.iter_elements().map_while(Result::ok);
    let Some(name) = elements.next() else {
        return false;
    };
    let is_end = matches!(
        name.key().as_str(),
        "commitTransaction" | "abortTransaction"
    );
    let (mut has_number, mut in_transaction) = (false, false);
    for element in elements {
        match element.key().as_str() {
            "txnNumber" => has_number = true,
            "autocommit" => in_transaction = true,
            _ => {}
        }
    }
    has_number && (is_end || !in_transaction)
}
