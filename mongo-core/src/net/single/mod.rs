use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bson::rawdoc;
use serde::Serialize;
use tokio::time::Instant;

use super::connection::connect_clock::ConnectClock;
use super::connection::reply::Reply;
use super::deadline::{Deadline, Elapsed};
use crate::ServerAddress;
use crate::error::{ClosedReason, Error, ErrorKind, Result, Wait};
use crate::handshake::DriverInfo;
use crate::sdam::{ApplicationError, ErrorPhase, TopologyDescription};
use crate::select::Criterion;
use crate::uri::ClientOptions;
use on_demand::{Link, LinkState, OnDemandTopology, OnDemandTopologyBuilder};

pub(super) mod on_demand;

/// How long a connection may be idle before a ping checks it (`socketCheckIntervalMS`).
const SOCKET_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The maximum number of selections for one command. A broken connection, and then a closed one,
/// each lead to another selection.
const SELECTIONS: usize = 3;

/// A client for one task, without background tasks. It owns one connection for each server, which
/// both checks the server and runs commands on it.
///
/// A server is selected for each command as described for [`OnDemandTopology`], within the same
/// time limits. A connection authenticates before its first command, with the credential at that
/// time. A connection that was idle for 5 s (`socketCheckIntervalMS`) is first checked with a ping.
/// If that fails, the server is marked unknown, and another server is selected, once.
///
/// ```no_run
/// use mongo_core::ClientOptions;
/// use mongo_core::bson::doc;
/// use mongo_core::net::SingleClient;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> mongo_core::Result<()> {
/// let options = ClientOptions::parse("mongodb://a.example,b.example/?replicaSet=rs")?;
/// let mut client = SingleClient::new(options)?;
/// let reply = client.run_command("admin", &doc! { "ping": 1 }).await?;
/// println!("{:?}", reply.raw());
/// # Ok(())
/// # }
/// ```
///
/// # Cancellation
/// Every future of this type may be dropped at any time. A later command never reads the reply to
/// an earlier one: a connection with an outstanding reply is drained, or closed and reopened.
pub struct SingleClient {
    topology: OnDemandTopology,
}

impl OnDemandTopologyBuilder {
    /// Builds the client, which authenticates with the options' credential, if there is one. Its
    /// I/O is that of [`build`](Self::build).
    ///
    /// # Errors
    /// Those of [`build`](Self::build); also if the credential can't be used.
    pub fn build_client(mut self) -> Result<SingleClient> {
        let authenticator = self.authenticator()?;
        let topology = self.finish(authenticator)?;
        Ok(SingleClient { topology })
    }
}

impl SingleClient {
    /// A client of the options' hosts and credential, with defaults for all else. To set more, use
    /// [`OnDemandTopology::builder`]. No I/O.
    ///
    /// # Errors
    /// See [`OnDemandTopologyBuilder::build_client`](super::OnDemandTopologyBuilder::build_client).
    pub fn new(options: ClientOptions) -> Result<Self> {
        OnDemandTopology::builder(options).build_client()
    }

    /// Runs a command on a writable server. See [`run_command_on`](Self::run_command_on).
    ///
    /// # Errors
    /// See [`run_command_on`](Self::run_command_on).
    pub async fn run_command<C>(&mut self, database: &str, command: &C) -> Result<Reply<'_>>
    where
        C: Serialize + ?Sized,
    {
        self.run_command_on(&Criterion::write(), database, command)
            .await
    }

    /// Selects a server, runs a command on it and returns its reply, borrowed until the next
    /// command.
    ///
    /// The command is sent unchanged: a secondary runs it only if it has a suitable
    /// `$readPreference`
    /// ([`ReadPreference::to_document`](crate::select::ReadPreference::to_document)). The options'
    /// `timeoutMS` bounds the whole call: selection, connecting, authentication and the command.
    /// Without it, `socketTimeoutMS` bounds the wait for the reply; the default is 60 s, and zero
    /// means no bound. Nothing is run twice.
    ///
    /// # Errors
    /// Those of [`OnDemandTopology::select`] and of
    /// [`Connection::run_command`](super::Connection::run_command), and failures of authentication.
    /// The description of the server is updated by the error. A credential that can't be obtained
    /// fails the call at once, and does not change the description of the server.
    pub async fn run_command_on<C>(
        &mut self,
        criterion: &Criterion,
        database: &str,
        command: &C,
    ) -> Result<Reply<'_>>
    where
        C: Serialize + ?Sized,
    {
        let deadline = self.topology.deadline();
        let server = self.connect(criterion, deadline).await;
        let server = server.map_err(|error| self.topology.label_check_out(error))?;
        let link = self.link(&server)?;
        let LinkState::Ready(connection) = &mut link.state else {
            return Err(lost(&server));
        };
        let answered = match deadline.moment() {
            Some(_) => connection.run_command_by(deadline, database, command).await,
            None => connection.run_command(database, command).await,
        };
        let found = answered.map(|reply| {
            let error = reply.write_concern_failure()?;
            let phase = ErrorPhase::Completed;
            Some(ApplicationError::new(server.clone(), error, phase))
        });
        match found {
            Err(error) => {
                self.failed(&server, &error, ErrorPhase::Completed);
                return Err(error);
            }
            Ok(write_concern_error) => {
                link.last_use = Instant::now();
                // The connection still holds the reply. If it must be closed, that happens at its
                // next use.
                if let Some(told) = write_concern_error {
                    self.topology.note_error(told);
                }
            }
        }
        match &self.link(&server)?.state {
            LinkState::Ready(connection) => connection.last_reply(),
            LinkState::Greeted(_) => Err(lost(&server)),
        }
    }

    /// The description of the topology after the last scan.
    pub fn description(&self) -> &Arc<TopologyDescription> {
        self.topology.description()
    }

    /// Appends the name of a wrapping library to the `client` document of handshakes. New
    /// connections send it; existing connections do not change. Returns whether it was appended:
    /// the same driver info is appended only once.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if it contains a `|`, or if
    /// the names and versions would no longer fit into 512 bytes. Nothing is appended then.
    ///
    /// Specification: handshake, "Metadata updates after MongoClient initialization".
    pub fn append_metadata(&self, driver_info: DriverInfo) -> Result<bool> {
        self.topology.append_metadata(driver_info)
    }

    /// Closes all connections permanently.
    pub fn close(&mut self) {
        self.topology.close();
    }

    /// Selects a server whose connection is ready for a command.
    async fn connect(
        &mut self,
        criterion: &Criterion,
        deadline: Deadline,
    ) -> Result<ServerAddress> {
        let deadline = self.topology.bounded(deadline);
        let mut failure = None;
        for _ in 0..SELECTIONS {
            let selected = self.topology.select_by(deadline, criterion, &[]);
            let entry = selected.await?;
            let server = entry.address();
            if self.prepare(server, deadline, &mut failure).await? {
                return Ok(server.clone());
            }
            failure.get_or_insert_with(|| lost(server));
        }
        Err(failure.unwrap_or_else(|| ErrorKind::TopologyClosed.into()))
    }

    /// Prepares a server's connection for a command. If this returns false, the server was checked
    /// instead, and a server must be selected again.
    async fn prepare(
        &mut self,
        server: &ServerAddress,
        until: Deadline,
        failure: &mut Option<Error>,
    ) -> Result<bool> {
        let Some(member) = self.topology.member_mut(server) else {
            return Ok(false);
        };
        let deadline = until.within(member.establisher.connect_timeout);
        let mut is_fresh = None;
        let mut is_ready = false;
        if let Some(link) = &mut member.link
            && link.is_usable(deadline).await
        {
            is_fresh = Some(link.last_use.elapsed() < SOCKET_CHECK_INTERVAL);
            is_ready = matches!(link.state, LinkState::Ready(_));
        }
        match (is_fresh, is_ready) {
            (Some(true), true) => Ok(true),
            (Some(true), false) => self.authenticate(server, until, deadline).await,
            (Some(false), true) => Ok(self.ping(server, deadline).await),
            // A hello verifies the connection as well as a ping does.
            (Some(false), false) | (None, _) => {
                *failure = self.topology.check(server, until).await;
                Ok(false)
            }
        }
    }

    /// Authenticates a connection after its hello.
    async fn authenticate(
        &mut self,
        server: &ServerAddress,
        until: Deadline,
        deadline: Deadline,
    ) -> Result<bool> {
        let Some(member) = self.topology.member_mut(server) else {
            return Ok(false);
        };
        let establisher = member.establisher.clone();
        // Before anything is sent: without a credential the connection stays as it is.
        let credential = deadline
            .bound(establisher.authenticator.credential(server))
            .await
            .unwrap_or_else(|Elapsed| Err(Error::timeout(Wait::Credential, deadline.elapsed())))
            .map_err(|error| establisher.name(error))?;
        // Taken, so that dropping this future closes it.
        let Some(link) = member.link.take() else {
            return Ok(false);
        };
        let Link {
            id,
            server_id,
            state,
            ..
        } = link;
        let connection = match state {
            LinkState::Ready(connection) => Ok(connection),
            LinkState::Greeted(greeted) => {
                let clock = ConnectClock::new(until, deadline);
                let completed = establisher.complete(id, *greeted, credential, &clock);
                completed.await
            }
        };
        match connection {
            Ok(connection) => {
                member.link = Some(Link {
                    id,
                    server_id,
                    last_use: Instant::now(),
                    state: LinkState::Ready(connection),
                });
                Ok(true)
            }
            Err(error) => {
                // The end of the caller's time says nothing about the server.
                if !(error.is_timeout() && until.is_over()) {
                    self.failed(server, &error, ErrorPhase::Authentication);
                }
                Err(error)
            }
        }
    }

    /// Checks with a ping that an idle connection still works. If not, its server is marked
    /// unknown.
    async fn ping(&mut self, server: &ServerAddress, deadline: Deadline) -> bool {
        let Ok(link) = self.link(server) else {
            return false;
        };
        let LinkState::Ready(connection) = &mut link.state else {
            return false;
        };
        let ping = rawdoc! { "ping": 1_i32 };
        let answered = connection.run_quietly(deadline, "admin", &ping).await;
        match answered.map(drop) {
            // The server answered: the connection is alive, whatever the reply is.
            Ok(()) => {
                link.last_use = Instant::now();
                true
            }
            Err(error) => {
                self.topology.mark_unknown(server, error);
                self.topology.sweep(server);
                false
            }
        }
    }

    fn failed(&mut self, server: &ServerAddress, error: &Error, phase: ErrorPhase) {
        let told = ApplicationError::new(server.clone(), error.clone(), phase);
        self.topology.handle_error(told);
        self.topology.sweep(server);
    }

    fn link(&mut self, server: &ServerAddress) -> Result<&mut Link> {
        let member = self.topology.member_mut(server);
        member
            .and_then(|member| member.link.as_mut())
            .ok_or_else(|| lost(server))
    }
}

fn lost(server: &ServerAddress) -> Error {
    Error::from(ErrorKind::ConnectionClosed(ClosedReason::Network)).at(server)
}

impl fmt::Debug for SingleClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleClient")
            .field("description", self.description())
            .finish_non_exhaustive()
    }
}
