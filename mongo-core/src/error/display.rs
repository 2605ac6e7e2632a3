//! The text of errors.

use std::fmt;

use super::{CommandError, Error, ErrorKind, InUse, Wait};
use crate::text::{Rounded, write_printable};

/// The text may come from a server, a resolver or the application. Unprintable characters are
/// escaped.
impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_printable(f, format_args!("{}", Raw(self)))
    }
}

struct Raw<'a>(&'a ErrorKind);

impl fmt::Display for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ErrorKind as Kind;
        match self.0 {
            Kind::Uri(error) => write!(f, "connection string: {error}"),
            Kind::Srv(error) => write!(f, "DNS seed list: {error}"),
            Kind::Address(error) => write!(f, "server address: {error}"),
            Kind::Configuration(text) => write!(f, "configuration: {text}"),
            Kind::Connect(error) => write!(f, "could not connect: {error}"),
            Kind::Proxy(error) => write!(f, "proxy {error}"),
            Kind::Network(error) => write!(f, "network: {error}"),
            Kind::Tls(error) => write!(f, "TLS: {error}"),
            Kind::Timeout { wait, after } => {
                write!(f, "timed out after {} {wait}", Rounded(*after))
            }
            Kind::Protocol(error) => write!(f, "protocol: {error}"),
            Kind::Handshake(error) => write!(f, "handshake: {error}"),
            Kind::Authentication(error) => write!(f, "authentication: {error}"),
            Kind::Credential(error) => write!(f, "failed to obtain the credential: {error}"),
            Kind::OnConnect(error) => match error.downcast_ref::<Error>() {
                // Its server and its user are also those of the whole error.
                Some(own) if own.cause().is_none() => write!(f, "on_connect: {}", own.kind()),
                _ => write!(f, "on_connect: {error}"),
            },
            Kind::Command(error) => write!(f, "command failed: {error}"),
            Kind::Serialization(error) => write!(f, "could not write the command: {error}"),
            Kind::Deserialization(error) => write!(f, "could not read the reply: {error}"),
            Kind::ConnectionClosed(reason) => write!(f, "the connection is closed: {reason}"),
            Kind::Cancelled => write!(f, "the command was cancelled"),
            Kind::PoolExhausted(in_use) => in_use.fmt(f),
            Kind::PoolClosed => write!(
                f,
                "attempted to check out a connection from closed connection pool"
            ),
            Kind::PoolCleared => write!(f, "the pool was cleared"),
            Kind::NotWritable => write!(f, "the server is no longer writable"),
            Kind::Dns(error) => write!(f, "could not look up the host: {error}"),
            Kind::ServerSelection(error) => write!(f, "server selection: {error}"),
            Kind::TopologyClosed => write!(f, "the topology is closed"),
            Kind::Pool(text) => write!(f, "pool: {text}"),
        }
    }
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = self.max_pool_size;
        if self.load_balanced || self.cursors + self.transactions > 0 {
            write!(
                f,
                "maxPoolSize: {max}, connections in use by cursors: {}, connections in use by \
                 transactions: {}, connections in use by other operations: {}",
                self.cursors, self.transactions, self.others
            )?;
        } else {
            match self.others {
                0 => write!(f, "no connection of the pool is in use (maxPoolSize={max})")?,
                used if max > 0 && used >= max as usize => {
                    write!(f, "all {used} connections are in use (maxPoolSize={max})")?;
                }
                used => write!(f, "{used} connections are in use (maxPoolSize={max})")?,
            }
        }
        match self.server_full {
            Some(max) => write!(
                f,
                ", and the server is at its limit (max_connections_per_server={max})"
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
            Self::Tls => "in the TLS handshake",
            Self::Proxy => "connecting through the proxy",
            Self::Credential => "waiting for the credential",
            Self::Handshake => "waiting for the reply to the handshake",
            Self::Authentication => "authenticating",
            Self::Command => "running a command",
            Self::Heartbeat => "waiting for the reply to a heartbeat",
            Self::Drain => "waiting for the reply to a cancelled command",
            Self::Recycle => "checking the connection",
            Self::Hook => "waiting for a hook",
        })
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (message, code) = (&self.message, self.code);
        match &*self.code_name {
            "" => write_printable(f, format_args!("{message} (code {code})")),
            name => write_printable(f, format_args!("{message} (code {code} {name})")),
        }
    }
}

/// Omits the reply, which may contain documents.
impl fmt::Debug for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandError")
            .field("code", &self.code)
            .field("code_name", &self.code_name)
            .field("message", &self.message)
            .finish_non_exhaustive()
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
