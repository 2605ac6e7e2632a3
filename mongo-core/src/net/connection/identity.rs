use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;
use tokio::time::Instant;

use crate::ServerAddress;
use crate::error::Error;
use crate::event::EventHandlers;
use crate::handshake::ConnectionDescription;
use crate::net::conversing::Proof;
use crate::net::generations::Generation;
use crate::net::tie::{Link, Tie};

/// What stays the same over a connection's life.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) id: u64,
    pub(crate) generation: Generation,
    pub(crate) server: ServerAddress,
    pub(crate) user: Option<Arc<str>>,
    /// What it was authenticated with, if it was.
    pub(crate) proof: Option<Proof>,
    pub(crate) description: ConnectionDescription,
    /// The fields of the stable API, for every command.
    pub(crate) server_api: Option<RawDocumentBuf>,
    /// For commands that name no deadline; `None` is none.
    pub(crate) command_timeout: Option<Duration>,
    pub(crate) drain_timeout: Duration,
    /// Whether anything compares how long the connection was idle.
    pub(crate) times_idleness: bool,
    pub(crate) created: Instant,
    pub(crate) events: EventHandlers,
    /// To the pool that it belongs to.
    pub(crate) tie: Option<Tie>,
}

impl Identity {
    /// Adds to an error what it is about.
    pub(crate) fn name(&self, error: impl Into<Error>) -> Error {
        error.into().at(&self.server).for_user(self.user.as_ref())
    }

    /// The same, of no pool, for a connection that nothing can be done with.
    pub(super) fn untied(&self) -> Self {
        Self {
            id: self.id,
            generation: self.generation.clone(),
            server: self.server.clone(),
            user: self.user.clone(),
            proof: None,
            description: self.description.clone(),
            server_api: None,
            command_timeout: self.command_timeout,
            drain_timeout: self.drain_timeout,
            times_idleness: self.times_idleness,
            created: self.created,
            events: self.events.clone(),
            tie: None,
        }
    }

    /// What the pool interrupts it by.
    #[inline]
    pub(super) fn link(&self) -> Option<&Link> {
        self.tie.as_ref().map(|tie| &*tie.link)
    }
}
