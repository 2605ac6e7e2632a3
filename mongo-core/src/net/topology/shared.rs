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

/// What the waker of a selection's task is called in logs.
const WAKER: &str = "waker";

/// What the topology and its tasks share.
pub(crate) struct Shared {
    /// As they were given: `mongodb+srv` may be still to be looked up.
    pub(super) options: ClientOptions,
    /// With what was looked up for the current or last opening. Written under the lock.
    pub(super) resolved: ArcSwap<ClientOptions>,
    pub(crate) monitoring: Monitoring,
    pub(super) resolver: Option<Arc<dyn DnsResolver>>,
    state: Mutex<State>,
    pub(super) index: ArcSwap<SelectionIndex>,
    /// The index's, to be asked for by itself.
    pub(super) revision: AtomicU64,
    pub(super) changed: watch::Sender<Arc<TopologyDescription>>,
    pub(super) clock: ClusterClock,
    has_handler: bool,
    pub(super) dispatcher: Dispatcher<SdamEvent>,
    /// The runtime for the tasks that the application named.
    named_runtime: Option<Handle>,
    pub(super) tasks: Arc<Tasks>,
    /// Whether it is connected, and no task has ended that was not stopped. Changed under the lock.
    is_running: AtomicBool,
    /// Where [`random`](Self::random) is.
    pub(super) chance: AtomicU64,
}

pub(super) struct State {
    /// Of the current or last opening.
    pub(super) settings: TopologySettings,
    pub(super) phase: Phase,
    pub(super) description: Arc<TopologyDescription>,
    /// In the order of their addresses, so that whatever concerns all replays exactly.
    pub(super) monitors: BTreeMap<ServerAddress, Monitor>,
    /// Of monitors that were removed.
    pub(super) paces: Paces,
    /// The runtime of the tasks of the current opening. It may have ended.
    pub(super) runtime: Option<Handle>,
    pub(super) srv: Option<Srv>,
    pub(super) listeners: Vec<Weak<dyn TopologyListener>>,
}

pub(super) enum Phase {
    Disconnected,
    /// There is no host yet: nothing was opened, and nobody told of it.
    Resolving(FirstLookup),
    Connected,
    Closed,
}

pub(super) enum Ended {
    /// It may be connected again.
    Disconnected,
    Closed,
}

/// What a selection has seen of the first lookup: it fails by the next failure, not by an older one.
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

    /// With what DNS says of a `mongodb+srv` name, once that was looked up. Wait-free.
    pub(crate) fn resolved_options(&self) -> Arc<ClientOptions> {
        self.resolved.load_full()
    }

    /// Whether it is connected, and its tasks are alive as far as is known. Wait-free.
    pub(crate) fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Acquire)
    }

    /// Begins, or starts tasks again that have ended with their runtime or by a panic.
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

    /// Chooses the runtime for the tasks, if it has what they need. To be called without the lock:
    /// what a runtime lacks is found out by a panic.
    fn choose_runtime(&self) -> Result<Handle> {
        let used = self.lock().runtime.clone();
        let runtime = choose([self.named_runtime.clone(), used])?;
        self.check_runtime(&runtime)?;
        Ok(runtime)
    }

    /// Whether a runtime has what monitors need.
    pub(crate) fn check_runtime(&self, runtime: &Handle) -> Result<()> {
        let _entered = runtime.enter();
        self.monitoring.runtime().map(drop)
    }

    /// The first lookup of an opening gave hosts: begin.
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

    /// The first lookup of an opening failed: who waits for a server is told.
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

    /// What polling found for an opening.
    pub(super) fn srv_hosts(self: &Arc<Self>, opening: ObjectId, hosts: Vec<ServerAddress>) {
        let mut writing = self.write();
        let state = &writing.state;
        if state.settings.topology_id == opening && matches!(state.phase, Phase::Connected) {
            writing.apply(Input::SrvHosts(hosts));
            writing.finish();
        }
    }

    /// Nothing suits: every monitor checks as soon as it may, and DNS is asked again. Tasks that
    /// have ended are started again.
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

    /// Nothing suited for as long as could be waited.
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

    /// What an application met.
    pub(crate) fn handle_error(self: &Arc<Self>, error: ApplicationError) {
        self.apply(Input::ApplicationError(error));
    }

    pub(crate) fn advance_cluster_time(&self, cluster_time: &RawDocument) -> bool {
        self.clock.advance(cluster_time)
    }

    /// Runs what must not miss, nor overtake, what listeners are told.
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

    /// What monitor number `id` of a server found, with the event that goes before; nothing of one
    /// that was stopped.
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

    /// The task of monitor number `id` has ended: unless it was stopped, selections that wait start
    /// it again.
    pub(crate) fn monitor_ended(&self, server: &ServerAddress, id: u64) {
        let mut state = self.lock();
        let monitor = state.monitors.get_mut(server);
        if let Some(monitor) = monitor.filter(|monitor| monitor.id() == id) {
            self.queue(monitor.died());
            self.task_died(state);
        }
    }

    /// As [`monitor_ended`](Self::monitor_ended), for the task that looks up records.
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
        // Selections that wait find that out.
        self.notify_subscribers();
        // A handler that panics now would end the process: the next one delivers.
        if !std::thread::panicking() {
            self.dispatcher.deliver();
        }
    }

    pub(super) fn queue(&self, events: impl IntoIterator<Item = SdamEvent>) {
        if self.has_handler || logs::wants_events() {
            self.dispatcher.queue(events);
        }
    }

    /// Ends monitoring, and gives the number of the last task to wait for.
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
        // The next opening chooses anew. It may begin as soon as the lock is released.
        let runtime = state.runtime.take();
        self.is_running.store(false, Ordering::Release);
        self.clock.forget();
        let newest = self.tasks.newest();
        writing.finish();
        // Those that wait for a server look again, and find the topology closed.
        self.notify_subscribers();
        drop((former, runtime));
        newest
    }

    /// Publishes the newest description, and wakes all that follow it: to be called without a lock, because a waker
    /// is an application's and may drop the last topology.
    pub(super) fn notify_subscribers(&self) {
        let _ = guard(WAKER, || {
            // Dropped without the channel's lock, too.
            let (mut index, mut former) = (None, None);
            self.changed.send_modify(|known| {
                // Read under the channel's lock, so that no older one comes after it.
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
