//! What an error on an application's connection tells about the server.

use std::io;

use bson::oid::ObjectId;
use bson::{RawBsonRef, RawDocument};

use super::{CheckReason, Effect, ServerType, TopologyVersion};
use crate::address::ServerAddress;
use crate::auth::{AuthError, ScramError};
use crate::error::{Error, ErrorKind, Wait};
use crate::handshake::HandshakeError;
use crate::handshake::field::topology_version;
use crate::socks5::ProxyProblem;
use crate::wire::{ReplyFields, write_concern_failure};

/// The label of an error that comes from a server with too much to do.
pub const SYSTEM_OVERLOADED_ERROR: &str = "SystemOverloadedError";

/// The label of an error after which any operation can be tried again.
pub const RETRYABLE_ERROR: &str = "RetryableError";

/// `NotPrimaryNoSecondaryOk`: the server takes no reads of those who did not say that a secondary may
/// answer.
const NO_SECONDARY_OK: i32 = 13435;

/// How far a connection was when it failed.
///
/// Specifications: server discovery and monitoring, connection monitoring and pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorPhase {
    /// What a busy server can't be the cause of: looking up its name, a proxy's negotiation, the
    /// verification of its certificate and host name.
    Resolution,
    /// Opening the socket, the I/O of TLS, the hello.
    Establishment,
    /// Authentication.
    Authentication,
    /// The handshake is completed: a command was run.
    Completed,
}

impl ErrorPhase {
    /// Adds the labels of backpressure to an error, if a busy server may be its cause: a failure
    /// of the network, or a time-out, of a connection that was to be established.
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
    /// The server that the connection goes, or was to go, to.
    pub server: ServerAddress,
    /// What failed.
    pub error: Error,
    /// How far the connection was.
    pub phase: ErrorPhase,
    /// The generation of the connection; before the handshake is completed, that of the pool when
    /// the attempt began. Behind a load balancer: that of the service.
    pub generation: u64,
    /// The generation of the pool, or of the service, now: read by the one who clears it.
    pub pool_generation: u64,
    /// The service behind a load balancer, once the hello has named it.
    pub service_id: Option<ObjectId>,
}

/// What follows from an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// Nothing.
    None,
    /// The server is not what it was.
    StateChange {
        topology_version: Option<TopologyVersion>,
        reason: CheckReason,
        clears_pool: bool,
    },
    /// The server can't be reached, or not be authenticated with.
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

    /// Sets the generations of the connection, and of its pool now.
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

    /// The error in an otherwise good reply to a write (`writeConcernError`), if there is one:
    /// it tells as much about the server as a command's failure. `writeErrors` don't.
    pub fn from_write_concern_error(server: ServerAddress, reply: &RawDocument) -> Option<Self> {
        let error = write_concern_failure(reply, None)?.at(&server);
        Some(Self::new(server, error, ErrorPhase::Completed))
    }

    /// What follows, if the server is known as a type, and its state by a version.
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
        // A secondary says so of any read that has no `$readPreference`.
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
                // Whatever fails before the handshake is completed clears, unless overloaded.
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

/// For pools, which are told of every error, and ask before they tell the topology.
#[cfg(feature = "net")]
impl ApplicationError {
    /// Whether the server's pool is to be cleared, for who knows nothing else of the server.
    pub(crate) fn clears_pool(&self) -> bool {
        match self.consequence(ServerType::Unknown, None) {
            Consequence::None => false,
            Consequence::StateChange { clears_pool, .. } => clears_pool,
            Consequence::Unreachable => true,
        }
    }

    /// Whether a server says by an error that it is not what it said in the hello: that it was a
    /// secondary, or was none.
    pub(crate) fn is_news(error: &Error, was_secondary: bool) -> bool {
        let is_known = was_secondary && error.code() == Some(NO_SECONDARY_OK);
        !is_known && Self::is_state_change(error)
    }

    /// Whether a server says by an error that it is not what the client takes it for.
    #[cfg(feature = "net")]
    pub(crate) fn is_state_change(error: &Error) -> bool {
        Refusal::of(error).is_some_and(|refusal| refusal.state_change().is_some())
    }

    /// Whether an error of a command may tell anything about its server: most don't.
    pub(crate) fn is_telling(error: &Error) -> bool {
        match Refusal::of(error) {
            Some(refusal) => refusal.state_change().is_some(),
            None => !error.is_timeout() && is_network_error(error),
        }
    }
}

/// An error of the same process that is no newer than what is known: any change of state has a
/// version of its own.
fn is_stale_error(known: Option<TopologyVersion>, reported: Option<TopologyVersion>) -> bool {
    match (known, reported) {
        (Some(known), Some(reported)) => {
            known.process_id == reported.process_id && known.counter >= reported.counter
        }
        (None, _) | (_, None) => false,
    }
}

/// A failure to read from or write to a socket, or to open it; time-outs of these are among them.
pub(crate) fn is_network_error(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Connect(error) | ErrorKind::Network(error) => !is_of_process(error),
        ErrorKind::Proxy(error) => match &error.problem {
            ProxyProblem::Connect(error) | ProxyProblem::Network(error) => !is_of_process(error),
            _ => true,
        },
        ErrorKind::Timeout { wait, .. } => match wait {
            Wait::Connect
            | Wait::Tls
            | Wait::Proxy
            | Wait::Handshake
            | Wait::Authentication
            | Wait::Command
            | Wait::Heartbeat
            | Wait::Drain => true,
            Wait::Dns | Wait::Credential | Wait::WaitQueue | Wait::Recycle | Wait::Hook => false,
        },
        _ => false,
    }
}

/// Whether the process itself, or its system, has no room for another socket: no server has a part in
/// that.
fn is_of_process(error: &io::Error) -> bool {
    /// `EMFILE` and `ENFILE` of all Unixes; `WSAEMFILE`.
    const TOO_MANY_FILES: &[i32] = match cfg!(windows) {
        true => &[10024],
        false => &[24, 23],
    };
    let code = error.raw_os_error();
    code.is_some_and(|code| TOO_MANY_FILES.contains(&code))
}

/// Whether a proxy failed, or let wait: no server was there yet that could be overloaded.
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

/// Whether the server had a part in the failure to connect to it: a credential, say, that can't be
/// used with any server tells nothing about this one.
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

/// What a server said when it refused a command.
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

    /// Whether the server says that it is not what the client takes it for. The text counts only
    /// where there is no code.
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

/// A version that can't be read is none: the error must not be lost over it. So is one behind more
/// than 1,024 other fields.
fn version_in(reply: &RawDocument) -> Option<TopologyVersion> {
    let version = ReplyFields::of_beginning(reply).topology_version(reply)?;
    topology_version(RawBsonRef::Document(version))
}
