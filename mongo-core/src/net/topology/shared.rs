use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bson::RawDocument;
use bson::oid::ObjectId;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::cluster_time::ClusterClock;
use super::listener::TopologyListener;
use super::logs;
use super::paces::Paces;
use super::srv_state::{FirstLookup, Srv};
use crate::ServerAddress;
use crate::callback::{WAKER, guard};
use crate::error::{Error, ErrorKind, Result, Wait};
use crate::event::SdamEvent;
use crate::net::background::Tasks;
use crate::net::dispatcher::{Dispatcher, Handler};
use crate::net::topology::monitor::{Monitor, Monitoring};
use crate::net::transport::dns::DnsResolver;
use crate::operation::ClusterTime;
use crate::sdam::{TopologyDescription, TopologySettings};
use crate::select::{Criterion, SelectionIndex, SelectionOptions};
use crate::sync::lock;
use crate::uri::ClientOptions;

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
    /// Wakes selections, in the order in which they began to wait or were last woken. The channel's
    /// order is random.
    pub(super) woken: Notify,
    /// The number of selections that wait.
    pub(super) waiting: AtomicUsize,
    pub(super) clock: ClusterClock,
    has_handler: bool,
    pub(super) dispatcher: Dispatcher<SdamEvent>,
    /// The runtime that the application named for the tasks.
    pub(super) named_runtime: Option<Handle>,
    pub(super) tasks: Arc<Tasks>,
    /// Whether it is connected and no task has ended without being stopped. Changed under the lock.
    pub(super) is_running: AtomicBool,
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
    pub(super) failures: Option<u64>,
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
            woken: Notify::new(),
            waiting: AtomicUsize::new(0),
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

    /// Checks that a runtime has the drivers that monitors need.
    pub(crate) fn check_runtime(&self, runtime: &Handle) -> Result<()> {
        let _entered = runtime.enter();
        self.monitoring.runtime().map(drop)
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

    pub(crate) fn newest_cluster_time(&self) -> Option<Arc<ClusterTime>> {
        self.clock.newest()
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

    /// Likewise, for the task that starts the next group of an opening's monitors.
    pub(super) fn group_ended(&self, opening: ObjectId) {
        let state = self.lock();
        if state.settings.topology_id == opening && matches!(state.phase, Phase::Connected) {
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
        let _ = guard(WAKER, || self.woken.notify_waiters());
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
