use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bson::RawDocument;
use tokio::sync::watch;

use super::connection::metadata::Metadata;
use super::deadline::Deadline;
use super::runtime;
use crate::ServerAddress;
use crate::error::Result;
use crate::handshake::DriverInfo;
use crate::net::transport::tls::Tls;
use crate::operation::ClusterTime;
use crate::sdam::{ApplicationError, TopologyDescription};
use crate::select::{Criterion, SelectionIndex};
use crate::uri::ClientOptions;

mod builder;
mod clock;
mod cluster_time;
mod listener;
mod logs;
pub(super) mod monitor;
mod paces;
mod pump;
mod selected;
mod selection;
mod shared;
mod srv;
mod srv_state;
mod starting;
mod writing;

#[cfg(test)]
mod tests;

pub use builder::TopologyBuilder;
pub(crate) use listener::{Clear, Removal, TopologyListener};
use logs::Selection;
pub use selected::SelectedServer;
pub(crate) use shared::Shared;
use shared::{Ended, Patience};

/// A MongoDB deployment: discovers and monitors its servers, and selects among them.
///
/// Creating it does no I/O. [`connect`](Self::connect) starts one monitor for each server,
/// [`disconnect`](Self::disconnect) stops the monitors, and [`close`](Self::close) stops them
/// permanently. Cloning is cheap, and clones are the same topology. When the last clone is dropped,
/// the topology is closed.
///
/// There is one writer: the reports of monitors and the errors of applications go through
/// [`sdam::apply`](crate::sdam::apply) under one lock, which is held only for that. Readers take
/// [snapshots](Self::snapshot) without waiting.
///
/// # SRV records
/// A task of the topology first [resolves](super::resolve) `mongodb+srv` options that have no
/// hosts. Until that succeeds, nothing is monitored and there are no events. A failed attempt is
/// the error of every selection that waits for it. It is repeated after `heartbeatFrequencyMS`, or
/// after 500 ms if a selection is waiting. The records are polled while the topology is sharded or
/// of unknown type. Options that were resolved before start with their hosts; their records are
/// also polled if there is a resolver.
///
/// # Load balancers
/// With `loadBalanced=true` nothing is monitored: the load balancer can be selected at once.
///
/// # Runtimes
/// Monitors, their sockets, and the task for `mongodb+srv` run on one Tokio runtime: the
/// [named](TopologyBuilder::runtime) one, else the one in which [`connect`](Self::connect) was
/// called. If that runtime shuts down, they end with it. The next call of `connect`, or a selection
/// that finds no suitable server, restarts them on the named runtime if it still runs, else on the
/// current one. A task that has panicked is restarted likewise. A runtime that nothing drives can't
/// be distinguished from a busy one: name a runtime that outlives the others.
///
/// # Logs
/// `tracing` events have the messages and fields of the logging specification, in the order of the
/// events. Their targets are those of the official driver: `mongodb::topology` (DEBUG) and
/// `mongodb::server_selection` (DEBUG, and INFO once for a selection that has to wait). Replies are
/// truncated after 1000 characters, or as set by
/// [`set_max_logged_length`](crate::event::set_max_logged_length). Nothing is formatted for a
/// disabled target.
///
/// Specifications: server discovery and monitoring, server selection, initial DNS seedlist
/// discovery, polling SRV records for mongos discovery, load balancers.
#[derive(Clone)]
pub struct Topology {
    owner: Arc<Owner>,
}

/// Closes the topology when the last [`Topology`] is dropped. Monitors hold only the [`Shared`]
/// part.
struct Owner(Arc<Shared>);

impl Topology {
    /// A topology of the options' hosts, without event handlers.
    ///
    /// # Errors
    /// See [`TopologyBuilder::build`].
    pub fn new(options: ClientOptions) -> Result<Self> {
        Self::builder(options).build()
    }

    /// A builder over client options.
    pub fn builder(options: ClientOptions) -> TopologyBuilder {
        TopologyBuilder::new(options)
    }

    fn of(shared: Shared) -> Self {
        Self {
            owner: Arc::new(Owner(Arc::new(shared))),
        }
    }

    /// Starts monitoring; with `mongodb+srv`, after a lookup. Returns at once; selections wait for
    /// the monitors' results. If the topology is already connected, this only restarts tasks that
    /// have [ended with their runtime](Self#runtimes).
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) outside of a Tokio runtime if
    /// none was [named](TopologyBuilder::runtime), and on a runtime without a timer, or without the
    /// I/O driver that the built-in connectors need;
    /// [`ErrorKind::TopologyClosed`](crate::ErrorKind::TopologyClosed).
    pub fn connect(&self) -> Result<()> {
        self.owner.0.connect()
    }

    /// Stops monitoring and waits until all its tasks and sockets are gone, even if another call
    /// stopped them. All that is known of the servers is discarded. [`connect`](Self::connect)
    /// starts again, with a new topology id.
    ///
    /// The tasks end on their [own runtime](Self#runtimes). If nothing drives that runtime, this
    /// waits indefinitely; if that is possible, bound the wait with a time-out.
    ///
    /// If this future is dropped, the tasks still end, and a later call waits for them.
    pub async fn disconnect(&self) {
        self.end(Ended::Disconnected).await;
    }

    /// Like [`disconnect`](Self::disconnect), but permanent: current and later selections fail with
    /// [`ErrorKind::TopologyClosed`](crate::ErrorKind::TopologyClosed).
    ///
    /// Like [`disconnect`](Self::disconnect), this waits indefinitely for tasks on a runtime that
    /// nothing drives.
    pub async fn close(&self) {
        self.end(Ended::Closed).await;
    }

    async fn end(&self, ended: Ended) {
        let newest = self.owner.0.end(ended);
        self.owner.0.tasks.ended(newest).await;
    }

    /// The options. With `mongodb+srv`, they are those of the last successful initial lookup, if
    /// there was one.
    pub fn options(&self) -> Arc<ClientOptions> {
        self.owner.0.resolved_options()
    }

    /// Appends the name of a wrapping library to the `client` document of handshakes, those of
    /// monitors included. New connections send it; existing connections do not change. Returns
    /// whether it was appended: the same driver info is appended only once.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if it contains a `|`, or if
    /// the names and versions would no longer fit into 512 bytes. Nothing is appended then.
    ///
    /// Specification: handshake, "Metadata updates after MongoClient initialization".
    pub fn append_metadata(&self, driver_info: DriverInfo) -> Result<bool> {
        self.metadata().append([driver_info])
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.owner.0.monitoring.tls()
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.owner.0.monitoring.metadata
    }

    /// The current description of the topology, indexed for selection. Wait-free.
    pub fn snapshot(&self) -> Arc<SelectionIndex> {
        Arc::clone(&self.owner.0.index())
    }

    /// The current description of the topology.
    pub fn description(&self) -> Arc<TopologyDescription> {
        self.owner.0.index().topology().clone()
    }

    /// Subscribes to descriptions: the receiver sees the newest one, and may miss others. Clone a
    /// borrowed description and release the borrow at once: the topology can't change while it is
    /// held.
    pub fn subscribe(&self) -> watch::Receiver<Arc<TopologyDescription>> {
        self.owner.0.subscribe()
    }

    /// The number of selections that wait for a suitable server at the moment, those of check-outs
    /// included. Wait-free.
    pub fn waiting_selections(&self) -> usize {
        self.owner.0.waiting.load(Ordering::Relaxed)
    }

    /// Selects a server within `serverSelectionTimeoutMS` (default 30 s): returns as soon as one
    /// suitable server is known, without waiting for the others.
    ///
    /// # Errors
    /// [`ErrorKind::ServerSelection`](crate::ErrorKind::ServerSelection) if there is no suitable
    /// server, with each server's last failure; [`ErrorKind::Srv`](crate::ErrorKind::Srv), or a
    /// time-out that names the wait for DNS, if there is no host yet;
    /// [`ErrorKind::TopologyClosed`](crate::ErrorKind::TopologyClosed).
    ///
    /// # Cancellation
    /// The future may be dropped at any time.
    pub async fn select(&self, criterion: &Criterion) -> Result<SelectedServer> {
        let deadline = Deadline::after(self.owner.0.options.server_selection_timeout);
        self.select_by(deadline, criterion, &[]).await
    }

    /// Like [`select`](Self::select), with a deadline, and with servers to avoid because they
    /// failed this operation before.
    ///
    /// # Errors
    /// See [`select`](Self::select).
    pub async fn select_by(
        &self,
        deadline: impl Into<Deadline>,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> Result<SelectedServer> {
        self.select_for(deadline.into(), criterion, deprioritized, None)
            .await
    }

    /// [`select_by`](Self::select_by) for an operation that logs name.
    pub(crate) async fn select_for(
        &self,
        deadline: Deadline,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
        operation: Option<(&str, i64)>,
    ) -> Result<SelectedServer> {
        let shared = &*self.owner.0;
        let log = Selection {
            operation,
            criterion,
            index: &shared.index,
        };
        log.started();
        let outcome = match shared.select_now(criterion, deprioritized) {
            Ok(Some(selected)) => Ok(selected),
            Ok(None) => self.wait(deadline, criterion, deprioritized, &log).await,
            Err(error) => Err(error),
        };
        log.ended(&outcome);
        outcome
    }

    /// Waits for a suitable server.
    async fn wait(
        &self,
        deadline: Deadline,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
        log: &Selection<'_>,
    ) -> Result<SelectedServer> {
        let shared = &self.owner.0;
        let _waiting = shared.begin_wait();
        let mut patience = Patience::default();
        let mut is_told = false;
        loop {
            // Before the next attempt, so that no change between the two is missed.
            let changed = shared.woken.notified();
            if let Some(selected) = shared.select_now(criterion, deprioritized)? {
                return Ok(selected);
            }
            shared.request_checks(&mut patience)?;
            if !std::mem::replace(&mut is_told, true) {
                log.waits(deadline);
            }
            if deadline.bound(changed).await.is_err() {
                if !deadline.is_over() {
                    // There is no timer to wait with.
                    runtime::current()?;
                }
                return Err(shared.no_suitable_server(criterion, deadline.elapsed()));
            }
        }
    }

    /// The newest `$clusterTime` passed to [`advance_cluster_time`](Self::advance_cluster_time)
    /// since [`connect`](Self::connect). Wait-free.
    ///
    /// Send it with commands to the deployment, except with handshake, authentication and
    /// unacknowledged commands, and except to servers without cluster times.
    ///
    /// Specification: driver sessions, gossipping the cluster time.
    pub fn cluster_time(&self) -> Option<Arc<ClusterTime>> {
        self.owner.0.clock.newest()
    }

    /// Takes the value of a reply's `$clusterTime`, and returns whether its timestamp was newer
    /// than the known one. A value longer than 1 KiB is ignored. This takes no lock, makes no new
    /// snapshot, and allocates only for a newer value. Call it with each reply on connections of
    /// applications. Replies to monitors do not count, and are not examined.
    pub fn advance_cluster_time(&self, cluster_time: &RawDocument) -> bool {
        self.owner.0.clock.advance(cluster_time)
    }

    /// Adds a listener, which is notified of changes to its pools for as long as it is alive.
    pub(crate) fn listen(&self, listener: std::sync::Weak<dyn TopologyListener>) {
        self.owner.0.listen(listener);
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.owner.0
    }

    /// Reports an error of an application's connection, or of a command on one. The server may be
    /// marked unknown and checked.
    ///
    /// Specification: server discovery and monitoring, application errors.
    pub fn handle_error(&self, error: ApplicationError) {
        self.owner.0.handle_error(error);
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // The tasks end by themselves.
        self.0.end(Ended::Closed);
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topology")
            .field("description", &self.description())
            .finish_non_exhaustive()
    }
}
