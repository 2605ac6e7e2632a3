use std::fmt;
use std::sync::Arc;

use bson::RawDocument;
use tokio::sync::watch;

use super::connection::metadata::Metadata;
use super::deadline::Deadline;
use super::runtime;
use crate::ServerAddress;
use crate::error::Result;
use crate::handshake::DriverInfo;
use crate::sdam::{ApplicationError, TopologyDescription};
use crate::select::{Criterion, RunningOperation, SelectionIndex, ServerEntry};
use crate::uri::ClientOptions;

mod builder;
mod cluster_time;
mod listener;
mod logs;
pub(super) mod monitor;
mod paces;
mod selection;
mod shared;
mod srv;
mod writing;

#[cfg(test)]
mod tests;

pub use builder::TopologyBuilder;
pub use cluster_time::ClusterTime;
pub(crate) use listener::{Clear, Removal, TopologyListener};
use logs::Selection;
pub(crate) use shared::Shared;
use shared::{Ended, Patience};

/// A deployment: discovered, watched and selected from.
///
/// Made without I/O; [`connect`](Self::connect) starts one monitor for each server,
/// [`disconnect`](Self::disconnect) ends them, and [`close`](Self::close) ends them for good.
/// Cloning is cheap, clones are the same topology; when the last is dropped, everything ends.
///
/// There is one writer: what a monitor or an application's error tells goes through
/// [`sdam::apply`](crate::sdam::apply) under one lock, which is held for that long and no longer.
/// Readers take [snapshots](Self::snapshot), without waiting for anybody.
///
/// # SRV records
/// Options of `mongodb+srv` without hosts are [resolved](super::resolve) first, by a task of the
/// topology. Until that has succeeded nothing is monitored and there are no events. An attempt that
/// fails is told to every selection that waits for it; it is repeated after `heartbeatFrequencyMS`,
/// or 500 ms later if somebody selects meanwhile. The records are polled for as long as the
/// topology is sharded, or not known to be anything else. Options that were resolved before begin
/// with their hosts, and are polled for as well if there is a resolver.
///
/// # Load balancers
/// With `loadBalanced=true` nothing is monitored: the balancer can be selected at once.
///
/// # Runtimes
/// Monitors, their sockets, and the task of `mongodb+srv` live on one Tokio runtime: the
/// [named](TopologyBuilder::runtime) one, else the one that [`connect`](Self::connect) was called
/// in. If that runtime ends, they end with it; the next call of `connect`, and a selection that
/// finds no suitable server, start them again, on the named runtime if it still runs, else on the
/// current one. The same goes for a task that has panicked. A runtime that exists and that nothing
/// drives cannot be told from a busy one: name a runtime that outlives the others.
///
/// # Logs
/// `tracing` events have the messages and fields of the logging specification, in the order of the
/// events, and the targets that the official driver uses too: `mongodb::topology` (DEBUG) and
/// `mongodb::server_selection` (DEBUG, and INFO once for a selection that has to wait). Replies are
/// cut after 1000 characters, or as [`set_max_logged_length`](crate::event::set_max_logged_length) says. Where nobody wants them nothing is made up for them.
///
/// Specifications: server discovery and monitoring, server selection, initial DNS seedlist
/// discovery, polling SRV records for mongos discovery, load balancers.
#[derive(Clone)]
pub struct Topology {
    owner: Arc<Owner>,
}

/// Ends everything when the last [`Topology`] goes; monitors hold only what is inside.
struct Owner(Arc<Shared>);

/// A server that was selected, with the operation that it was selected for: the server's operation
/// count includes it until this is dropped.
#[derive(Debug)]
pub struct SelectedServer {
    entry: Arc<ServerEntry>,
    operation: RunningOperation,
    /// Of the view in which it was selected.
    revision: u64,
}

impl SelectedServer {
    /// A server that was selected in a view, for an operation that has begun.
    pub(crate) fn of(
        index: &SelectionIndex,
        entry: &Arc<ServerEntry>,
        operation: RunningOperation,
    ) -> Self {
        Self {
            entry: entry.clone(),
            operation,
            revision: index.revision(),
        }
    }

    /// The server's address.
    pub fn address(&self) -> &ServerAddress {
        self.entry.address()
    }

    pub(crate) fn into_operation(self) -> RunningOperation {
        self.operation
    }

    /// The server, as the selection saw it.
    pub fn entry(&self) -> &Arc<ServerEntry> {
        &self.entry
    }
}

impl Topology {
    /// A topology of the options' hosts, that tells nobody of its events.
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

    /// Starts monitoring, with `mongodb+srv` after a lookup. Returns at once; selections wait for
    /// what the monitors find. If it is connected already, this starts only the tasks again that
    /// have [ended with their runtime](Self#runtimes).
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) outside of a Tokio runtime, if
    /// none was [named](TopologyBuilder::runtime), and on one without a timer, or without the I/O
    /// driver that the built-in connectors need;
    /// [`ErrorKind::TopologyClosed`](crate::ErrorKind::TopologyClosed).
    pub fn connect(&self) -> Result<()> {
        self.owner.0.connect()
    }

    /// Ends monitoring, and waits until every task and socket of it is gone, also where another call
    /// has ended it. What was known is forgotten. [`connect`](Self::connect) begins anew, with
    /// another topology id.
    ///
    /// The tasks end on their [own runtime](Self#runtimes): if that runtime exists and nothing drives it, this waits
    /// for as long. Bound it by a time-out where that may be.
    ///
    /// Dropping this future does not keep the tasks alive: a later call waits for them.
    pub async fn disconnect(&self) {
        self.end(Ended::Disconnected).await;
    }

    /// [`disconnect`](Self::disconnect) for good: who waits for a server, and who selects one
    /// later, gets [`ErrorKind::TopologyClosed`](crate::ErrorKind::TopologyClosed).
    ///
    /// As [`disconnect`](Self::disconnect), this waits without end for tasks on a runtime that nothing drives.
    pub async fn close(&self) {
        self.end(Ended::Closed).await;
    }

    async fn end(&self, ended: Ended) {
        let newest = self.owner.0.end(ended);
        self.owner.0.tasks.ended(newest).await;
    }

    /// The options; with `mongodb+srv` those of the last successful first lookup, if there was one.
    pub fn options(&self) -> Arc<ClientOptions> {
        self.owner.0.resolved_options()
    }

    /// Appends who wraps this client to the `client` document of handshakes, the
    /// monitors' among them: connections made
    /// from now on say it, those that are there stay as they are. Says whether that is new: what was
    /// appended before is not appended twice.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration): there is a `|` in it, or the
    /// names and versions would not fit into 512 bytes any more. Nothing is appended then.
    ///
    /// Specification: handshake, "Metadata updates after MongoClient initialization".
    pub fn append_metadata(&self, driver_info: DriverInfo) -> Result<bool> {
        self.metadata().append(driver_info)
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.owner.0.monitoring.metadata
    }

    /// What is known now, prepared for selection. Wait-free.
    pub fn snapshot(&self) -> Arc<SelectionIndex> {
        Arc::clone(&self.owner.0.index())
    }

    /// What is known now.
    pub fn description(&self) -> Arc<TopologyDescription> {
        self.owner.0.index().topology().clone()
    }

    /// Follows what is known: the receiver sees the newest description, and may miss others. What
    /// it lends is to be cloned and let go at once: nothing changes while it is borrowed.
    pub fn subscribe(&self) -> watch::Receiver<Arc<TopologyDescription>> {
        self.owner.0.subscribe()
    }

    /// Selects a server within `serverSelectionTimeoutMS` (default 30 s): returns as soon as one
    /// suitable server is known, without waiting for the others.
    ///
    /// # Errors
    /// [`ErrorKind::ServerSelection`](crate::ErrorKind::ServerSelection): why there is none, with each server's own last failure;
    /// [`ErrorKind::Srv`](crate::ErrorKind::Srv), or a time-out that names the wait for DNS: there is no host yet;
    /// [`ErrorKind::TopologyClosed`](crate::ErrorKind::TopologyClosed).
    ///
    /// # Cancellation
    /// May be dropped at any time.
    pub async fn select(&self, criterion: &Criterion) -> Result<SelectedServer> {
        let deadline = Deadline::after(self.owner.0.options.server_selection_timeout);
        self.select_by(deadline, criterion, &[]).await
    }

    /// [`select`](Self::select) with a deadline of the caller's, and servers to avoid: those that
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
        let shared = &*self.owner.0;
        let log = Selection { criterion, shared };
        log.started();
        let outcome = match shared.select_now(criterion, deprioritized) {
            Ok(Some(selected)) => Ok(selected),
            Ok(None) => {
                self.wait(deadline.into(), criterion, deprioritized, &log)
                    .await
            }
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
        // Before the next look, so that no change between the two is missed.
        let mut changed = shared.subscribe();
        let mut patience = Patience::default();
        let mut is_told = false;
        loop {
            if let Some(selected) = shared.select_now(criterion, deprioritized)? {
                return Ok(selected);
            }
            shared.request_checks(&mut patience)?;
            if !std::mem::replace(&mut is_told, true) {
                log.waits(deadline);
            }
            // Safe to drop: a change that was not seen is seen by the next look.
            if deadline.bound(changed.changed()).await.is_err() {
                if !deadline.is_over() {
                    // There is no timer to wait with.
                    runtime::current()?;
                }
                return Err(shared.no_suitable_server(criterion, deadline.elapsed()));
            }
        }
    }

    /// The newest `$clusterTime` that [`advance_cluster_time`](Self::advance_cluster_time) was given
    /// since [`connect`](Self::connect). Wait-free.
    ///
    /// To be sent along with commands to the deployment, but not with those that shake hands,
    /// authenticate or run without an acknowledgement, nor to servers without cluster times.
    ///
    /// Specification: driver sessions, gossipping the cluster time.
    pub fn cluster_time(&self) -> Option<Arc<ClusterTime>> {
        self.owner.0.clock.newest()
    }

    /// Takes the value of a reply's `$clusterTime`, and says whether it was newer, by its timestamp,
    /// than what was known; one longer than 1 KiB is left out. No lock, no new snapshot, and without
    /// allocating where it is not newer. To be called with each reply on connections for
    /// applications; replies to monitors don't count, and are not looked at.
    pub fn advance_cluster_time(&self, cluster_time: &RawDocument) -> bool {
        self.owner.0.clock.advance(cluster_time)
    }

    /// Has a listener told of what concerns its pools, from now on, for as long as it lives.
    pub(crate) fn listen(&self, listener: std::sync::Weak<dyn TopologyListener>) {
        self.owner.0.listen(listener);
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.owner.0
    }

    /// Tells of an error on a connection of the application's, or of a command on one: the server
    /// may be marked unknown and checked.
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
