mod builder;
mod link;
mod scan;
mod srv;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::builder::Establishers;
use self::srv::Srv;
use crate::ServerAddress;
use crate::error::{Error, ErrorKind, Result};
use crate::event::SdamEvent;
use crate::handshake::DriverInfo;
use crate::net::connection::establish::Establisher;
use crate::net::deadline::{Deadline, sleep_until};
use crate::net::dispatcher::Handler;
use crate::net::runtime::current as current_runtime;
use crate::net::transport::dns::system_random;
use crate::sdam::{
    ApplicationError, Effect, Input, RoundTripTime, Scan, TopologyDescription, TopologySettings,
    Turn, apply,
};
use crate::select::{Criterion, SelectionIndex, ServerEntry};
use crate::uri::ClientOptions;

pub use self::builder::OnDemandTopologyBuilder;
pub(crate) use self::link::{Link, LinkState};

/// A deployment whose servers are checked only when a server is selected. For functions as a
/// service, command-line tools, and processes that fork. There is no background task.
///
/// A selection first scans all servers, concurrently on its own task, if the description is older
/// than `heartbeatFrequencyMS` (60 s in this mode), if an application's error requested it, or if
/// no suitable server is known; at most every 500 ms. A scan ends when every server has answered or
/// failed, including servers that are discovered during the scan. It takes up to
/// `connectTimeoutMS`, and twice that if a server that was known has to be retried. A server that
/// can't be reached is not checked again for 5 s.
///
/// `serverSelectionTryOnce` is true by default: a selection then takes up to the time of one scan
/// plus 500 ms, regardless of `serverSelectionTimeoutMS`. If it is false, a selection takes up to
/// that time-out plus the time of a scan. If `connectTimeoutMS` is 0, `serverSelectionTimeoutMS`
/// bounds the whole selection.
///
/// `timeoutMS`, or the deadline of [`select_by`](Self::select_by), bounds the whole selection,
/// scans included. A server whose check it interrupts is marked unknown, and the next scan checks
/// it again.
///
/// A scan needs no credential, and its heartbeats emit no command events.
///
/// The hosts of `mongodb+srv` are looked up before the first scan, within its time. A failed lookup
/// is the error of the selection, and the next selection repeats it. While the topology is sharded
/// or of unknown type, a scan first repeats the lookup once the records' time to live, and at least
/// 60 s, has passed. With `build_client`, `authSource` and `replicaSet` of a TXT record apply.
///
/// The topology owns one connection for each server, and keeps it between scans. Dropping the
/// topology closes them.
///
/// Specifications: server discovery and monitoring (single-threaded), server selection
/// (single-threaded), initial DNS seedlist discovery, polling SRV records for mongos discovery
/// (single-threaded drivers).
pub struct OnDemandTopology {
    settings: TopologySettings,
    description: Arc<TopologyDescription>,
    index: Arc<SelectionIndex>,
    scan: Scan,
    members: BTreeMap<ServerAddress, Member>,
    next_connection: u64,
    selection_timeout: Duration,
    /// `timeoutMS`; `None` means no bound.
    timeout: Option<Duration>,
    try_once: bool,
    is_closed: bool,
    handler: Option<Handler<SdamEvent>>,
    establishers: Establishers,
    /// Set if there are records to look up.
    srv: Option<Srv>,
}

/// A server of the topology.
pub(crate) struct Member {
    pub(crate) establisher: Arc<Establisher>,
    pub(crate) link: Option<Link>,
    round_trip_time: RoundTripTime,
    /// Whether the server has refused `hello`.
    refuses_hello: bool,
}

impl OnDemandTopology {
    /// A topology of the options' hosts, with defaults for all else. No I/O.
    ///
    /// # Errors
    /// See [`OnDemandTopologyBuilder::build`].
    pub fn new(options: ClientOptions) -> Result<Self> {
        Self::builder(options).build()
    }

    /// A builder over client options.
    pub fn builder(options: ClientOptions) -> OnDemandTopologyBuilder {
        OnDemandTopologyBuilder::new(options)
    }

    /// The description of the topology after the last scan, indexed for selection.
    pub fn snapshot(&self) -> &Arc<SelectionIndex> {
        &self.index
    }

    /// The description of the topology after the last scan.
    pub fn description(&self) -> &Arc<TopologyDescription> {
        &self.description
    }

    /// Selects a server, after a scan if one is needed. For its time limits see [above](Self).
    ///
    /// # Errors
    /// [`ErrorKind::ServerSelection`] if there is no suitable server, with each server's last
    /// failure; [`ErrorKind::Srv`], or a time-out that names the wait for DNS, if there is no host
    /// yet; [`ErrorKind::TopologyClosed`]; [`ErrorKind::Configuration`] outside of a Tokio runtime,
    /// and on a runtime without a timer, or without the I/O driver that the built-in connectors
    /// need.
    ///
    /// # Cancellation
    /// If the future is dropped during a scan, the connections of the unfinished checks are closed,
    /// and the next selection starts another scan. The unfinished checks emit no event for their
    /// end.
    pub async fn select(&mut self, criterion: &Criterion) -> Result<Arc<ServerEntry>> {
        self.select_other(criterion, &[]).await
    }

    /// Like [`select`](Self::select), with servers to avoid because they failed this operation
    /// before.
    ///
    /// # Errors
    /// See [`select`](Self::select).
    pub async fn select_other(
        &mut self,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> Result<Arc<ServerEntry>> {
        self.select_by(self.deadline(), criterion, deprioritized)
            .await
    }

    /// Like [`select_other`](Self::select_other), with a deadline instead of `timeoutMS`.
    ///
    /// # Errors
    /// See [`select`](Self::select).
    pub async fn select_by(
        &mut self,
        deadline: impl Into<Deadline>,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> Result<Arc<ServerEntry>> {
        if self.is_closed {
            return Err(ErrorKind::TopologyClosed.into());
        }
        current_runtime()?;
        let begun = Instant::now();
        let deadline = self.bounded(deadline.into());
        let until = deadline.within(Some(self.selection_timeout)).moment();
        let until = until.map(Instant::into_std);
        let mut selection = self.scan.select(now(), until, self.try_once);
        loop {
            match selection.turn(&self.scan, now()) {
                Turn::Scan(at) => {
                    self.establishers.transport.runtime()?;
                    let may_scan = deadline.bound(sleep_until(Instant::from_std(at))).await;
                    if may_scan.is_err() || deadline.is_over() {
                        return Err(self.no_suitable_server(criterion, begun));
                    }
                    self.scan(deadline).await?;
                }
                Turn::Look => {
                    let found = self.index.select(criterion, deprioritized, system_random());
                    if let Ok(Some(entry)) = found {
                        return Ok(entry.clone());
                    }
                    selection.missed(&mut self.scan);
                    // Waiting does not help against an error.
                    found.map_err(|error| ErrorKind::ServerSelection(Arc::new(error)))?;
                }
                Turn::GiveUp => return Err(self.no_suitable_server(criterion, begun)),
            }
        }
    }

    fn no_suitable_server(&self, criterion: &Criterion, begun: Instant) -> Error {
        let error = self.index.no_suitable_server(criterion, begun.elapsed());
        ErrorKind::ServerSelection(Arc::new(error)).into()
    }

    /// The deadline of an operation that begins now (`timeoutMS`).
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::never().within(self.timeout)
    }

    /// Bounds a selection, and the preparation of a connection after it, if `connectTimeoutMS` does
    /// not.
    pub(crate) fn bounded(&self, deadline: Deadline) -> Deadline {
        match self.establishers.connect_timeout {
            Some(_) => deadline,
            None => deadline.within(Some(self.selection_timeout)),
        }
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
        self.establishers.metadata.append([driver_info])
    }

    /// Labels the error of what precedes a command.
    pub(super) fn label_check_out(&self, error: Error) -> Error {
        error.of_check_out(self.establishers.retries_writes)
    }

    /// Tells of an error on a connection of the application's, or of a command on one: the server
    /// may be marked unknown, and the next selection may scan.
    ///
    /// Specification: server discovery and monitoring, application errors.
    pub fn handle_error(&mut self, error: ApplicationError) {
        let server = error.server.clone();
        self.note_error(error);
        self.sweep(&server);
    }

    /// Like [`handle_error`](Self::handle_error), but does not close a connection at once. A
    /// connection that must be closed is not used again.
    pub(crate) fn note_error(&mut self, error: ApplicationError) {
        self.apply(Input::ApplicationError(error));
    }

    /// Closes a server's connection if it must not be used again.
    pub(crate) fn sweep(&mut self, server: &ServerAddress) {
        if let Some(member) = self.members.get_mut(server) {
            member.link.take_if(|link| link.is_over());
        }
    }

    /// Closes all connections permanently. A second call does nothing. Dropping the topology does
    /// the same.
    pub fn close(&mut self) {
        if !std::mem::replace(&mut self.is_closed, true) && self.is_open() {
            self.apply(Input::Close);
            self.members.clear();
        }
    }

    pub(crate) fn member_mut(&mut self, server: &ServerAddress) -> Option<&mut Member> {
        self.members.get_mut(server)
    }

    fn apply(&mut self, input: Input) {
        let transition = apply(&self.settings, &self.description, input);
        if !Arc::ptr_eq(&self.description, &transition.description) {
            self.description = transition.description;
            self.index = Arc::new(self.index.next(self.description.clone()));
        }
        for effect in transition.effects {
            self.carry_out(effect);
        }
        for event in &transition.events {
            self.publish(event);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::StartMonitor { server } => {
                let member = Member {
                    establisher: Arc::new(self.establishers.server(&server)),
                    link: None,
                    round_trip_time: RoundTripTime::new(),
                    refuses_hello: false,
                };
                self.members.insert(server, member);
            }
            Effect::StopMonitor { server } | Effect::ClosePool { server } => {
                self.members.remove(&server);
            }
            Effect::ClearPool { server, .. } | Effect::CancelCheck { server } => {
                if let Some(member) = self.members.get(&server) {
                    member.establisher.generations.clear();
                }
            }
            Effect::RequestCheck { reason, .. } => self.scan.handle_request(reason),
            // Connections are opened on demand.
            Effect::ReadyPool { .. } => {}
        }
    }

    fn publish(&self, event: &SdamEvent) {
        if let Some(handler) = &self.handler {
            handler(event);
        }
    }
}

impl Drop for OnDemandTopology {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for OnDemandTopology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDemandTopology")
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

/// The current time by Tokio's clock, which tests may pause.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}
