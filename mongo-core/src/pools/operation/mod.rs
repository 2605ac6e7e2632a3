//! Operations over [`Pools`]: a server is selected and a connection checked out for each attempt.

use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use tokio::time::Instant;

use super::{Backend, Pools};
use crate::ServerAddress;
use crate::concern::{ReadConcern, WriteConcern};
use crate::error::Result;
use crate::net::{Limits, OwnedReply, random_id};
use crate::operation::{
    ClientContext, ClientSession, Command, Leftover, Request, ServerSession, SessionOptions,
};
use crate::select::ReadPreference;

mod attempt;
mod cursor;
mod run;
mod session;
mod transaction;

pub use cursor::{Cursor, SuspendedCursor};
use run::{Owner, Run};
pub use session::Session;
pub use transaction::TransactionFuture;

/// The target of [`Pools::command`]: the pools, borrowed for `'p`, and the session, borrowed for
/// `'s`; `'static` without one.
#[derive(Debug)]
pub struct OnPools<'p, 's, B: Backend> {
    pools: &'p Pools<B>,
    session: Option<&'s mut Session<B>>,
}

impl<B: Backend> Pools<B> {
    /// A command that selects a server, checks a connection out, runs, returns the connection, and is
    /// retried as the specifications allow: see [`Command`]. It is serialised at once; an error
    /// shows when it is awaited. Of a raw document only the lengths of its elements are checked; names
    /// and values are left to the server. Without [`session`](Command::session) it has a session of
    /// its own.
    ///
    /// ```no_run
    /// # use mongo_core::bson::doc;
    /// # use mongo_core::operation::OperationKind;
    /// # use mongo_core::pools::{Backend, Pools};
    /// # async fn count<B: Backend>(pools: &Pools<B>) -> mongo_core::Result<()> {
    /// let count = pools.command("shop", &doc! { "count": "orders" }).kind(OperationKind::Read).await?;
    /// # drop(count); Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`get_by`](Self::get_by) and of
    /// [`run_command`](crate::Connection::run_command): of several attempts the last one that may
    /// have had an effect, else the first. With a [`timeout`](Command::timeout) that is over:
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout), also if the server ended the command for
    /// it (code 50), with the last error as its cause.
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration): the session belongs to other
    /// pools or another credential, the server supports no sessions, or options contradict each
    /// other or the transaction.
    ///
    /// # Cancellation
    /// May be dropped at any time, as [`run_command`](crate::Connection::run_command). The server
    /// session is then not used again.
    pub fn command<C>(&self, database: &str, command: &C) -> Command<OnPools<'_, 'static, B>>
    where
        C: Serialize + ?Sized,
    {
        let target = OnPools {
            pools: self,
            session: None,
        };
        Command::new(target, database, command)
    }

    /// Starts a session for operations of this handle's credential.
    ///
    /// # Errors
    /// The options contradict each other; [`ErrorKind::PoolClosed`](crate::ErrorKind::PoolClosed).
    pub fn start_session(&self, options: SessionOptions) -> Result<Session<B>> {
        self.check_usable()?;
        let server = |client: &ClientContext| self.server_session(client);
        let state = ClientSession::start(self.client(), options, server)?;
        Ok(Session::new(self.clone(), state))
    }

    /// A server session of a client of these pools.
    fn server_session(&self, client: &ClientContext) -> ServerSession {
        let known = self.topology().description();
        let minutes = known.logical_session_timeout_minutes();
        client.take_session(Instant::now().into_std(), minutes, random_id)
    }

    /// The read preference of the connection string, for commands that are run without
    /// [`command`](Self::command).
    pub fn read_preference(&self) -> ReadPreference {
        self.applied().defaults.read_preference.clone()
    }

    /// The read concern of the connection string, likewise.
    pub fn read_concern(&self) -> ReadConcern {
        self.applied().defaults.read_concern.clone()
    }

    /// The write concern of the connection string, likewise.
    pub fn write_concern(&self) -> WriteConcern {
        self.applied().defaults.write_concern.clone()
    }

    /// The options, which the caller applies.
    fn applied(&self) -> Arc<ClientContext> {
        let client = self.client();
        client.defaults.usage.applied();
        client
    }
}

impl<'p, B: Backend> Command<OnPools<'p, '_, B>> {
    /// Runs it in this session. The borrow prevents that two operations use the session at a time.
    pub fn session<'s>(self, session: &'s mut Session<B>) -> Command<OnPools<'p, 's, B>> {
        Command {
            request: self.request,
            target: OnPools {
                pools: self.target.pools,
                session: Some(session),
            },
        }
    }

    /// Avoids these servers from the start, if others are suitable.
    pub fn deprioritized(self, servers: &[ServerAddress]) -> Self {
        self.with(|request| request.deprioritized = servers.to_vec())
    }
}

impl<'p, 's: 'p, B: Backend> IntoFuture for Command<OnPools<'p, 's, B>> {
    type Output = Result<OwnedReply>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'p>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut request = self.request?;
            let OnPools { pools, session } = self.target;
            let mut owner = Owner::of(session);
            let mut run = Run::new(pools, &mut owner, &mut request)?;
            Ok(run.run().await?.reply)
        })
    }
}

/// Sends what a dropped cursor or session left to do. Errors are ignored.
pub(super) async fn send_leftover<B: Backend>(pools: Pools<B>, leftover: Leftover, limits: Limits) {
    let owner = leftover.session.map_or(Owner::None, Owner::Implicit);
    let mut request = leftover.request;
    send_end(&pools, &mut request, leftover.server, owner, limits).await;
}

/// Sends the end of a cursor, a transaction or sessions. Errors are ignored.
async fn send_end<B: Backend>(
    pools: &Pools<B>,
    request: &mut Request,
    server: Option<ServerAddress>,
    mut owner: Owner<'_, B>,
    limits: Limits,
) {
    if let Ok(mut run) = Run::new(pools, &mut owner, request) {
        run.server = server;
        let _ = run.within(limits).run().await;
    }
}
