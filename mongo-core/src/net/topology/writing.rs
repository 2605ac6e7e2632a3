//! The only writer of the topology's description.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, Weak};

use bson::oid::ObjectId;
use tokio::runtime::Handle;

use super::clock::Signal;
use super::listener::{Clear, Removal, TopologyListener};
use super::paces::Paces;
use super::shared::{Ended, Patience, Phase, Shared, State};
use super::srv;
use super::srv_state::FirstLookup;
use crate::ServerAddress;
use crate::error::{Error, ErrorKind, Result};
use crate::event::SdamEvent;
use crate::net::background::{Task, choose};
use crate::net::topology::monitor::Monitor;
use crate::sdam::{
    ApplicationError, Effect, Input, SdamError, TopologyDescription, TopologySettings, apply,
};
use crate::select::SelectionIndex;
use crate::uri::ClientOptions;

/// The locked state, and the work that must wait until the lock is released: tasks to spawn and to
/// signal, selections to wake, and references that may be the last ones. A waker is application
/// code: it may drop its task, and with it the last topology. Dropping the last reference to a
/// listener closes the topology, which takes the lock. A runtime that has shut down drops the tasks
/// that are spawned on it, which also take the lock. A handle may be the last one of its runtime.
/// An error may be a type of the application.
pub(super) struct Writing<'a> {
    pub(super) shared: &'a Arc<Shared>,
    // Fields are dropped in order: the lock before all that follow.
    pub(super) state: MutexGuard<'a, State>,
    listeners: Vec<Arc<dyn TopologyListener>>,
    superseded: Vec<Arc<SelectionIndex>>,
    inputs: Vec<Input>,
    signals: Vec<Signal>,
    pub(super) tasks: Vec<Task>,
    former_runtime: Option<Handle>,
}

impl<'a> Writing<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, mut state: MutexGuard<'a, State>) -> Self {
        state
            .listeners
            .retain(|listener| listener.strong_count() > 0);
        Self {
            listeners: state.listeners.iter().filter_map(Weak::upgrade).collect(),
            shared,
            state,
            superseded: Vec::new(),
            inputs: Vec::new(),
            signals: Vec::new(),
            tasks: Vec::new(),
            former_runtime: None,
        }
    }

    /// Sets the runtime for the tasks, unless all tasks run on another one.
    pub(super) fn spawn_on(&mut self, runtime: Handle) {
        self.former_runtime = match self.state.runtime {
            Some(_) if self.tasks.is_empty() => Some(runtime),
            _ => self.state.runtime.replace(runtime),
        };
    }

    /// Releases the lock, and does the work that waited for that.
    pub(super) fn finish(self) {
        let Self {
            shared,
            state,
            listeners,
            superseded,
            signals,
            tasks,
            ..
        } = self;
        let runtime = state.runtime.clone().filter(|_| !tasks.is_empty());
        drop(state);
        signals.iter().for_each(|signal| signal.notify_one());
        if let Some(runtime) = runtime {
            for task in tasks {
                runtime.spawn(task);
            }
        }
        if !superseded.is_empty() {
            shared.notify_subscribers();
        }
        shared.dispatcher.deliver();
        listeners.iter().for_each(|listener| listener.settle());
    }

    /// Starts a new opening.
    pub(super) fn open(&mut self) {
        let options = &self.shared.options;
        let opening = ObjectId::new();
        self.state.settings = TopologySettings::from_options(opening, options);
        let first = FirstLookup::default();
        self.start_srv(options.clone(), &first);
        if options.hosts.is_empty() {
            self.state.phase = Phase::Resolving(first);
            return;
        }
        self.state.phase = Phase::Connected;
        self.apply(Input::Connect);
    }

    pub(super) fn start_srv(&mut self, options: ClientOptions, first: &FirstLookup) {
        let opening = self.state.settings.topology_id;
        let started = srv::start(self.shared, opening, options, first);
        if let Some((srv, task)) = started {
            self.state.srv = Some(srv);
            self.tasks.push(task);
        }
    }

    pub(super) fn stop_srv(&mut self) {
        let srv = self.state.srv.take();
        self.signals.extend(srv.map(|srv| srv.stop));
    }

    /// Applies an input, publishes the new description, and carries out its effects.
    pub(super) fn apply(&mut self, input: Input) {
        let shared = self.shared;
        let state = &mut *self.state;
        self.inputs.push(input.clone());
        // The description of a load balancer does not keep the error.
        let cause = match &input {
            Input::ApplicationError(reported) => Some(reported.error.clone()),
            _ => None,
        };
        let removal = match input {
            Input::Close => Removal::Disconnected,
            Input::SrvHosts(_) => Removal::Unlisted,
            Input::Connect | Input::Check(_) | Input::ApplicationError(_) => Removal::Left,
        };
        let transition = apply(&state.settings, &state.description, input);
        for effect in &transition.effects {
            if let Effect::ReadyPool { server } = effect {
                self.listeners
                    .iter()
                    .for_each(|listener| listener.ready(server));
            }
        }
        if !Arc::ptr_eq(&state.description, &transition.description) {
            state.description = transition.description;
            let index = Arc::new(shared.index.load().next(state.description.clone()));
            self.superseded.push(shared.index.swap(index.clone()));
            // Before any notification: the notified tasks compare this.
            shared.revision.store(index.revision(), Ordering::Release);
            self.listeners
                .iter()
                .for_each(|listener| listener.published(&index));
        }
        // A cancelled check fails before the effects of its monitor's end.
        let mut removed = Vec::new();
        for effect in &transition.effects {
            if let Effect::StopMonitor { server } = effect
                && let Some(monitor) = state.monitors.remove(server)
            {
                removed.extend(monitor.pace().map(|pace| (server.clone(), pace)));
                let (stop, event) = monitor.stop();
                self.signals.push(stop);
                shared.queue(event);
            }
        }
        state.paces.keep(removed);
        if let Removal::Disconnected = removal {
            // The next opening checks at once.
            state.paces = Paces::default();
        }
        shared.queue(transition.events);
        let starts = |effect: &Effect| matches!(effect, Effect::StartMonitor { .. });
        let any_start = transition.effects.iter().any(starts);
        for effect in transition.effects {
            self.carry_out(effect, removal, cause.as_ref());
        }
        if any_start {
            self.start_monitors();
        }
    }

    fn carry_out(&mut self, effect: Effect, removal: Removal, cause: Option<&Error>) {
        match effect {
            Effect::RequestCheck { server, .. } => {
                let monitor = self.state.monitors.get(&server);
                self.signals.extend(monitor.map(Monitor::check_request));
            }
            Effect::CancelCheck { server } => {
                let monitor = self.state.monitors.get(&server);
                self.signals
                    .extend(monitor.map(Monitor::check_cancellation));
            }
            // `apply` does these, before or after all others.
            Effect::ReadyPool { .. } | Effect::StopMonitor { .. } | Effect::StartMonitor { .. } => {
            }
            Effect::ClearPool {
                server,
                service_id,
                interrupt_in_use,
            } => {
                let clear = Clear {
                    server: &server,
                    service_id,
                    interrupt_in_use,
                    error: cause.or_else(|| failure(&self.state.description, &server)),
                };
                self.listeners
                    .iter()
                    .for_each(|listener| listener.clear(&clear));
            }
            Effect::ClosePool { server } => {
                self.listeners
                    .iter()
                    .for_each(|listener| listener.remove(&server, removal));
            }
        }
    }
}

impl Shared {
    /// Connects, or restarts tasks that have ended with their runtime or by a panic.
    pub(super) fn connect(self: &Arc<Self>) -> Result<()> {
        self.run(true)
    }

    /// [`connect`](Self::connect), but a disconnected topology is opened only if `opens`.
    fn run(self: &Arc<Self>, opens: bool) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let runtime = self.choose_runtime()?;
        let mut writing = self.write();
        match writing.state.phase {
            Phase::Connected | Phase::Resolving(_) => writing.revive(),
            Phase::Closed => return Err(ErrorKind::TopologyClosed.into()),
            Phase::Disconnected if opens => writing.open(),
            Phase::Disconnected => return Ok(()),
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
            // It may have been disconnected in the meantime.
            true => self.run(false),
            false => Ok(()),
        }
    }

    /// Applies an error of an application.
    pub(crate) fn handle_error(self: &Arc<Self>, error: ApplicationError) {
        self.apply(Input::ApplicationError(error));
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

    pub(super) fn write(self: &Arc<Self>) -> Writing<'_> {
        Writing::new(self, self.lock())
    }
}

/// The last failure of a server.
fn failure<'a>(description: &'a TopologyDescription, server: &ServerAddress) -> Option<&'a Error> {
    match &description.server(server)?.error {
        Some(SdamError::Failed(error)) => Some(error),
        Some(_) | None => None,
    }
}
