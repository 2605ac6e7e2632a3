mod builder;
mod link;
mod srv;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::builder::Establishers;
use self::link::{Answer, Check, Checked};
use self::srv::Srv;
use crate::ServerAddress;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{
    SdamEvent, ServerHeartbeatFailedEvent, ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
};
use crate::handshake::DriverInfo;
use crate::net::connection::establish::Establisher;
use crate::net::deadline::{Deadline, sleep_until};
use crate::net::dispatcher::Handler;
use crate::net::runtime::current as current_runtime;
use crate::net::transport::dns::system_random;
use crate::net::transport::together::Together;
use crate::sdam::{
    ApplicationError, Effect, Input, MonitorSettings, RoundTripTime, SYSTEM_OVERLOADED_ERROR, Scan,
    SdamError, ServerDescription, ServerType, TopologyDescription, TopologySettings, Turn, apply,
};
use crate::select::{Criterion, SelectionIndex, ServerEntry};
use crate::uri::ClientOptions;

pub use self::builder::OnDemandTopologyBuilder;
pub(crate) use self::link::{Link, LinkState};

/// A deployment that is looked at only when somebody selects a server: for functions as a service,
/// command-line tools, and processes that fork. There is no background task.
///
/// A selection first scans all servers, side by side on its own task, if what is known is older
/// than `heartbeatFrequencyMS` (60 s in this mode), if an application's error said so, or if no
/// suitable server is known; at most every 500 ms. A scan ends when every server has answered or
/// failed, those too that are discovered meanwhile. It takes up to `connectTimeoutMS`, twice that
/// where a server that was known has to be tried again. A server that can't be reached is left alone
/// for 5 s then.
///
/// `serverSelectionTryOnce` is true by default: a selection then takes up to the time of one scan,
/// and 500 ms, whatever `serverSelectionTimeoutMS` says. If it is false, a selection takes up to
/// that time-out, and the time of a scan. Where `connectTimeoutMS` is 0, `serverSelectionTimeoutMS`
/// bounds all of a selection.
///
/// `timeoutMS`, or the deadline of [`select_by`](Self::select_by), bounds all of a selection, scans
/// included. A server whose check it cuts short is unknown, and is checked again by the next scan.
///
/// A scan depends on no credential, and its heartbeats are no command events.
///
/// The hosts of `mongodb+srv` are looked up before the first scan, within its time; a look-up that
/// fails is the error of the selection, and the next one repeats it. As long as the topology is
/// sharded, or not known to be anything else, a scan first looks the records up again once their time
/// to live, and at least 60 s, has passed. With `build_client`, `authSource` and `replicaSet` of a TXT
/// record hold.
///
/// It owns one connection for each server, kept from scan to scan. Dropping it closes them.
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
    /// `timeoutMS`; `None` is no bound.
    timeout: Option<Duration>,
    try_once: bool,
    is_closed: bool,
    handler: Option<Handler<SdamEvent>>,
    establishers: Establishers,
    /// Where there are records to look up.
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
    /// A topology of the options' hosts, all else by default. No I/O.
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

    /// What was known after the last scan, prepared for selection.
    pub fn snapshot(&self) -> &Arc<SelectionIndex> {
        &self.index
    }

    /// What was known after the last scan.
    pub fn description(&self) -> &Arc<TopologyDescription> {
        &self.description
    }

    /// Selects a server, after a scan if there is need for one. How long that takes is said
    /// [above](Self).
    ///
    /// # Errors
    /// [`ErrorKind::ServerSelection`]: why there is none, with each server's own last failure;
    /// [`ErrorKind::Srv`], or a time-out that names the wait for DNS: there is no host yet;
    /// [`ErrorKind::TopologyClosed`]; [`ErrorKind::Configuration`] outside of a Tokio runtime, and on
    /// one without a timer, or without the I/O driver that the built-in connectors need.
    ///
    /// # Cancellation
    /// Dropped in a scan, it closes the connections whose checks were under way, and the next
    /// selection scans anew. The checks' end has no event then.
    pub async fn select(&mut self, criterion: &Criterion) -> Result<Arc<ServerEntry>> {
        self.select_other(criterion, &[]).await
    }

    /// [`select`](Self::select), with servers to avoid: those that failed this operation before.
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

    /// [`select_other`](Self::select_other) by a deadline of the caller's, whatever `timeoutMS`
    /// says.
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
                    // What no waiting helps against.
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

    /// By when an operation that begins now has to end (`timeoutMS`).
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::never().within(self.timeout)
    }

    /// Bounds a selection, and what makes a connection ready after it, if `connectTimeoutMS` does
    /// not.
    pub(crate) fn bounded(&self, deadline: Deadline) -> Deadline {
        match self.establishers.connect_timeout {
            Some(_) => deadline,
            None => deadline.within(Some(self.selection_timeout)),
        }
    }

    /// Appends who wraps this client to the `client` document of handshakes: connections made
    /// from now on say it, those that are there stay as they are. Says whether that is new: what was
    /// appended before is not appended twice.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration): there is a `|` in it, or the
    /// names and versions would not fit into 512 bytes any more. Nothing is appended then.
    ///
    /// Specification: handshake, "Metadata updates after MongoClient initialization".
    pub fn append_metadata(&self, driver_info: DriverInfo) -> Result<bool> {
        self.establishers.metadata.append(driver_info)
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

    /// [`handle_error`](Self::handle_error), without closing a connection: if it is to be, it is not
    /// used again.
    pub(crate) fn note_error(&mut self, error: ApplicationError) {
        self.apply(Input::ApplicationError(error));
    }

    /// Closes a server's connection if it is not to be used again.
    pub(crate) fn sweep(&mut self, server: &ServerAddress) {
        if let Some(member) = self.members.get_mut(server) {
            member.link.take_if(|link| link.is_over());
        }
    }

    /// Closes all connections, for good. Does nothing the second time. Dropping does the same.
    pub fn close(&mut self) {
        if !std::mem::replace(&mut self.is_closed, true) && self.is_open() {
            self.apply(Input::Close);
            self.members.clear();
        }
    }

    /// Checks all servers, side by side, no longer than until `deadline`.
    async fn scan(&mut self, deadline: Deadline) -> Result<()> {
        self.scan.begin(now());
        self.look_up(deadline).await?;
        let mut running = Together::new();
        let mut is_cut_short = false;
        loop {
            for server in self.scan.next_checks(&self.description) {
                if let Some(check) = self.begin_check(&server) {
                    running.push(server, check.run(deadline));
                }
            }
            // Nothing is lost by a drop here but the checks under way.
            let Some((server, checked)) = running.next().await else {
                break;
            };
            is_cut_short |= checked.is_cut_short;
            self.end_check(&server, checked);
            running.retain(|server| self.members.contains_key(server));
        }
        match is_cut_short {
            true => self.scan.end_early(),
            false => self.scan.end(now()),
        }
        Ok(())
    }

    /// Checks one server whose connection was lost or idle. Gives why that failed.
    pub(crate) async fn check(
        &mut self,
        server: &ServerAddress,
        deadline: Deadline,
    ) -> Option<Error> {
        let checked = self.begin_check(server)?.run(deadline).await;
        self.end_check(server, checked)
    }

    fn begin_check(&mut self, server: &ServerAddress) -> Option<Check> {
        let topology_id = self.settings.topology_id;
        let declares_api = self.establishers.server_api.is_some();
        let hello_ok = self.description.server(server)?.hello_ok;
        let member = self.members.get_mut(server)?;
        let link = member.link.take();
        let id = self.next_connection;
        self.next_connection += 1;
        let is_modern = hello_ok && !member.refuses_hello || declares_api;
        let settings = MonitorSettings::new(topology_id, server.clone());
        let may_choose = is_modern && !declares_api;
        let check = Check {
            establisher: member.establisher.clone(),
            id,
            hello: settings.hello(is_modern, None),
            legacy_hello: may_choose.then(|| settings.hello(false, None)),
            link,
        };
        let event = ServerHeartbeatStartedEvent {
            topology_id,
            address: server.clone(),
            driver_connection_id: check.link.as_ref().map(|link| link.id),
            server_connection_id: check.link.as_ref().and_then(|link| link.server_id),
            awaited: false,
        };
        self.publish(&SdamEvent::ServerHeartbeatStarted(event));
        Some(check)
    }

    fn end_check(&mut self, server: &ServerAddress, checked: Checked) -> Option<Error> {
        let Checked {
            outcome,
            duration,
            is_cut_short,
        } = checked;
        let Answer {
            reply,
            link,
            refuses_hello,
        } = match outcome {
            Ok(answer) => answer,
            Err(error) => {
                self.publish_failure(server, None, duration, &error);
                match is_cut_short {
                    // It had too little time to count as out of reach.
                    true => self.mark_unknown(server, error.clone()),
                    false => self.fail_check(server, None, error.clone()),
                }
                return Some(error);
            }
        };
        let mut description = ServerDescription::from_hello(server.clone(), &reply, now());
        if let Some(SdamError::Failed(error)) = description.error {
            self.publish_failure(server, link.as_ref(), duration, &error);
            self.fail_check(server, link, error.clone());
            return Some(error);
        }
        let member = self.members.get_mut(server)?;
        member.refuses_hello |= refuses_hello;
        member.round_trip_time.record(duration);
        description.round_trip_time = member.round_trip_time.average();
        description.min_round_trip_time = Some(member.round_trip_time.minimum());
        let event = ServerHeartbeatSucceededEvent {
            topology_id: self.settings.topology_id,
            address: server.clone(),
            driver_connection_id: link.as_ref().map(|link| link.id),
            server_connection_id: link.as_ref().and_then(|link| link.server_id),
            duration,
            reply,
            awaited: false,
        };
        member.link = link;
        self.scan.handle_answer(server);
        self.publish(&SdamEvent::ServerHeartbeatSucceeded(event));
        self.apply(Input::Check(Arc::new(description)));
        None
    }

    fn publish_failure(
        &self,
        server: &ServerAddress,
        link: Option<&Link>,
        duration: Duration,
        error: &Error,
    ) {
        let event = ServerHeartbeatFailedEvent {
            topology_id: self.settings.topology_id,
            address: server.clone(),
            driver_connection_id: link.map(|link| link.id),
            server_connection_id: link.and_then(|link| link.server_id),
            duration,
            failure: error.clone(),
            awaited: false,
        };
        self.publish(&SdamEvent::ServerHeartbeatFailed(event));
    }

    fn fail_check(&mut self, server: &ServerAddress, link: Option<Link>, error: Error) {
        let was_known = self
            .description
            .server(server)
            .is_some_and(|known| known.server_type != ServerType::Unknown);
        let Some(member) = self.members.get_mut(server) else {
            return;
        };
        // It has too much to do, and is what it was.
        if was_known && error.has_label(SYSTEM_OVERLOADED_ERROR) {
            member.link = link;
            return self.scan.handle_answer(server);
        }
        member.round_trip_time.reset();
        self.scan.handle_failure(server, &error, was_known, now());
        self.mark_unknown(server, error);
    }

    /// As a failed check does.
    pub(crate) fn mark_unknown(&mut self, server: &ServerAddress, error: Error) {
        let failed = ServerDescription::failed(server.clone(), error, now());
        self.apply(Input::Check(Arc::new(failed)));
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
            // A connection is opened when it is needed.
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

/// Tokio's clock, which tests may hold.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}
