//! The only writer of the topology's description.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, Weak};

use bson::oid::ObjectId;
use tokio::runtime::Handle;

use super::listener::{Clear, Removal, TopologyListener};
use super::paces::Paces;
use super::shared::{Phase, Shared, State};
use super::srv::{FirstLookup, Srv};
use crate::ServerAddress;
use crate::error::Error;
use crate::net::background::Task;
use crate::net::topology::monitor::{Monitor, Signal};
use crate::sdam::{Effect, Input, SdamError, TopologyDescription, TopologySettings, apply};
use crate::select::SelectionIndex;
use crate::uri::ClientOptions;

/// The locked state, and the work that must wait until the lock is released: tasks to spawn and to
/// signal, selections to wake, and references that may be the last ones. A waker is application
/// code: it may drop its task, and with it the last topology. Dropping the last reference to a
/// listener closes the topology, which takes the lock. A runtime that has shut down drops the tasks
/// that are spawned on it, which also take the lock. A handle may be the last one of its runtime.
/// An error may be a type of the application.
pub(super) struct Writing<'a> {
    shared: &'a Arc<Shared>,
    // Fields are dropped in order: the lock before all that follow.
    pub(super) state: MutexGuard<'a, State>,
    listeners: Vec<Arc<dyn TopologyListener>>,
    superseded: Vec<Arc<SelectionIndex>>,
    inputs: Vec<Input>,
    signals: Vec<Signal>,
    tasks: Vec<Task>,
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

    /// Restarts tasks that have ended without being stopped.
    pub(super) fn revive(&mut self) {
        let monitors = self.state.monitors.iter();
        let dead = monitors.filter(|(_, monitor)| monitor.is_dead());
        let dead: Vec<_> = dead.map(|(server, _)| server.clone()).collect();
        for server in dead {
            self.start_monitor(server);
        }
        if self.state.srv.as_ref().is_some_and(|srv| srv.is_dead) {
            match &self.state.phase {
                Phase::Resolving(first) => {
                    let first = first.again();
                    self.start_srv(self.shared.options.clone(), &first);
                }
                Phase::Connected => {
                    let options = ClientOptions::clone(&self.shared.resolved.load());
                    self.start_srv(options, &FirstLookup::default());
                }
                Phase::Disconnected | Phase::Closed => {}
            }
        }
    }

    fn start_srv(&mut self, options: ClientOptions, first: &FirstLookup) {
        let opening = self.state.settings.topology_id;
        let started = Srv::new(self.shared, opening, options, first);
        if let Some((srv, task)) = started {
            self.state.srv = Some(srv);
            self.tasks.push(task);
        }
    }

    pub(super) fn stop_srv(&mut self) {
        let srv = self.state.srv.take();
        self.signals.extend(srv.map(|srv| srv.stop));
    }

    fn start_monitor(&mut self, server: ServerAddress) {
        let alive = self.shared.tasks.begin();
        let state = &mut *self.state;
        let former = state.monitors.remove(&server);
        let removed = state.paces.take(&server);
        let paced_from = former.as_ref().map_or(removed, Monitor::pace);
        let topology_id = state.settings.topology_id;
        let (monitor, task) = Monitor::new(self.shared, &server, topology_id, alive, paced_from);
        state.monitors.insert(server, monitor);
        self.tasks.push(task);
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
        for effect in &transition.effects {
            if let Effect::StopMonitor { server } = effect
                && let Some(monitor) = state.monitors.remove(server)
            {
                state.paces.keep(server, monitor.pace());
                let (stop, event) = monitor.stop();
                self.signals.push(stop);
                shared.queue(event);
            }
        }
        if let Removal::Disconnected = removal {
            // The next opening checks at once.
            state.paces = Paces::default();
        }
        shared.queue(transition.events);
        for effect in transition.effects {
            self.carry_out(effect, removal, cause.as_ref());
        }
    }

    fn carry_out(&mut self, effect: Effect, removal: Removal, cause: Option<&Error>) {
        match effect {
            Effect::StartMonitor { server } => {
                if matches!(self.state.phase, Phase::Connected) {
                    self.start_monitor(server);
                }
            }
            Effect::RequestCheck { server, .. } => {
                let monitor = self.state.monitors.get(&server);
                self.signals.extend(monitor.map(Monitor::check_request));
            }
            Effect::CancelCheck { server } => {
                let monitor = self.state.monitors.get(&server);
                self.signals
                    .extend(monitor.map(Monitor::check_cancellation));
            }
            // Done before the description and the events were published.
            Effect::ReadyPool { .. } | Effect::StopMonitor { .. } => {}
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

/// The last failure of a server.
fn failure<'a>(description: &'a TopologyDescription, server: &ServerAddress) -> Option<&'a Error> {
    match &description.server(server)?.error {
        Some(SdamError::Failed(error)) => Some(error),
        Some(_) | None => None,
    }
}
