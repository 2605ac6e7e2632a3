//! The conclusions from an error on an application's connection about its server.

use bson::oid::ObjectId;
use bson::{RawBsonRef, RawDocument};

use super::{CheckReason, Effect, ServerType, TopologyVersion};
use crate::address::ServerAddress;
use crate::auth::{AuthError, ScramError};
use crate::error::{
    Error, ErrorKind, RETRYABLE_ERROR, SYSTEM_OVERLOADED_ERROR, Wait, is_network_error,
    is_of_process,
};
use crate::handshake::HandshakeError;
use crate::handshake::field::topology_version;
use crate::reply::write_concern_failure;
use crate::wire::ReplyFields;

/// `NotPrimaryNoSecondaryOk`: a secondary refuses reads that don't allow secondaries.
const NO_SECONDARY_OK: i32 = 13435;

/// The phase that a connection was in when it failed.
///
/// Specifications: server discovery and monitoring, connection monitoring and pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorPhase {
    /// Steps that a busy server can't make fail: the lookup of its name, a proxy's negotiation, the
    /// verification of its certificate and host name.
    Resolution,
    /// Opening the socket, the I/O of TLS, the hello.
    Establishment,
    /// Authentication.
    Authentication,
    /// After the handshake, while a command ran.
    Completed,
}

impl ErrorPhase {
    /// Adds the labels of backpressure to an error that an overloaded server may have caused: a
    /// network error or a timeout while the connection was being established.
    #[must_use]
    pub fn label(self, error: Error) -> Error {
        match self {
            Self::Establishment if is_network_error(&error) && !is_of_proxy(&error) => error
                .with_label(SYSTEM_OVERLOADED_ERROR)
                .with_label(RETRYABLE_ERROR),
            Self::Resolution | Self::Establishment | Self::Authentication | Self::Completed => {
                error
            }
        }
    }
}

/// An error on an application's connection.
///
/// Specification: server discovery and monitoring, application errors.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ApplicationError {
    /// The server of the connection, or of the attempt to connect.
    pub server: ServerAddress,
    /// The error.
    pub error: Error,
    /// The connection's phase.
    pub phase: ErrorPhase,
    /// The generation of the connection. Before the handshake is completed, it is the generation of
    /// the pool when the attempt began. Behind a load balancer, it is that of the service.
    pub generation: u64,
    /// The current generation of the pool, or of the service, read by the code that clears it.
    pub pool_generation: u64,
    /// The service behind a load balancer, once the hello has named it.
    pub service_id: Option<ObjectId>,
}

/// The consequence of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// Nothing.
    None,
    /// The server's state has changed.
    StateChange {
        topology_version: Option<TopologyVersion>,
        reason: CheckReason,
        clears_pool: bool,
    },
    /// The server can't be reached, or authentication with it failed.
    Unreachable,
}

impl ApplicationError {
    /// An error of the pool's current generation, to which [`ErrorPhase::label`] adds its labels.
    pub fn new(server: ServerAddress, error: Error, phase: ErrorPhase) -> Self {
        Self {
            server,
            error: phase.label(error),
            phase,
            generation: 0,
            pool_generation: 0,
            service_id: None,
        }
    }

    /// Sets the generation of the connection and the current one of its pool.
    #[must_use]
    pub fn with_generations(mut self, connection: u64, pool: u64) -> Self {
        (self.generation, self.pool_generation) = (connection, pool);
        self
    }

    /// Sets the service behind a load balancer.
    #[must_use]
    pub fn with_service_id(mut self, service_id: Option<ObjectId>) -> Self {
        self.service_id = service_id;
        self
    }

    /// The `writeConcernError` in an otherwise successful reply to a write, if there is one. It
    /// counts like a command's failure; `writeErrors` don't.
    pub fn from_write_concern_error(server: ServerAddress, reply: &RawDocument) -> Option<Self> {
        let error = write_concern_failure(reply, None)?.at(&server);
        Some(Self::new(server, error, ErrorPhase::Completed))
    }

    /// The consequence, given the type and the topology version that are known of the server.
    pub(super) fn consequence(
        &self,
        server_type: ServerType,
        known: Option<TopologyVersion>,
    ) -> Consequence {
        let refusal = Refusal::of(&self.error);
        let topology_version = refusal.as_ref().and_then(|own| own.topology_version);
        if self.generation < self.pool_generation || is_stale_error(known, topology_version) {
            return Consequence::None;
        }
        // A secondary gives this error to every read without a `$readPreference`.
        if server_type == ServerType::RsSecondary
            && refusal
                .as_ref()
                .is_some_and(|own| own.code == NO_SECONDARY_OK)
        {
            return Consequence::None;
        }
        let completed = self.phase == ErrorPhase::Completed;
        let overloaded = self.error.has_label(SYSTEM_OVERLOADED_ERROR);
        match refusal.and_then(|refusal| refusal.state_change()) {
            Some(reason) => Consequence::StateChange {
                topology_version,
                reason,
                // A failure before the handshake is completed clears the pool, unless the server is
                // overloaded.
                clears_pool: reason == CheckReason::ShuttingDown || !completed && !overloaded,
            },
            None if overloaded => Consequence::None,
            None if completed && !self.error.is_timeout() && is_network_error(&self.error) => {
                Consequence::Unreachable
            }
            None if !completed && is_of_server(&self.error) => Consequence::Unreachable,
            None => Consequence::None,
        }
    }

    pub(super) fn clear_pool(&self, service_id: Option<ObjectId>) -> Effect {
        Effect::ClearPool {
            server: self.server.clone(),
            service_id,
            interrupt_in_use: false,
        }
    }
}

/// For pools: they get every error, and check it before they report it to the topology.
#[cfg(feature = "net")]
impl ApplicationError {
    /// Whether the server's pool is to be cleared, if nothing else is known of the server.
    pub(crate) fn clears_pool(&self) -> bool {
        match self.consequence(ServerType::Unknown, None) {
            Consequence::None => false,
            Consequence::StateChange { clears_pool, .. } => clears_pool,
            Consequence::Unreachable => true,
        }
    }

    /// Whether an error is a state change error that the server's hello does not explain, unlike
    /// `NotPrimaryNoSecondaryOk` from a secondary (`was_secondary`).
    pub(crate) fn is_news(error: &Error, was_secondary: bool) -> bool {
        let is_known = was_secondary && error.code() == Some(NO_SECONDARY_OK);
        !is_known && Self::is_state_change(error)
    }

    /// Whether an error is a state change error: the server is not in the state that the client
    /// assumes.
    #[cfg(feature = "net")]
    pub(crate) fn is_state_change(error: &Error) -> bool {
        Refusal::of(error).is_some_and(|refusal| refusal.state_change().is_some())
    }

    /// Whether a command's error may change what is known of its server. Most don't.
    pub(crate) fn is_telling(error: &Error) -> bool {
        match Refusal::of(error) {
            Some(refusal) => refusal.state_change().is_some(),
            None => !error.is_timeout() && is_network_error(error),
        }
    }
}

/// Whether an error is stale: from the same process and no newer than the known version. Every
/// change of state has its own version.
fn is_stale_error(known: Option<TopologyVersion>, reported: Option<TopologyVersion>) -> bool {
    match (known, reported) {
        (Some(known), Some(reported)) => {
            known.process_id == reported.process_id && known.counter >= reported.counter
        }
        (None, _) | (_, None) => false,
    }
}

/// Whether a proxy failed or timed out. The connection had not reached a server that could be
/// overloaded.
fn is_of_proxy(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Proxy(_)
            | ErrorKind::Timeout {
                wait: Wait::Proxy,
                ..
            }
    )
}

/// Whether the server had a part in the failure to connect to it. A credential that can't be used
/// with any server, for example, tells nothing about this one.
fn is_of_server(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Handshake(HandshakeError::Metadata(_) | HandshakeError::OutOfOrder) => false,
        ErrorKind::Authentication(
            AuthError::Credential(_)
            | AuthError::UnsupportedMechanism(_)
            | AuthError::OtherUser
            | AuthError::OutOfOrder
            | AuthError::Scram {
                error: ScramError::Password,
                ..
            },
        ) => false,
        ErrorKind::Tls(_)
        | ErrorKind::Protocol(_)
        | ErrorKind::Handshake(_)
        | ErrorKind::Authentication(_)
        | ErrorKind::Timeout {
            wait: Wait::Dns, ..
        }
        | ErrorKind::Command(_) => true,
        ErrorKind::Dns(error) => !is_of_process(error),
        _ => is_network_error(error),
    }
}

/// A server's answer when it refuses a command.
struct Refusal<'a> {
    /// 0 for none.
    code: i32,
    message: &'a str,
    topology_version: Option<TopologyVersion>,
}

impl<'a> Refusal<'a> {
    fn of(error: &'a Error) -> Option<Self> {
        let (code, message, topology_version) = match error.kind() {
            ErrorKind::Command(error) => (error.code, &error.message, version_in(&error.reply)),
            ErrorKind::Handshake(HandshakeError::Refused { code, message, .. })
            | ErrorKind::Authentication(AuthError::Refused { code, message, .. }) => {
                (*code, message, None)
            }
            _ => return None,
        };
        Some(Self {
            code,
            message,
            topology_version,
        })
    }

    /// The reason, if this is a state change error. The text counts only if there is no code.
    fn state_change(&self) -> Option<CheckReason> {
        match self.code {
            // InterruptedAtShutdown, ShutdownInProgress.
            11600 | 91 => Some(CheckReason::ShuttingDown),
            // InterruptedDueToReplStateChange, NotPrimaryOrSecondary, PrimarySteppedDown.
            11602 | 13436 | 189 => Some(CheckReason::Recovering),
            // NotWritablePrimary, NotPrimaryNoSecondaryOk, LegacyNotPrimary.
            10107 | NO_SECONDARY_OK | 10058 => Some(CheckReason::NotWritablePrimary),
            0 => self.state_change_in_text(),
            _ => None,
        }
    }

    fn state_change_in_text(&self) -> Option<CheckReason> {
        let says = |text| self.message.contains(text);
        if says("not master or secondary") || says("node is recovering") {
            Some(CheckReason::Recovering)
        } else if says("not master") {
            Some(CheckReason::NotWritablePrimary)
        } else {
            None
        }
    }
}

/// A version that can't be read is ignored, so that the error is not lost. So is one behind more
/// than 1,024 other fields.
fn version_in(reply: &RawDocument) -> Option<TopologyVersion> {
    let version = ReplyFields::of_beginning(reply).topology_version(reply)?;
    topology_version(RawBsonRef::Document(version))
}
