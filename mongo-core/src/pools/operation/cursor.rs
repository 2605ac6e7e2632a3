//! Cursors over pools.

use std::time::Duration;

use bson::RawDocumentBuf;
use serde::de::DeserializeOwned;

use super::run::{Owner, Run};
use super::{OnPools, Session, send_end};
use crate::ServerAddress;
use crate::error::{Error, Result};
use crate::net::{BatchCursor, CursorLimits, CursorSource, Limits, OwnedReply};
use crate::operation::{Command, CursorState, Leftover, Request};
use crate::pools::guard::Pinned;
use crate::pools::{Backend, PinReason, Pools};

/// A cursor over pools: see [`BatchCursor`]. It borrows the session that it was opened with, until
/// it is [suspended](BatchCursor::suspend).
pub type Cursor<'s, B> = BatchCursor<'s, OverPools<'s, B>>;

/// Runs the commands of a [`Cursor`].
pub struct OverPools<'s, B: Backend> {
    pools: Pools<B>,
    owner: Owner<'s, B>,
    server: ServerAddress,
    /// Its connection, behind a load balancer.
    connection: Pinned<B>,
    /// Closes the cursor, unless the server has.
    kill: Option<Box<Request>>,
}

impl<'s, B: Backend> Command<OnPools<'_, 's, B>> {
    /// Runs it, and returns the cursor of its reply. Without a session it borrows nothing.
    ///
    /// # Errors
    /// See [`Pools::command`];
    /// [`ErrorKind::Deserialization`](crate::ErrorKind::Deserialization): the reply has no cursor;
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration): the options of the cursor
    /// contradict each other.
    pub async fn cursor(self) -> Result<Cursor<'s, B>> {
        let mut request = self.request?;
        let OnPools { pools, session } = self.target;
        let timeout = request.timeout.or(pools.client().defaults.timeout);
        let limits = CursorLimits::of(&mut request, timeout)?;
        let mut owner = Owner::of(session);
        let mut run = Run::new(pools, &mut owner, &mut request)?;
        if timeout.is_some() {
            run = run.within(limits.of_command());
        }
        let done = run.run().await?;
        drop(run);
        let opened = request.open_cursor(done.reply.into_raw());
        let state = opened.map_err(|error| error.at(&done.server))?;
        let source = state.kill().map(|kill| {
            let is_load_balanced = pools.client().defaults.load_balanced;
            let mut connection = done.connection.filter(|_| is_load_balanced);
            if let Some(connection) = &mut connection {
                connection.pin(PinReason::Cursor);
            }
            OverPools {
                pools: pools.clone(),
                owner,
                server: done.server,
                connection,
                kill: Some(kill),
            }
        });
        Ok(BatchCursor::new(state, source, limits))
    }

    /// Runs it, and returns the first document of its reply's cursor; `None` if there is none.
    ///
    /// Limit the command to one document, so that the server does not open a cursor: a `find` with
    /// `limit: 1`, or with `singleBatch: true` and `batchSize: 1`; an `aggregate` with a last stage
    /// `$limit`. A cursor that is open nevertheless is closed by a `killCursors` before this
    /// returns, or in the background if this fails or is cancelled after the command's reply. If it is
    /// cancelled before, the cursor's id is unknown, and the server closes it after 10 minutes.
    ///
    /// # Errors
    /// See [`cursor`](Self::cursor) and [`BatchCursor::next`](crate::net::BatchCursor::next).
    pub async fn first<T: DeserializeOwned>(self) -> Result<Option<T>> {
        self.cursor().await?.only().await
    }
}

impl<B: Backend> OverPools<'_, B> {
    /// The same cursor with another owner.
    fn owned_by<'s>(mut self, owner: Owner<'s, B>) -> OverPools<'s, B> {
        OverPools {
            pools: self.pools.clone(),
            owner,
            server: self.server.clone(),
            connection: self.connection.take(),
            kill: self.kill.take(),
        }
    }
}

impl<B: Backend> CursorSource for OverPools<'_, B> {
    async fn get_more(&mut self, mut request: Box<Request>, limits: Limits) -> Result<OwnedReply> {
        let mut run = Run::new(&self.pools, &mut self.owner, &mut request)?;
        run.pinned = Some(&mut self.connection);
        run.server = Some(self.server.clone());
        Ok(run.within(limits).run().await?.reply)
    }

    async fn kill(&mut self, limits: Limits) {
        let Some(kill) = &mut self.kill else {
            return;
        };
        let session = self.owner.explicit();
        let of_session = session.and_then(|session| session.connection.as_mut());
        if let Some(connection) = &mut self.connection {
            if !connection.send_end(kill, None, limits).await {
                // The cursor is still open on it.
                connection.close();
            }
        } else if let Some(connection) = of_session {
            connection.send_end(kill, None, limits).await;
        } else {
            let server = Some(self.server.clone());
            send_end(&self.pools, kill, server, Owner::None, limits).await;
        }
    }

    fn set_kill(&mut self, kill: Option<Box<Request>>) {
        if kill.is_none() {
            self.connection = None;
            if let Owner::Implicit(_) = self.owner {
                self.owner = Owner::None;
            }
        }
        self.kill = kill;
    }

    fn min_round_trip_time(&self) -> Duration {
        let topology = self.pools.topology().snapshot();
        let server = topology.server(&self.server);
        let time = server.and_then(|server| server.description().min_round_trip_time);
        time.unwrap_or_default()
    }
}

impl<B: Backend> Drop for OverPools<'_, B> {
    fn drop(&mut self) {
        let Some(kill) = self.kill.take() else {
            return;
        };
        let connection = self.connection.take();
        // Behind a load balancer a transaction's connection stays with its session.
        if connection.is_some() || !self.pools.client().defaults.load_balanced {
            let leftover = Leftover::kill(kill, self.server.clone());
            self.pools.leave(leftover, connection);
        }
    }
}

impl<'s, B: Backend> Cursor<'s, B> {
    /// The server of the cursor; `None` once it has closed the cursor.
    pub fn server(&self) -> Option<&ServerAddress> {
        self.source().map(|source| &source.server)
    }

    /// Lets go of the session, so that other operations can use it. Waits for a batch that is being
    /// fetched.
    pub async fn suspend(self) -> SuspendedCursor<B> {
        let (state, source, limits) = self.into_parts().await;
        let mut session = None;
        let source = source.map(|mut source| {
            let owner = match std::mem::replace(&mut source.owner, Owner::None) {
                Owner::None => Owner::None,
                Owner::Implicit(own) => Owner::Implicit(own),
                Owner::Explicit(own) => {
                    session = Some(own.state.id().to_owned());
                    Owner::None
                }
            };
            source.owned_by(owner)
        });
        SuspendedCursor {
            state,
            source,
            limits,
            session,
        }
    }
}

/// A cursor that does not borrow its session. Dropping it closes the cursor on the server.
#[must_use]
pub struct SuspendedCursor<B: Backend> {
    state: CursorState,
    source: Option<OverPools<'static, B>>,
    limits: CursorLimits,
    /// The id of its session, if that was not its own.
    session: Option<RawDocumentBuf>,
}

impl<B: Backend> SuspendedCursor<B> {
    /// Goes on with the session that the cursor was opened with.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration): it is another session. The
    /// cursor is closed.
    pub fn resume(self, session: &mut Session<B>) -> Result<Cursor<'_, B>> {
        let is_own = match &self.session {
            Some(id) => session.state.id() == &**id,
            None => self.source.is_none(),
        };
        if !is_own {
            let text = "the cursor was opened with another session";
            return Err(Error::configuration(text));
        }
        let source = self
            .source
            .map(|source| source.owned_by(Owner::Explicit(session)));
        Ok(BatchCursor::new(self.state, source, self.limits))
    }

    /// Goes on with a cursor that was opened without a session.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration): it was opened with one. The
    /// cursor is closed.
    pub fn resume_alone(self) -> Result<Cursor<'static, B>> {
        if self.session.is_some() {
            let text = "the cursor was opened with a session: use resume";
            return Err(Error::configuration(text));
        }
        let (state, limits) = (self.state, self.limits);
        Ok(BatchCursor::new(state, self.source, limits))
    }
}
