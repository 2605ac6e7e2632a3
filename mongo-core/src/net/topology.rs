use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bson::oid::ObjectId;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::PROCESS;
use super::connector::{Connector, SocketConnector};
use super::deadline::Deadline;
use super::dispatcher::{Dispatcher, Handler};
use super::monitor::{Monitor, Monitoring};
use crate::ServerAddress;
use crate::error::{Error, ErrorKind, Result};
use crate::event::SdamEvent;
use crate::handshake::ClientMetadata;
use crate::sdam::{ApplicationError, Effect, Input, TopologyDescription, TopologySettings, apply};
use crate::select::{
    Criterion, RunningOperation, SelectionIndex, SelectionOptions, ServerEntry, ServerSelector,
};
use crate::uri::ClientOptions;

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
/// Specifications: server discovery and monitoring, server selection.
#[derive(Clone)]
pub struct Topology {
    owner: Arc<Owner>,
}

/// Ends everything when the last [`Topology`] goes; monitors hold only what is inside.
struct Owner(Arc<Shared>);

/// What the topology and its monitors share.
pub(super) struct Shared {
    options: ClientOptions,
    pub(super) monitoring: Monitoring,
    pub(super) selection_timeout: Duration,
    state: Mutex<State>,
    index: ArcSwap<SelectionIndex>,
    changed: watch::Sender<Arc<TopologyDescription>>,
    dispatcher: Dispatcher<SdamEvent>,
}

struct State {
    /// Of the current or last opening.
    settings: TopologySettings,
    phase: Phase,
    description: Arc<TopologyDescription>,
    /// In the order of their addresses, so that whatever concerns all replays exactly.
    monitors: BTreeMap<ServerAddress, Monitor>,
    next_monitor: u64,
    /// Tasks that were told to end, and are still to be awaited.
    ending: Vec<JoinHandle<()>>,
}

enum Phase {
    Disconnected,
    Connected(Handle),
    Closed,
}

/// A server that was selected, with the operation that it was selected for: the server's operation
/// count includes it until this is dropped.
#[derive(Debug)]
pub struct SelectedServer {
    entry: Arc<ServerEntry>,
    _operation: RunningOperation,
}

impl SelectedServer {
    /// The server's address.
    pub fn address(&self) -> &ServerAddress {
        self.entry.address()
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
        TopologyBuilder {
            options,
            connector: None,
            handler: None,
            selector: None,
        }
    }

    /// Starts monitoring. Returns at once; selections wait for what the monitors find. Does nothing
    /// if it is connected already.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] outside a tokio runtime; [`ErrorKind::TopologyClosed`].
    pub fn connect(&self) -> Result<()> {
        let shared = &self.owner.0;
        let runtime = Handle::try_current()
            .map_err(|_| Error::configuration("a topology is to be connected within tokio"))?;
        let mut state = shared.lock();
        match state.phase {
            Phase::Connected(_) => return Ok(()),
            Phase::Closed => return Err(ErrorKind::TopologyClosed.into()),
            Phase::Disconnected => {}
        }
        state.phase = Phase::Connected(runtime);
        state.settings = TopologySettings::from_options(ObjectId::new(), &shared.options);
        shared.apply_locked(&mut state, Input::Connect);
        drop(state);
        shared.dispatcher.deliver();
        Ok(())
    }

    /// Ends monitoring, and waits until every task and socket of it is gone. What was known is
    /// forgotten. [`connect`](Self::connect) begins anew, with another topology id.
    ///
    /// Dropped meanwhile, the tasks end all the same.
    pub async fn disconnect(&self) {
        self.end(Phase::Disconnected).await;
    }

    /// [`disconnect`](Self::disconnect) for good: who waits for a server, and who selects one
    /// later, gets [`ErrorKind::TopologyClosed`].
    pub async fn close(&self) {
        self.end(Phase::Closed).await;
    }

    async fn end(&self, phase: Phase) {
        let tasks = self.owner.0.end(phase);
        for task in tasks {
            // Aborted, or at its end.
            let _ = task.await;
        }
    }

    /// What is known now, prepared for selection. Wait-free.
    pub fn snapshot(&self) -> Arc<SelectionIndex> {
        self.owner.0.index.load_full()
    }

    /// What is known now.
    pub fn description(&self) -> Arc<TopologyDescription> {
        self.owner.0.index.load().topology().clone()
    }

    /// Follows what is known: the receiver sees the newest description, and may miss others.
    pub fn subscribe(&self) -> watch::Receiver<Arc<TopologyDescription>> {
        self.owner.0.changed.subscribe()
    }

    /// Selects a server within `serverSelectionTimeoutMS` (default 30 s): returns as soon as one
    /// suitable server is known, without waiting for the others.
    ///
    /// # Errors
    /// [`ErrorKind::ServerSelection`]: why there is none, with each server's own last failure;
    /// [`ErrorKind::TopologyClosed`].
    ///
    /// # Cancellation
    /// May be dropped at any time.
    pub async fn select(&self, criterion: &Criterion) -> Result<SelectedServer> {
        let deadline = Deadline::after(self.owner.0.selection_timeout);
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
        let shared = &self.owner.0;
        if let Some(selected) = shared.select_now(criterion, deprioritized)? {
            return Ok(selected);
        }
        let deadline = deadline.into();
        // Before the next look, so that no change between the two is missed.
        let mut changed = shared.changed.subscribe();
        loop {
            if let Some(selected) = shared.select_now(criterion, deprioritized)? {
                return Ok(selected);
            }
            shared.request_checks()?;
            // Safe to drop: a change that was not seen is seen by the next look.
            if deadline.bound(changed.changed()).await.is_err() {
                let index = shared.index.load();
                let error = index.no_suitable_server(criterion, deadline.elapsed());
                return Err(ErrorKind::ServerSelection(Arc::new(error)).into());
            }
        }
    }

    /// Tells of an error on a connection of the application's, or of a command on one: the server
    /// may be marked unknown and checked.
    ///
    /// Specification: server discovery and monitoring, application errors.
    pub fn handle_error(&self, error: ApplicationError) {
        self.owner.0.apply(Input::ApplicationError(error));
    }
}

impl Shared {
    fn select_now(
        &self,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> Result<Option<SelectedServer>> {
        let index = self.index.load();
        let selected = index
            .select(criterion, deprioritized, random())
            .map_err(|error| ErrorKind::ServerSelection(Arc::new(error)))?;
        Ok(selected.map(|entry| SelectedServer {
            entry: entry.clone(),
            _operation: entry.begin_operation(),
        }))
    }

    /// Nothing suits: every monitor checks as soon as it may.
    fn request_checks(&self) -> Result<()> {
        let state = self.lock();
        if matches!(state.phase, Phase::Closed) {
            return Err(ErrorKind::TopologyClosed.into());
        }
        state.monitors.values().for_each(Monitor::request_check);
        Ok(())
    }

    /// What a monitor found, or an application met.
    pub(super) fn apply(self: &Arc<Self>, input: Input) {
        let mut state = self.lock();
        self.apply_locked(&mut state, input);
        drop(state);
        self.dispatcher.deliver();
    }

    /// What monitor number `id` of a server found, with the events that go before; nothing of one
    /// that was told to end.
    pub(super) fn report(
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
        self.dispatcher.queue(events);
        if let Some(input) = input {
            self.apply_locked(&mut state, input);
        }
        drop(state);
        self.dispatcher.deliver();
    }

    fn apply_locked(self: &Arc<Self>, state: &mut State, input: Input) {
        let transition = apply(&state.settings, &state.description, input);
        if !Arc::ptr_eq(&state.description, &transition.description) {
            state.description = transition.description;
            let index = self.index.load().next(state.description.clone());
            self.index.store(Arc::new(index));
            self.changed.send_replace(state.description.clone());
        }
        self.dispatcher.queue(transition.events);
        for effect in transition.effects {
            self.carry_out(state, effect);
        }
    }

    fn carry_out(self: &Arc<Self>, state: &mut State, effect: Effect) {
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
            // For whoever keeps pools over a topology, which nobody does yet.
            Effect::ReadyPool { .. } | Effect::ClearPool { .. } | Effect::ClosePool { .. } => {}
        }
    }

    /// Ends monitoring, and gives the tasks to wait for.
    fn end(self: &Arc<Self>, phase: Phase) -> Vec<JoinHandle<()>> {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Connected(_)) {
            self.apply_locked(&mut state, Input::Close);
        }
        if !matches!(state.phase, Phase::Closed) {
            state.phase = phase;
        }
        let tasks = std::mem::take(&mut state.ending);
        drop(state);
        // Who waits for a server looks again, and finds the topology closed.
        self.changed.send_modify(|_| {});
        self.dispatcher.deliver();
        tasks
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Told to end, and nobody is left to wait.
        drop(self.0.end(Phase::Closed));
    }
}

/// Uniform enough to choose servers by, and free: SplitMix64 over a counter.
fn random() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static STATE: AtomicU64 = AtomicU64::new(0);
    let mut word = STATE
        .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topology")
            .field("description", &self.description())
            .finish_non_exhaustive()
    }
}

/// Builds a [`Topology`].
pub struct TopologyBuilder {
    options: ClientOptions,
    connector: Option<Arc<dyn Connector>>,
    handler: Option<Handler<SdamEvent>>,
    selector: Option<ServerSelector>,
}

impl TopologyBuilder {
    /// What opens the monitors' transports. Default [`SocketConnector`].
    #[must_use]
    pub fn connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = Some(connector);
        self
    }

    /// Calls `handler` with each event, one at a time and in order, on whichever task or thread
    /// caused it. It holds no lock of the topology's, and may use the topology; but monitoring
    /// waits for it, so that it must not block. To get them as a stream, send them into a channel
    /// of your own.
    #[must_use]
    pub fn event_handler(mut self, handler: impl Fn(&SdamEvent) + Send + Sync + 'static) -> Self {
        self.handler = Some(Arc::new(handler));
        self
    }

    /// Asks `selector` at each selection (`serverSelector`).
    #[must_use]
    pub fn server_selector(mut self, selector: ServerSelector) -> Self {
        self.selector = Some(selector);
        self
    }

    /// The topology, not connected yet. No I/O.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] for what the options ask and this version can't do.
    pub fn build(self) -> Result<Topology> {
        let options = self.options;
        options.validate()?;
        let unsupported =
            |what: &str| Err(Error::configuration(format!("{what} is not supported yet")));
        if options.srv.is_some() && options.hosts.is_empty() {
            return unsupported("`mongodb+srv` before its records are looked up");
        }
        if options.load_balanced == Some(true) {
            return unsupported("`loadBalanced=true`");
        }
        if options.uses_tls() && self.connector.is_none() {
            return unsupported("TLS (`tls=true`) without a connector of your own");
        }
        if options.hosts.is_empty() {
            return Err(Error::configuration("there is no host"));
        }
        let connector = self
            .connector
            .unwrap_or_else(|| Arc::new(SocketConnector::new()));
        let metadata = ClientMetadata::new(options.app_name.as_deref(), &PROCESS)
            .map_err(|error| Error::configuration(error.to_string()))?;
        let mut selection = SelectionOptions::from(&options);
        selection.selector = self.selector;
        let description = Arc::new(TopologyDescription::default());
        let shared = Shared {
            monitoring: Monitoring::new(&options, connector, metadata.document(), &PROCESS),
            selection_timeout: options.server_selection_timeout,
            state: Mutex::new(State {
                settings: TopologySettings::from_options(ObjectId::new(), &options),
                phase: Phase::Disconnected,
                description: description.clone(),
                monitors: BTreeMap::new(),
                next_monitor: 0,
                ending: Vec::new(),
            }),
            index: ArcSwap::from_pointee(SelectionIndex::new(description.clone(), selection)),
            changed: watch::Sender::new(description),
            dispatcher: Dispatcher::new(self.handler),
            options,
        };
        Ok(Topology {
            owner: Arc::new(Owner(Arc::new(shared))),
        })
    }
}
