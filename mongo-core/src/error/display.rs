//! Errors in words.

use std::fmt;

use super::{ClosedReason, CommandError, Error, ErrorKind, InUse, Wait};

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(error) => write!(f, "connection string: {error}"),
            Self::Srv(error) => write!(f, "DNS seed list: {error}"),
            Self::Address(error) => write!(f, "server address: {error}"),
            Self::Configuration(text) => write!(f, "configuration: {text}"),
            Self::Connect(error) => write!(f, "could not connect: {error}"),
            Self::Proxy(error) => write!(f, "proxy {error}"),
            Self::Network(error) => write!(f, "network: {error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Timeout { wait, after } => write!(f, "timed out after {after:?} {wait}"),
            Self::Protocol(error) => write!(f, "protocol: {error}"),
            Self::Handshake(error) => write!(f, "handshake: {error}"),
            Self::Authentication(error) => write!(f, "authentication: {error}"),
            Self::Credential(error) => write!(f, "the credential could not be had: {error}"),
            Self::Command(error) => write!(f, "command failed: {error}"),
            Self::Serialization(error) => write!(f, "could not write the command: {error}"),
            Self::Deserialization(error) => write!(f, "could not read the reply: {error}"),
            Self::ConnectionClosed(reason) => write!(f, "the connection is closed: {reason}"),
            Self::Cancelled => write!(f, "the command was cancelled"),
            Self::PoolExhausted(in_use) => in_use.fmt(f),
            Self::PoolClosed => write!(
                f,
                "attempted to check out a connection from closed connection pool"
            ),
            Self::PoolCleared => write!(f, "the pool was cleared"),
            Self::NotWritable => write!(f, "the server takes no writes any more"),
            Self::Dns(error) => write!(f, "could not look up the host: {error}"),
            Self::ServerSelection(error) => write!(f, "server selection: {error}"),
            Self::TopologyClosed => write!(f, "the topology is closed"),
            Self::Pool(text) => write!(f, "pool: {text}"),
        }
    }
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "maxPoolSize: {}, connections in use by cursors: {}, connections in use by \
             transactions: {}, connections in use by other operations: {}",
            self.max_pool_size, self.cursors, self.transactions, self.others
        )?;
        match self.server_full {
            Some(max) => write!(
                f,
                ", and the server has its max_connections_per_server: {max}"
            ),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WaitQueue => "while checking out a connection from connection pool",
            Self::Dns => "looking up hosts in DNS",
            Self::Connect => "connecting",
            Self::Tls => "agreeing on TLS",
            Self::Proxy => "connecting through the proxy",
            Self::Credential => "waiting for the credential",
            Self::Handshake => "waiting for the answer to the handshake",
            Self::Authentication => "authenticating",
            Self::Command => "running a command",
            Self::Heartbeat => "waiting for the answer to the server's periodic check",
            Self::Drain => "waiting for the reply to a cancelled command",
            Self::Recycle => "checking the connection",
            Self::Hook => "waiting for a hook",
        })
    }
}

impl fmt::Display for ClosedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CancelledWrite => "a command was cancelled while it was written",
            Self::CancelledReply => "the reply to a cancelled command did not come in time",
            Self::LongReply => "the reply it owed was too long",
            Self::CancelledStream => "a stream of replies was left before its end",
            Self::Network => "its socket failed",
            Self::Protocol => "the server broke the protocol",
            Self::Unauthenticated => "it could not be authenticated again",
            Self::RuntimeEnded => "the runtime that it belongs to has shut down",
            Self::Stale => "the pool was cleared",
            Self::Interrupted => "the pool gave it up while it was in use",
            Self::Evicted => "its place was needed for another credential",
            Self::Expired => "its idle time or its lifetime is over",
            Self::Closed => "it was given up",
        })
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {}", self.message, self.code)?;
        if !self.code_name.is_empty() {
            write!(f, " {}", self.code_name)?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.kind)?;
        match (&self.0.server, &self.0.user) {
            (Some(server), Some(user)) => write!(f, " (server {server}, user {user:?})")?,
            (Some(server), None) => write!(f, " (server {server})")?,
            (None, Some(user)) => write!(f, " (user {user:?})")?,
            (None, None) => {}
        }
        match &self.0.cause {
            Some(cause) => write!(f, "; last failure: {cause}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("server", &self.0.server)
            .field("user", &self.0.user)
            .field("labels", &self.0.labels)
            .field("cause", &self.0.cause)
            .finish()
    }
}
