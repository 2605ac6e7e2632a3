use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf};
use tokio::time::Instant;

use crate::ServerAddress;
use crate::auth::Credential;
use crate::error::{Error, LABELS_WRITE_ERRORS, RETRYABLE_WRITE};
use crate::event::EventHandlers;
use crate::handshake::ConnectionDescription;
use crate::net::connection::generations::Generation;

/// The properties of a connection that do not change during its life.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) id: u64,
    pub(crate) generation: Generation,
    pub(crate) server: ServerAddress,
    pub(crate) user: Option<Arc<str>>,
    /// The user with its authentication database: a name in two databases is two users.
    pub(crate) principal: Option<Arc<str>>,
    pub(crate) description: ConnectionDescription,
    /// The stable API fields, added to every command.
    pub(crate) server_api: Option<RawDocumentBuf>,
    /// For commands without a deadline of their own. `None` means no time-out.
    pub(crate) command_timeout: Option<Duration>,
    pub(crate) drain_timeout: Duration,
    /// Whether writes on it are retryable (`retryWrites`, and supported by the server).
    pub(crate) retries_writes: bool,
    /// Whether the time of check-in is recorded.
    pub(crate) times_idleness: bool,
    pub(crate) created: Instant,
    pub(crate) events: EventHandlers,
}

impl Identity {
    /// Adds the server and the user to an error.
    pub(crate) fn name(&self, error: impl Into<Error>) -> Error {
        error.into().at(&self.server).for_user(self.user.as_ref())
    }

    /// Labels the error of a retryable write. `sent` returns the command; it is called only for an
    /// error that allows a retry.
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
}

/// Whether a command is a retryable write: it has a `txnNumber`, and is outside a transaction or
/// ends one.
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

/// The name and its database. Without a name only the server knows whom a credential is for: another
/// credential counts as another user. The hash has a random key.
pub(crate) fn principal(credential: &Credential) -> Arc<str> {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let source = credential.source_or_default();
    match credential.username() {
        Some(name) => format!("{source}.{name}").into(),
        None => format!("{source} {:x}", KEY.hash_one(credential)).into(),
    }
}
