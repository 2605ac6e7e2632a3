//! The error type of the public API.

mod display;
mod network;
mod retry;
mod same;
mod tls;

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;

use crate::address::{AddressError, ServerAddress};
use crate::auth::AuthError;
use crate::handshake::HandshakeError;
use crate::select::SelectionError;
use crate::socks5::ProxyError;
use crate::uri::{SrvError, UriError};
use crate::wire::WireError;

pub(crate) use network::{is_network_error, is_of_process};
#[cfg(feature = "net")]
pub(crate) use retry::LABELS_WRITE_ERRORS;
pub(crate) use retry::RETRYABLE_WRITE;
pub use retry::{RETRYABLE_ERROR, SYSTEM_OVERLOADED_ERROR};
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

/// The kinds of [`Error`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The connection string can't be used.
    Uri(UriError),
    /// The DNS records that the connection string names could not be looked up or can't be used.
    Srv(SrvError),
    /// A server address can't be used.
    Address(AddressError),
    /// An option or an argument can't be used; the text names it.
    Configuration(String),
    /// The server could not be reached: the socket could not be opened.
    Connect(Arc<io::Error>),
    /// The SOCKS5 proxy could not be reached, or did not connect to the server. This is no sign of
    /// an overloaded server.
    Proxy(ProxyError),
    /// An open socket failed, or the server closed it.
    Network(Arc<io::Error>),
    /// The server's certificate is not accepted, or the TLS handshake failed.
    Tls(TlsError),
    /// A wait timed out.
    Timeout {
        /// The wait that timed out.
        wait: Wait,
        /// How long it lasted.
        after: Duration,
    },
    /// The server violated the wire protocol. The connection is closed.
    Protocol(WireError),
    /// The server's reply to the handshake can't be used.
    Handshake(HandshakeError),
    /// The server refused the credential, or could not prove that it knows it.
    Authentication(AuthError),
    /// The source of the credential, or of a part of it, failed. No MongoDB server was involved.
    Credential(Arc<dyn std::error::Error + Send + Sync>),
    /// The application's `on_connect` failed with this error on a new connection, which was closed.
    /// An [`Error`] of the connection keeps its type: `downcast_ref::<Error>()`.
    OnConnect(Arc<dyn std::error::Error + Send + Sync>),
    /// The server answered a command with `ok: 0`.
    Command(CommandError),
    /// A command could not be written as BSON.
    Serialization(Arc<bson::error::Error>),
    /// A reply could not be read as the requested type. The connection stays usable.
    Deserialization(Arc<bson::error::Error>),
    /// The connection is closed, for this reason, and runs no more commands. It was closed before
    /// the command was sent, except with [`ClosedReason::Interrupted`] and
    /// [`ClosedReason::RuntimeEnded`].
    ConnectionClosed(ClosedReason),
    /// The future of a command was dropped before its reply arrived. Only in events and logs.
    Cancelled,
    /// All connections of the pool are in use. The cause of a [`Timeout`](Self::Timeout).
    PoolExhausted(InUse),
    /// The pool was closed.
    PoolClosed,
    /// The pool was cleared during the check-out, or was cleared before and is paused. The cause is
    /// the error that it was cleared for, if there is one. Nothing was sent: the operation can be
    /// retried.
    PoolCleared,
    /// The connection was checked out for writes, and its server is no longer writable. Nothing was
    /// sent: the operation can be retried with another connection.
    NotWritable,
    /// The addresses of a host could not be looked up.
    Dns(Arc<io::Error>),
    /// No server can be selected: the criterion, and each server's last failure.
    ServerSelection(Arc<SelectionError>),
    /// The topology was closed.
    TopologyClosed,
    /// The generic pool, or a hook of its user, failed with this text.
    Pool(String),
}

/// The wait that timed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Wait {
    /// For an available connection of the pool (`waitQueueTimeoutMS`).
    WaitQueue,
    /// For DNS to answer (`connectTimeoutMS`).
    Dns,
    /// For the socket to open (`connectTimeoutMS`).
    Connect,
    /// For the TLS handshake (`connectTimeoutMS`).
    Tls,
    /// For the credential, or a part of it, from its source (`connectTimeoutMS`; an OIDC
    /// callback has a minute).
    Credential,
    /// For the SOCKS5 proxy to connect to the server (`connectTimeoutMS`).
    Proxy,
    /// For the reply to the handshake (`connectTimeoutMS`).
    Handshake,
    /// For authentication to end (`connectTimeoutMS`).
    Authentication,
    /// For a command's reply.
    Command,
    /// For the reply to a heartbeat (`connectTimeoutMS`, plus `heartbeatFrequencyMS` for an
    /// awaitable hello).
    Heartbeat,
    /// For the outstanding reply to a cancelled command.
    Drain,
    /// For the check of a connection at its check-out.
    Recycle,
    /// For a hook or customizer of the application; for `on_connect` within `connectTimeoutMS`.
    Hook,
}

/// The connections in use of a full pool. `Display` shows their number and, behind a load balancer
/// or if some are pinned, their uses in the words of the load balancer specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct InUse {
    /// The most connections of the pool (`maxPoolSize`); 0 is no limit.
    pub max_pool_size: u32,
    /// Connections that are pinned to cursors.
    pub cursors: usize,
    /// Connections that are pinned to transactions.
    pub transactions: usize,
    /// All others.
    pub others: usize,
    /// Whether the server is a load balancer.
    pub load_balanced: bool,
    /// The most connections to the server across all credentials (`max_connections_per_server`), if
    /// that limit is reached: other credentials have the rest.
    pub server_full: Option<u32>,
}

/// Why a connection runs no more commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClosedReason {
    /// A command was cancelled before the whole of it was written.
    CancelledWrite,
    /// The reply to a cancelled command did not arrive within the bound.
    CancelledReply,
    /// The reply to a cancelled command is too long to drain.
    LongReply,
    /// A stream of replies (`moreToCome`) was dropped before its end.
    CancelledStream,
    /// The socket failed, or the server closed it.
    Network,
    /// The server violated the protocol.
    Protocol,
    /// The server required reauthentication, which failed.
    Unauthenticated,
    /// The tokio runtime in which it was opened has shut down. This is no failure of the server. A
    /// pending command may have been executed.
    RuntimeEnded,
    /// The pool was cleared after the connection was made.
    Stale,
    /// The pool was cleared for a server that does not answer, or closed, while the connection was
    /// in use.
    Interrupted,
    /// It was evicted for a connection of another credential.
    Evicted,
    /// It exceeded its maximum idle time or lifetime.
    Expired,
    /// The pool or its owner closed it.
    Closed,
}

/// A command that the server answered with `ok: 0`. `Debug` shows nothing of the reply.
#[derive(Clone)]
#[non_exhaustive]
pub struct CommandError {
    /// The server's error code; 0 where it sent none.
    pub code: i32,
    /// The code's name, such as `NotWritablePrimary`, of at most 128 bytes; empty where the server sent
    /// none. Unprintable characters are escaped.
    pub code_name: String,
    /// The server's message, of at most 1,024 bytes. Unprintable characters are escaped.
    pub message: String,
    /// The whole reply. If it has more than 1 MiB, only its `ok`, `errmsg`, `code`, `codeName`,
    /// `errorLabels` and `topologyVersion`, within bounds.
    pub reply: RawDocumentBuf,
}

impl CommandError {
    /// The error of a reply with `ok: 0`.
    pub fn new(
        code: i32,
        code_name: impl Into<String>,
        message: impl Into<String>,
        reply: RawDocumentBuf,
    ) -> Self {
        Self {
            code,
            code_name: code_name.into(),
            message: message.into(),
            reply,
        }
    }
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

/// The conversions of the errors that are a kind each.
macro_rules! kinds {
    ($($error:ident => $kind:ident,)*) => {$(
        impl From<$error> for ErrorKind {
            fn from(error: $error) -> Self {
                Self::$kind(error)
            }
        }

        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                ErrorKind::$kind(error).into()
            }
        }
    )*};
}

kinds! {
    UriError => Uri,
    SrvError => Srv,
    AddressError => Address,
    WireError => Protocol,
    HandshakeError => Handshake,
    TlsError => Tls,
    AuthError => Authentication,
    CommandError => Command,
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
