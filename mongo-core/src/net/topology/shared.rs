use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bson::RawDocument;
use bson::oid::ObjectId;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::cluster_time::ClusterClock;
use super::listener::{Clear, TopologyListener};
use super::logs;
use super::srv::{FirstLookup, SrvTask};
use crate::ServerAddress;
use crate::error::{Error, ErrorKind, Result, Wait};
use crate::event::SdamEvent;
use crate::net::dispatcher::{Dispatcher, Handler};
use crate::net::dns::DnsResolver;
use crate::net::monitor::{Monitor, Monitoring};
use crate::net::runtime;
use crate::sdam::{
    ApplicationError, Effect, Input, SdamError, TopologyDescription, TopologySettings, apply,
};
use crate::select::{Criterion, SelectionIndex, SelectionOptions};
use crate::uri::{ClientOptions, SrvError};

/// What the topology and its tasks share.
pub(crate) struct Shared {
    /// As they were given: `mongodb+srv` may be still to be looked up.
    pub(super) options: ClientOptions,
    pub(in crate::net) monitoring: Monitoring,
    resolver: Option<Arc<dyn DnsResolver>>,
    state: Mutex<State>,
    pub(super) index: ArcSwap<SelectionIndex>,
    /// The index's, to be asked for by itself.
    pub(super) revision: AtomicU64,
    changed: watch::Sender<Arc<TopologyDescription>>,
    pub(super) clock: ClusterClock,
    has_handler: bool,
    dispatcher: Dispatcher<SdamEvent>,
    listeners: Mutex<Vec<Weak<dyn TopologyListener>>>,
    /// Where [`random`](Self::random) is.
    pub(super) chance: AtomicU64,
}

struct State {
    /// Of the current or last opening.
    settings: TopologySettings,
    /// With what was looked up for it.
    resolved: Arc<ClientOptions>,
    phase: Phase,
    description: Arc<TopologyDescription>,
    /// In the order of their addresses, so that whatever concerns all replays exactly.
    monitors: BTreeMap<ServerAddress, Monitor>,
    next_monitor: u64,
    srv: Option<JoinHandle<()>>,
    /// Tasks that were told to end, and are still to be awaited.
    ending: Vec<JoinHandle<()>>,
}

enum Phase {
    Disconnected,
    /// There is no host yet: nothing was opened, and nobody told of it.
    Resolving(Handle, FirstLookup),
    Connected(Handle),
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
        random_seed: u64,
    ) -> Self {
        let description = Arc::new(TopologyDescription::default());
        let index = SelectionIndex::new(description.clone(), selection);
        Self {
            monitoring,
            resolver,
            state: Mutex::new(State {
                settings: TopologySettings::from_options(ObjectId::new(), &options),
                resolved: Arc::new(options.clone()),
                phase: Phase::Disconnected,
                description: description.clone(),
                monitors: BTreeMap::new(),
                next_monitor: 0,
                srv: None,
                ending: Vec::new(),
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
            listeners: Mutex::default(),
            chance: AtomicU64::new(random_seed),
            options,
        }
    }

    pub(super) fn index(&self) -> arc_swap::Guard<Arc<SelectionIndex>> {
        self.index.load()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<TopologyDescription>> {
        self.changed.subscribe()
    }

    pub(super) fn resolved_options(&self) -> Arc<ClientOptions> {
        self.lock().resolved.clone()
    }

    pub(super) fn connect(self: &Arc<Self>, runtime: Handle) -> Result<()> {
        let mut state = self.lock();
        match state.phase {
            Phase::Connected(_) | Phase::Resolving(..) => return Ok(()),
            Phase::Closed => return Err(ErrorKind::TopologyClosed.into()),
            Phase::Disconnected => {}
        }
        let opening = ObjectId::new();
        state.settings = TopologySettings::from_options(opening, &self.options);
        let first = FirstLookup::default();
        if let Some(resolver) = &self.resolver {
            let task = SrvTask {
                shared: self.clone(),
                resolver: resolver.clone(),
                opening,
                request: first.request.clone(),
            };
            state.srv = Some(runtime.spawn(task.run()));
        }
        if self.options.hosts.is_empty() {
            state.phase = Phase::Resolving(runtime, first);
            return Ok(());
        }
        state.phase = Phase::Connected(runtime);
        self.apply_locked(&mut state, Input::Connect);
        drop(state);
        self.settle();
        Ok(())
    }

    /// The current runtime, if it is one to [`connect`](Self::connect) on.
    pub(crate) fn runtime(&self) -> Result<Handle> {
        // Not under the lock: what is missing on a runtime is found out by a panic.
        let is_disconnected = matches!(self.lock().phase, Phase::Disconnected);
        match is_disconnected {
            true => self.monitoring.runtime(),
            false => runtime::current(),
        }
    }

    /// The first lookup of an opening gave hosts: begin.
    pub(super) fn resolved(self: &Arc<Self>, opening: ObjectId, options: &ClientOptions) {
        let mut state = self.lock();
        let Phase::Resolving(runtime, _) = &state.phase else {
            return;
        };
        if state.settings.topology_id != opening {
            return;
        }
        state.phase = Phase::Connected(runtime.clone());
        state.settings = TopologySettings::from_options(opening, options);
        state.resolved = Arc::new(options.clone());
        self.apply_locked(&mut state, Input::Connect);
        drop(state);
        self.settle();
    }

    /// The first lookup of an opening failed: who waits for a server is told.
    pub(super) fn not_resolved(&self, opening: ObjectId, error: Error) {
        let mut state = self.lock();
        let is_current = state.settings.topology_id == opening;
        if let (Phase::Resolving(_, first), true) = (&mut state.phase, is_current) {
            first.failures += 1;
            first.failure = Some(error);
            drop(state);
            self.changed.send_modify(|_| {});
        }
    }

    /// What polling found for an opening.
    pub(super) fn srv_hosts(self: &Arc<Self>, opening: ObjectId, hosts: Vec<ServerAddress>) {
        let mut state = self.lock();
        if state.settings.topology_id == opening && matches!(state.phase, Phase::Connected(_)) {
            self.apply_locked(&mut state, Input::SrvHosts(hosts));
            drop(state);
            self.settle();
        }
    }

    /// Nothing suits: every monitor checks as soon as it may, and DNS is asked again.
    pub(super) fn request_checks(&self, patience: &mut Patience) -> Result<()> {
        let state = self.lock();
        match &state.phase {
            Phase::Closed => return Err(ErrorKind::TopologyClosed.into()),
            Phase::Resolving(_, first) => {
                let seen = *patience.failures.get_or_insert(first.failures);
                match &first.failure {
                    Some(failure) if first.failures > seen => return Err(failure.clone()),
                    Some(_) | None => first.request.notify_one(),
                }
            }
            Phase::Disconnected | Phase::Connected(_) => {}
        }
        state.monitors.values().for_each(Monitor::request_check);
        Ok(())
    }

    /// Nothing suited for as long as could be waited.
    pub(super) fn no_suitable_server(&self, criterion: &Criterion, after: Duration) -> Error {
        let state = self.lock();
        if let (Phase::Resolving(_, first), Some(srv)) = (&state.phase, &self.options.srv) {
            let unanswered = || SrvError::Unanswered(srv.host_name.clone()).into();
            let cause = first.failure.clone().unwrap_or_else(unanswered);
            return Error::timeout(Wait::Dns, after).caused_by(Some(cause));
        }
        drop(state);
        let error = self.index.load().no_suitable_server(criterion, after);
        ErrorKind::ServerSelection(Arc::new(error)).into()
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
        let _state = self.lock();
        self.listeners_locked().push(listener);
    }

    fn listeners_locked(&self) -> MutexGuard<'_, Vec<Weak<dyn TopologyListener>>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> Vec<Arc<dyn TopologyListener>> {
        let mut listeners = self.listeners_locked();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.iter().filter_map(Weak::upgrade).collect()
    }

    /// What is to be done without the lock.
    fn settle(&self) {
        self.dispatcher.deliver();
        self.listeners()
            .iter()
            .for_each(|listener| listener.settle());
    }

    fn apply(self: &Arc<Self>, input: Input) {
        let mut state = self.lock();
        self.apply_locked(&mut state, input);
        drop(state);
        self.settle();
    }

    /// What monitor number `id` of a server found, with the events that go before; nothing of one
    /// that was told to end.
    pub(in crate::net) fn report(
        self: &Arc<Self>,
        server: &ServerAddress,
        id: u64,
        events: impl IntoIterator<Item = SdamEvent>,
        input: Option<Input>,
    ) {
        let mut state = self.lock();
        if state
            .monitors
            .get(server)
            .is_none_or(|monitor| monitor.id() != id)
        {
            return;
        }
        self.queue(events);
        if let Some(input) = input {
            self.apply_locked(&mut state, input);
        }
        drop(state);
        self.settle();
    }

    fn apply_locked(self: &Arc<Self>, state: &mut State, input: Input) {
        // Of a load balancer, no description keeps it.
        let cause = match &input {
            Input::ApplicationError(told) => Some(told.error.clone()),
            _ => None,
        };
        let transition = apply(&state.settings, &state.description, input);
        let listeners = self.listeners();
        for effect in &transition.effects {
            if let Effect::ReadyPool { server } = effect {
                listeners.iter().for_each(|listener| listener.ready(server));
            }
        }
        if !Arc::ptr_eq(&state.description, &transition.description) {
            state.description = transition.description;
            let index = Arc::new(self.index.load().next(state.description.clone()));
            self.index.store(index.clone());
            // Before anybody is told of it: whoever is told compares this.
            self.revision.store(index.revision(), Ordering::Release);
            listeners
                .iter()
                .for_each(|listener| listener.published(&index));
            self.changed.send_replace(state.description.clone());
        }
        self.queue(transition.events);
        for effect in transition.effects {
            self.carry_out(state, &listeners, effect, cause.as_ref());
        }
    }

    fn queue(&self, events: impl IntoIterator<Item = SdamEvent>) {
        if self.has_handler || logs::wants_events() {
            self.dispatcher.queue(events);
        }
    }

    fn carry_out(
        self: &Arc<Self>,
        state: &mut State,
        listeners: &[Arc<dyn TopologyListener>],
        effect: Effect,
        cause: Option<&Error>,
    ) {
        match effect {
            Effect::StartMonitor { server } => {
                let Phase::Connected(runtime) = &state.phase else {
                    return;
                };
                state.next_monitor += 1;
                let topology_id = state.settings.topology_id;
                let monitor =
                    Monitor::start(runtime, self, &server, state.next_monitor, topology_id);
                state.monitors.insert(server, monitor);
            }
            Effect::StopMonitor { server } => {
                state.ending.retain(|task| !task.is_finished());
                if let Some(monitor) = state.monitors.remove(&server) {
                    state.ending.push(monitor.stop());
                }
            }
            Effect::RequestCheck { server, .. } => {
                if let Some(monitor) = state.monitors.get(&server) {
                    monitor.request_check();
                }
            }
            Effect::CancelCheck { server } => {
                if let Some(monitor) = state.monitors.get(&server) {
                    monitor.cancel_check();
                }
            }
            // Was told before the description was published.
            Effect::ReadyPool { .. } => {}
            Effect::ClearPool {
                server,
                service_id,
                interrupt_in_use,
            } => {
                let clear = Clear {
                    server: &server,
                    service_id,
                    interrupt_in_use,
                    error: cause.or_else(|| failure(&state.description, &server)),
                };
                listeners.iter().for_each(|listener| listener.clear(&clear));
            }
            Effect::ClosePool { server } => {
                listeners
                    .iter()
                    .for_each(|listener| listener.remove(&server));
            }
        }
    }

    /// Ends monitoring, and gives the tasks to wait for.
    pub(super) fn end(self: &Arc<Self>, ended: Ended) -> Vec<JoinHandle<()>> {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Connected(_)) {
            self.apply_locked(&mut state, Input::Close);
        }
        if let Some(task) = state.srv.take() {
            task.abort();
            state.ending.push(task);
        }
        match (ended, &state.phase) {
            (Ended::Closed, _) | (Ended::Disconnected, Phase::Closed) => {
                state.phase = Phase::Closed;
            }
            (
                Ended::Disconnected,
                Phase::Disconnected | Phase::Resolving(..) | Phase::Connected(_),
            ) => state.phase = Phase::Disconnected,
        }
        self.clock.forget();
        let tasks = std::mem::take(&mut state.ending);
        drop(state);
        // Who waits for a server looks again, and finds the topology closed.
        self.changed.send_modify(|_| {});
        self.settle();
        tasks
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a server failed by last.
fn failure<'a>(description: &'a TopologyDescription, server: &ServerAddress) -> Option<&'a Error> {
    match &description.server(server)?.error {
        Some(SdamError::Failed(error)) => Some(error),
        Some(_) | None => None,
    }
}
