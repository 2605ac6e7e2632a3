use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bson::RawDocument;
use bson::oid::ObjectId;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::cluster_time::ClusterClock;
use super::listener::TopologyListener;
use super::logs;
use super::paces::Paces;
use super::srv::{FirstLookup, Srv};
use super::writing::Writing;
use crate::ServerAddress;
use crate::callback::guard;
use crate::error::{Error, ErrorKind, Result, Wait};
use crate::event::SdamEvent;
use crate::net::background::{Tasks, choose};
use crate::net::dispatcher::{Dispatcher, Handler};
use crate::net::topology::monitor::{Monitor, Monitoring};
use crate::net::transport::dns::DnsResolver;
use crate::sdam::{ApplicationError, Input, TopologyDescription, TopologySettings};
use crate::select::{Criterion, SelectionIndex, SelectionOptions};
use crate::uri::ClientOptions;

/// The name of a selection's waker in logs.
const WAKER: &str = "waker";

/// The state that the topology and its tasks share.
pub(crate) struct Shared {
    /// The options as given. With `mongodb+srv` they may be unresolved.
    pub(super) options: ClientOptions,
    /// The options as resolved for the current or last opening. Written under the lock.
    pub(super) resolved: ArcSwap<ClientOptions>,
    pub(crate) monitoring: Monitoring,
    pub(super) resolver: Option<Arc<dyn DnsResolver>>,
    state: Mutex<State>,
    pub(super) index: ArcSwap<SelectionIndex>,
    /// The revision of the index, readable without the index.
    pub(super) revision: AtomicU64,
    pub(super) changed: watch::Sender<Arc<TopologyDescription>>,
    pub(super) clock: ClusterClock,
    has_handler: bool,
    pub(super) dispatcher: Dispatcher<SdamEvent>,
    /// The runtime that the application named for the tasks.
    named_runtime: Option<Handle>,
    pub(super) tasks: Arc<Tasks>,
    /// Whether it is connected and no task has ended without being stopped. Changed under the lock.
    is_running: AtomicBool,
    /// The state of [`random`](Self::random).
    pub(super) chance: AtomicU64,
}

pub(super) struct State {
    /// The settings of the current or last opening.
    pub(super) settings: TopologySettings,
    pub(super) phase: Phase,
    pub(super) description: Arc<TopologyDescription>,
    /// Ordered by address, so that operations on all monitors are reproducible.
    pub(super) monitors: BTreeMap<ServerAddress, Monitor>,
    /// The paces of removed monitors.
    pub(super) paces: Paces,
    /// The runtime of the tasks of the current opening. It may have ended.
    pub(super) runtime: Option<Handle>,
    pub(super) srv: Option<Srv>,
    pub(super) listeners: Vec<Weak<dyn TopologyListener>>,
}

pub(super) enum Phase {
    Disconnected,
    /// There is no host yet: nothing was opened, and there are no events.
    Resolving(FirstLookup),
    Connected,
    Closed,
}

pub(super) enum Ended {
    /// It may be connected again.
    Disconnected,
    Closed,
}

/// The failures of the first lookup that a selection has seen. The selection fails with the next
/// failure, not with an older one.
#[derive(Default)]
pub(super) struct Patience {
    failures: Option<u64>,
}

impl Shared {
    pub(super) fn new(
        options: ClientOptions,
        monitoring: Monitoring,
        resolver: Option<Arc<dyn DnsResolver>>,
        handler: Option<Handler<SdamEvent>>,
        selection: SelectionOptions,
        named_runtime: Option<Handle>,
        random_seed: u64,
    ) -> Self {
        let description = Arc::new(TopologyDescription::default());
        let index = SelectionIndex::new(description.clone(), selection);
        Self {
            monitoring,
            resolver,
            state: Mutex::new(State {
                settings: TopologySettings::from_options(ObjectId::new(), &options),
                phase: Phase::Disconnected,
                description: description.clone(),
                monitors: BTreeMap::new(),
                paces: Paces::default(),
                runtime: None,
                srv: None,
                listeners: Vec::new(),
            }),
            revision: AtomicU64::new(index.revision()),
            index: ArcSwap::from_pointee(index),
            changed: watch::Sender::new(description),
            clock: ClusterClock::default(),
            has_handler: handler.is_some(),
            dispatcher: Dispatcher::new(Some(Arc::new(move |event| {
                logs::event(event);
                if let Some(handler) = &handler {
                    handler(event);
                }
            }))),
            named_runtime,
            tasks: Arc::default(),
            is_running: AtomicBool::new(false),
            chance: AtomicU64::new(random_seed),
            resolved: ArcSwap::from_pointee(options.clone()),
            options,
        }
    }

    pub(super) fn index(&self) -> arc_swap::Guard<Arc<SelectionIndex>> {
        self.index.load()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<TopologyDescription>> {
        self.changed.subscribe()
    }

    /// The options; with `mongodb+srv`, as resolved once DNS has answered. Wait-free.
    pub(crate) fn resolved_options(&self) -> Arc<ClientOptions> {
        self.resolved.load_full()
    }

    /// Whether it is connected and no task is known to have ended. Wait-free.
    pub(crate) fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Acquire)
    }

    /// Connects, or restarts tasks that have ended with their runtime or by a panic.
    pub(super) fn connect(self: &Arc<Self>) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let runtime = self.choose_runtime()?;
        let mut writing = self.write();
        match writing.state.phase {
            Phase::Connected | Phase::Resolving(_) => writing.revive(),
            Phase::Closed => return Err(ErrorKind::TopologyClosed.into()),
            Phase::Disconnected => writing.open(),
        }
        writing.spawn_on(runtime);
        self.is_running.store(true, Ordering::Release);
        writing.finish();
        Ok(())
    }

    /// Chooses the runtime for the tasks, and checks that it has the drivers that they need. Must
    /// be called without the lock: a missing driver is detected by a panic.
    fn choose_runtime(&self) -> Result<Handle> {
        let used = self.lock().runtime.clone();
        let runtime = choose([self.named_runtime.clone(), used])?;
        self.check_runtime(&runtime)?;
        Ok(runtime)
    }

    /// Checks that a runtime has the drivers that monitors need.
    pub(crate) fn check_runtime(&self, runtime: &Handle) -> Result<()> {
        let _entered = runtime.enter();
        self.monitoring.runtime().map(drop)
    }

    /// The first lookup of an opening returned hosts: starts monitoring.
    pub(super) fn resolved(self: &Arc<Self>, opening: ObjectId, options: &ClientOptions) {
        let mut writing = self.write();
        let state = &mut *writing.state;
        if !matches!(state.phase, Phase::Resolving(_)) || state.settings.topology_id != opening {
            return;
        }
        let former = std::mem::replace(&mut state.phase, Phase::Connected);
        state.settings = TopologySettings::from_options(opening, options);
        let unresolved = self.resolved.swap(Arc::new(options.clone()));
        writing.apply(Input::Connect);
        writing.finish();
        drop((former, unresolved));
    }

    /// The first lookup of an opening failed: fails the waiting selections.
    pub(super) fn not_resolved(&self, opening: ObjectId, error: Error) {
        let mut former = Some(error);
        let mut state = self.lock();
        let is_current = state.settings.topology_id == opening;
        if let (Phase::Resolving(first), true) = (&mut state.phase, is_current) {
            first.failures += 1;
            std::mem::swap(&mut first.failure, &mut former);
            drop(state);
            self.notify_subscribers();
        }
    }

    /// Applies the hosts that SRV polling found for an opening.
    pub(super) fn srv_hosts(self: &Arc<Self>, opening: ObjectId, hosts: Vec<ServerAddress>) {
        let mut writing = self.write();
        let state = &writing.state;
        if state.settings.topology_id == opening && matches!(state.phase, Phase::Connected) {
            writing.apply(Input::SrvHosts(hosts));
            writing.finish();
        }
    }

    /// There is no suitable server: requests a check from every monitor and another DNS lookup, and
    /// restarts tasks that have ended.
    pub(super) fn request_checks(self: &Arc<Self>, patience: &mut Patience) -> Result<()> {
        let mut signals = Vec::new();
        let is_connected = {
            let state = self.lock();
            match &state.phase {
                Phase::Closed => return Err(ErrorKind::TopologyClosed.into()),
                Phase::Resolving(first) => {
                    let seen = *patience.failures.get_or_insert(first.failures);
                    match &first.failure {
                        Some(failure) if first.failures > seen => return Err(failure.clone()),
                        Some(_) | None => signals.push(first.request.clone()),
                    }
                }
                Phase::Disconnected | Phase::Connected => {}
            }
            signals.extend(state.monitors.values().map(Monitor::check_request));
            !matches!(state.phase, Phase::Disconnected)
        };
        signals.iter().for_each(|signal| signal.notify_one());
        match is_connected && !self.is_running() {
            true => self.connect(),
            false => Ok(()),
        }
    }

    /// The error of a selection that found no suitable server in time.
    pub(super) fn no_suitable_server(&self, criterion: &Criterion, after: Duration) -> Error {
        let state = self.lock();
        if let (Phase::Resolving(first), Some(srv)) = (&state.phase, &self.options.srv) {
            let unanswered = || first.lookup.unanswered(srv).into();
            let cause = first.failure.clone().unwrap_or_else(unanswered);
            return Error::timeout(Wait::Dns, after).caused_by(Some(cause));
        }
        let is_disconnected = matches!(state.phase, Phase::Disconnected);
        drop(state);
        let error = self.index.load().no_suitable_server(criterion, after);
        let error = Error::from(ErrorKind::ServerSelection(Arc::new(error)));
        let cause = || Error::configuration("the topology is not connected");
        error.caused_by(is_disconnected.then(cause))
    }

    /// Applies an error of an application.
    pub(crate) fn handle_error(self: &Arc<Self>, error: ApplicationError) {
        self.apply(Input::ApplicationError(error));
    }

    pub(crate) fn advance_cluster_time(&self, cluster_time: &RawDocument) -> bool {
        self.clock.advance(cluster_time)
    }

    /// Runs a closure under the lock, in order with the notifications of listeners.
    pub(crate) fn with_description<R>(&self, run: impl FnOnce(&SelectionIndex) -> R) -> R {
        let state = self.lock();
        let result = run(&self.index.load());
        drop(state);
        result
    }

    pub(super) fn listen(&self, listener: Weak<dyn TopologyListener>) {
        self.lock().listeners.push(listener);
    }

    fn apply(self: &Arc<Self>, input: Input) {
        let mut writing = self.write();
        writing.apply(input);
        writing.finish();
    }

    /// Applies a result of monitor number `id` of a server, after queueing its event. Ignored if
    /// that monitor was stopped.
    pub(crate) fn report(
        self: &Arc<Self>,
        server: &ServerAddress,
        id: u64,
        event: Option<SdamEvent>,
        input: Option<Input>,
    ) {
        let mut writing = self.write();
        let monitor = writing.state.monitors.get_mut(server);
        let Some(monitor) = monitor.filter(|monitor| monitor.id() == id) else {
            return;
        };
        if let Some(event) = &event {
            monitor.note(event);
        }
        self.queue(event);
        if let Some(input) = input {
            writing.apply(input);
        }
        writing.finish();
    }

    /// The task of monitor number `id` has ended. Unless it was stopped, waiting selections restart
    /// it.
    pub(crate) fn monitor_ended(&self, server: &ServerAddress, id: u64) {
        let mut state = self.lock();
        let monitor = state.monitors.get_mut(server);
        if let Some(monitor) = monitor.filter(|monitor| monitor.id() == id) {
            self.queue(monitor.died());
            self.task_died(state);
        }
    }

    /// Like [`monitor_ended`](Self::monitor_ended), for the task that looks up records.
    pub(super) fn srv_ended(&self, number: u64) {
        let mut state = self.lock();
        if let Some(srv) = state.srv.as_mut().filter(|srv| srv.number == number) {
            srv.is_dead = true;
            self.task_died(state);
        }
    }

    fn task_died(&self, state: MutexGuard<'_, State>) {
        self.is_running.store(false, Ordering::Release);
        drop(state);
        // Waiting selections notice that.
        self.notify_subscribers();
        // A handler that panics now would abort the process: the events are left to the next
        // delivery.
        if !std::thread::panicking() {
            self.dispatcher.deliver();
        }
    }

    pub(super) fn queue(&self, events: impl IntoIterator<Item = SdamEvent>) {
        if self.has_handler || logs::wants_events() {
            self.dispatcher.queue(events);
        }
    }

    /// Stops monitoring, and returns the number of the last task to wait for.
    pub(super) fn end(self: &Arc<Self>, ended: Ended) -> u64 {
        let mut writing = self.write();
        if matches!(writing.state.phase, Phase::Connected) {
            writing.apply(Input::Close);
        }
        writing.stop_srv();
        let state = &mut *writing.state;
        let next = match (ended, &state.phase) {
            (Ended::Closed, _) | (Ended::Disconnected, Phase::Closed) => Phase::Closed,
            (Ended::Disconnected, Phase::Disconnected | Phase::Resolving(_) | Phase::Connected) => {
                Phase::Disconnected
            }
        };
        let former = std::mem::replace(&mut state.phase, next);
        // The next opening chooses a runtime again. It may start as soon as the lock is released.
        let runtime = state.runtime.take();
        self.is_running.store(false, Ordering::Release);
        self.clock.forget();
        let newest = self.tasks.newest();
        writing.finish();
        // Waiting selections retry, and find the topology closed.
        self.notify_subscribers();
        drop((former, runtime));
        newest
    }

    /// Publishes the newest description and wakes its subscribers. Must be called without a lock,
    /// because a waker is application code and may drop the last topology.
    pub(super) fn notify_subscribers(&self) {
        let _ = guard(WAKER, || {
            // Also dropped without the channel's lock.
            let (mut index, mut former) = (None, None);
            self.changed.send_modify(|known| {
                // Read under the channel's lock, so that no older one is published after it.
                let newest = index.insert(self.index.load_full()).topology();
                former = Some(std::mem::replace(known, newest.clone()));
            });
        });
    }

    fn write(self: &Arc<Self>) -> Writing<'_> {
        Writing::new(self, self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
