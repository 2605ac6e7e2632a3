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
/// There are none for the commands of a handshake, of an authentication that the client does by
/// itself, and of a monitor. What a sensitive command (such as `createUser`) says and is answered is left out:
/// its documents are empty, and of the server's error there are the code, its name and the labels.
///
/// Specification: command logging and monitoring.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CommandEvent {
    /// A command is about to be sent.
    Started(CommandStartedEvent),
    /// A command was answered with `ok: 1`, write errors or not.
    Succeeded(CommandSucceededEvent),
    /// A command was answered with `ok: 0`, or not at all.
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
    /// The connection, as its pool numbers them.
    pub driver_connection_id: u64,
    /// The same connection, as the server numbers them.
    pub server_connection_id: Option<i64>,
    /// Behind a load balancer: the service that the connection leads to.
    pub service_id: Option<ObjectId>,
    /// The request, as its connection numbers them.
    pub request_id: i32,
    /// The command's name, its first key.
    pub command_name: Arc<str>,
    /// The database that it is run on.
    pub database_name: Arc<str>,
    /// The command as it is sent, document sequences as arrays; empty if it is sensitive.
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
    /// The connection, as its pool numbers them.
    pub driver_connection_id: u64,
    /// The same connection, as the server numbers them.
    pub server_connection_id: Option<i64>,
    /// Behind a load balancer: the service that the connection leads to.
    pub service_id: Option<ObjectId>,
    /// The request, as its connection numbers them.
    pub request_id: i32,
    /// The command's name.
    pub command_name: Arc<str>,
    /// The database that it was run on.
    pub database_name: Arc<str>,
    /// From the first byte that was written to the whole reply.
    pub duration: Duration,
    /// The reply; `{ ok: 1 }` where none was asked for; empty if the command is sensitive.
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
    /// The connection, as its pool numbers them.
    pub driver_connection_id: u64,
    /// The same connection, as the server numbers them.
    pub server_connection_id: Option<i64>,
    /// Behind a load balancer: the service that the connection leads to.
    pub service_id: Option<ObjectId>,
    /// The request, as its connection numbers them.
    pub request_id: i32,
    /// The command's name.
    pub command_name: Arc<str>,
    /// The database that it was run on.
    pub database_name: Arc<str>,
    /// From the first byte that was written to the failure.
    pub duration: Duration,
    /// Why it failed; without what the server said of it, if the command is sensitive.
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

    /// The request, as its connection numbers them.
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
