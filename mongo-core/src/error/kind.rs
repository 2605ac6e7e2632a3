//! The kinds of errors.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;

use super::handshake::HandshakeError;
use super::{Error, TlsError};
use crate::address::AddressError;
use crate::auth::AuthError;
use crate::socks5::ProxyError;
use crate::uri::{SrvError, UriError};
use crate::wire::{ClosedReason, WireError};

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
    /// No server can be selected: the criterion, and each server's last failure. It is a
    /// [`SelectionError`](crate::select::SelectionError), which
    /// [`SelectionError::of`](crate::select::SelectionError::of) returns.
    ServerSelection(Arc<dyn std::error::Error + Send + Sync>),
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
