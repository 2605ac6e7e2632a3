//! The error type of the public API.

mod display;
pub(crate) mod handshake;
mod kind;
mod network;
mod retry;
mod same;
mod tls;

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::address::ServerAddress;
use crate::auth::AuthError;
use handshake::HandshakeError;

pub use crate::wire::ClosedReason;
pub use kind::{CommandError, ErrorKind, InUse, Wait};
pub(crate) use network::{is_network_error, is_of_process};
#[cfg(feature = "net")]
pub(crate) use retry::LABELS_WRITE_ERRORS;
pub(crate) use retry::RETRYABLE_WRITE;
#[cfg(test)]
pub(crate) use retry::tests::{refusal, timeout};
pub use retry::{RETRYABLE_ERROR, SYSTEM_OVERLOADED_ERROR, TRANSIENT_TRANSACTION_ERROR};
pub use tls::{CertificateProblem, TlsError};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error, with its kind, server, user and cause.
///
/// Cheap to clone, so that one failure can be reported to all tasks that waited for it. It names
/// the server and the user where they are known, and never a password, a key or a token.
///
/// `Display` is one line of printable text that includes the last underlying cause.
/// [`std::error::Error::source`] is the source of that cause, so that a printed chain of errors
/// repeats nothing. [`kind`](Self::kind) and [`cause`](Self::cause) return the causes as values.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    server: Option<ServerAddress>,
    user: Option<Arc<str>>,
    labels: Vec<Cow<'static, str>>,
    cause: Option<Error>,
}

impl Error {
    /// An error of this kind, without server, user or cause.
    pub fn new(kind: ErrorKind) -> Self {
        Self(Arc::new(Inner {
            kind,
            server: None,
            user: None,
            labels: Vec::new(),
            cause: None,
        }))
    }

    /// A wait that timed out.
    pub fn timeout(wait: Wait, after: Duration) -> Self {
        Self::new(ErrorKind::Timeout { wait, after })
    }

    /// An option or an argument that can't be used.
    pub fn configuration(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Configuration(text.into()))
    }

    /// A failure of an open socket.
    pub fn network(error: io::Error) -> Self {
        Self::new(ErrorKind::Network(Arc::new(error)))
    }

    /// A stream that ended too early.
    #[cfg(feature = "net")]
    pub(crate) fn server_closed() -> Self {
        let text = "the server closed the connection";
        Self::network(io::Error::new(io::ErrorKind::UnexpectedEof, text))
    }

    /// The error of a [`CredentialProvider`](crate::net::CredentialProvider) or another source of
    /// credentials.
    pub fn credential(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(ErrorKind::Credential(Arc::from(error.into())))
    }

    /// The error of an application's
    /// [`on_connect`](crate::pools::ConnectionFactoryBuilder::on_connect), if it is not one of the
    /// connection.
    #[cfg(feature = "net")]
    pub fn on_connect(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(ErrorKind::OnConnect(Arc::from(error.into())))
    }

    /// Wraps the error of an `on_connect` as [`on_connect`](Self::on_connect) does.
    #[cfg(feature = "net")]
    pub(crate) fn of_hook(self) -> Self {
        match self.kind() {
            ErrorKind::OnConnect(_) => self,
            _ => Self::on_connect(self),
        }
    }

    /// Wraps the error of a credential source as [`credential`](Self::credential) does, unless it
    /// is a time-out of [`Wait::Credential`].
    #[cfg(feature = "net")]
    pub(crate) fn of_source(self) -> Self {
        match self.kind() {
            ErrorKind::Credential(_)
            | ErrorKind::Timeout {
                wait: Wait::Credential,
                ..
            } => self,
            _ => Self::credential(self),
        }
    }

    /// Sets the server, unless it is set.
    #[must_use]
    pub fn at(mut self, server: &ServerAddress) -> Self {
        if self.0.server.is_none() {
            Arc::make_mut(&mut self.0).server = Some(server.clone());
        }
        self
    }

    /// Sets the user, unless it is set.
    #[must_use]
    pub fn for_user(mut self, user: Option<&Arc<str>>) -> Self {
        if let (None, Some(user)) = (&self.0.user, user) {
            Arc::make_mut(&mut self.0).user = Some(user.clone());
        }
        self
    }

    /// Sets the last underlying cause, if there is one.
    #[must_use]
    pub fn caused_by(mut self, cause: Option<Error>) -> Self {
        if cause.is_some() {
            Arc::make_mut(&mut self.0).cause = cause;
        }
        self
    }

    /// Adds an error label, unless the error has it.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        let label = label.into();
        if !self.has_label(&label) {
            Arc::make_mut(&mut self.0).labels.push(label);
        }
        self
    }

    /// Removes an error label.
    #[must_use]
    pub(crate) fn without_label(mut self, label: &str) -> Self {
        if self.has_label(label) {
            Arc::make_mut(&mut self.0).labels.retain(|own| own != label);
        }
        self
    }

    /// Replaces the message of a command's error.
    #[must_use]
    #[cfg(feature = "net")]
    pub(crate) fn with_message(mut self, message: &str) -> Self {
        if let ErrorKind::Command(error) = &mut Arc::make_mut(&mut self.0).kind {
            error.message = message.to_owned();
        }
        self
    }

    /// Whether the two are clones of one error.
    pub fn is_same(&self, other: &Error) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The kind of the error.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The server, where one was involved.
    pub fn server(&self) -> Option<&ServerAddress> {
        self.0.server.as_ref()
    }

    /// The name of the credential's user, where there is one.
    pub fn user(&self) -> Option<&str> {
        self.0.user.as_deref()
    }

    /// The last underlying cause: for a time-out, the last failure during the wait.
    pub fn cause(&self) -> Option<&Error> {
        self.0.cause.as_ref()
    }

    /// The error labels, the server's first.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.0.labels.iter().map(|label| &**label)
    }

    /// Whether the error carries a label, such as `RetryableWriteError`.
    pub fn has_label(&self, label: &str) -> bool {
        self.labels().any(|own| own == label)
    }

    /// The server's error reply, for a command that failed.
    pub fn command(&self) -> Option<&CommandError> {
        match &self.0.kind {
            ErrorKind::Command(error) => Some(error),
            _ => None,
        }
    }

    /// The server's error code, for a command that failed.
    pub fn code(&self) -> Option<i32> {
        self.command().map(|error| error.code)
    }

    /// Whether a wait timed out.
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Timeout { .. })
    }

    /// Whether all connections of a pool are in use.
    #[cfg(feature = "net")]
    pub(crate) fn is_exhausted(&self) -> bool {
        matches!(self.0.kind, ErrorKind::PoolExhausted(_))
    }

    /// Whether the credential was refused.
    pub fn is_authentication(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Authentication(_))
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind)
    }
}

/// The source skips errors that `Display` shows, as `#[error(transparent)]` does.
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Some(cause) = &self.0.cause {
            return cause.source();
        }
        match &self.0.kind {
            ErrorKind::Uri(error) => error.source(),
            ErrorKind::Srv(error) => error.source(),
            ErrorKind::Address(error) => error.source(),
            ErrorKind::Tls(error) => error.source(),
            ErrorKind::Proxy(error) => error.source(),
            ErrorKind::Connect(error) | ErrorKind::Network(error) | ErrorKind::Dns(error) => {
                error.source()
            }
            ErrorKind::Protocol(error) => error.source(),
            ErrorKind::Handshake(error) => error.source(),
            ErrorKind::Authentication(error) => error.source(),
            ErrorKind::Credential(error) | ErrorKind::OnConnect(error) => error.source(),
            ErrorKind::Serialization(error) | ErrorKind::Deserialization(error) => error.source(),
            ErrorKind::ServerSelection(error) => error.source(),
            ErrorKind::Configuration(_)
            | ErrorKind::TopologyClosed
            | ErrorKind::Timeout { .. }
            | ErrorKind::Command(_)
            | ErrorKind::ConnectionClosed(_)
            | ErrorKind::Cancelled
            | ErrorKind::PoolExhausted(_)
            | ErrorKind::PoolClosed
            | ErrorKind::PoolCleared
            | ErrorKind::NotWritable
            | ErrorKind::Pool(_) => None,
        }
    }
}
