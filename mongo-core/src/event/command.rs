//! The events of commands.

use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;
use bson::oid::ObjectId;

use crate::address::ServerAddress;
use crate::error::Error;

/// One event of a command. Each [`Started`](Self::Started) is followed by one of the others, with
/// the same request id on the same connection.
///
/// There are none for the commands of handshakes, of authentication by the client, and of monitors.
/// Sensitive commands (such as `createUser`) are redacted: their documents are empty, and an error
/// of the server has only the code, its name and the labels.
///
/// Specification: command logging and monitoring.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CommandEvent {
    /// A command is about to be sent.
    Started(CommandStartedEvent),
    /// The reply to a command has `ok: 1`, with or without write errors.
    Succeeded(CommandSucceededEvent),
    /// The reply to a command has `ok: 0`, or there is no reply.
    Failed(CommandFailedEvent),
}

/// See [`CommandEvent::Started`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandStartedEvent {
    /// The server.
    pub address: ServerAddress,
    /// The user of the connection's credential.
    pub user: Option<Arc<str>>,
    /// The connection's id in its pool.
    pub driver_connection_id: u64,
    /// The connection's id on the server.
    pub server_connection_id: Option<i64>,
    /// Behind a load balancer: the service of the connection.
    pub service_id: Option<ObjectId>,
    /// The request's id on its connection.
    pub request_id: i32,
    /// The id of the operation, the same for all its attempts; `None` for a command that was run
    /// without one.
    pub operation_id: Option<i64>,
    /// The command's name, its first key.
    pub command_name: Arc<str>,
    /// The command's database.
    pub database_name: Arc<str>,
    /// The command as sent, with document sequences as arrays; empty if it is sensitive.
    pub command: RawDocumentBuf,
}

/// See [`CommandEvent::Succeeded`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandSucceededEvent {
    /// The server.
    pub address: ServerAddress,
    /// The user of the connection's credential.
    pub user: Option<Arc<str>>,
    /// The connection's id in its pool.
    pub driver_connection_id: u64,
    /// The connection's id on the server.
    pub server_connection_id: Option<i64>,
    /// Behind a load balancer: the service of the connection.
    pub service_id: Option<ObjectId>,
    /// The request's id on its connection.
    pub request_id: i32,
    /// The id of the operation, the same for all its attempts; `None` for a command that was run
    /// without one.
    pub operation_id: Option<i64>,
    /// The command's name.
    pub command_name: Arc<str>,
    /// The command's database.
    pub database_name: Arc<str>,
    /// The time from the first byte written to the end of the reply.
    pub duration: Duration,
    /// The reply; `{ ok: 1 }` if none was requested; empty if the command is sensitive.
    pub reply: RawDocumentBuf,
}

/// See [`CommandEvent::Failed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandFailedEvent {
    /// The server.
    pub address: ServerAddress,
    /// The user of the connection's credential.
    pub user: Option<Arc<str>>,
    /// The connection's id in its pool.
    pub driver_connection_id: u64,
    /// The connection's id on the server.
    pub server_connection_id: Option<i64>,
    /// Behind a load balancer: the service of the connection.
    pub service_id: Option<ObjectId>,
    /// The request's id on its connection.
    pub request_id: i32,
    /// The id of the operation, the same for all its attempts; `None` for a command that was run
    /// without one.
    pub operation_id: Option<i64>,
    /// The command's name.
    pub command_name: Arc<str>,
    /// The command's database.
    pub database_name: Arc<str>,
    /// The time from the first byte written to the failure.
    pub duration: Duration,
    /// The error; without the server's message if the command is sensitive.
    pub failure: Error,
}

impl CommandEvent {
    /// The server.
    pub fn address(&self) -> &ServerAddress {
        match self {
            Self::Started(event) => &event.address,
            Self::Succeeded(event) => &event.address,
            Self::Failed(event) => &event.address,
        }
    }

    /// The request's id on its connection.
    pub fn request_id(&self) -> i32 {
        match self {
            Self::Started(event) => event.request_id,
            Self::Succeeded(event) => event.request_id,
            Self::Failed(event) => event.request_id,
        }
    }

    /// The command's name.
    pub fn command_name(&self) -> &str {
        match self {
            Self::Started(event) => &event.command_name,
            Self::Succeeded(event) => &event.command_name,
            Self::Failed(event) => &event.command_name,
        }
    }
}
