//! The start of monitors: in groups, and again when their tasks have ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::oid::ObjectId;
use tokio::task::yield_now;

use super::pump;
use super::shared::{Phase, Shared};
use super::srv_state::FirstLookup;
use super::writing::Writing;
use crate::ServerAddress;
use crate::net::background::Alive;
use crate::net::topology::monitor::Monitor;
use crate::sdam::TopologyType;
use crate::uri::ClientOptions;

/// The number of monitors that are started at once.
const GROUP: usize = 64;

impl Writing<'_> {
    /// Restarts tasks that have ended without being stopped.
    pub(super) fn revive(&mut self) {
        let state = &mut *self.state;
        let is_dead = |(_, monitor): &(_, Monitor)| monitor.is_dead();
        let monitors = std::mem::take(&mut state.monitors);
        let (dead, alive): (BTreeMap<_, _>, _) = monitors.into_iter().partition(is_dead);
        state.monitors = alive;
        let paces = dead.into_iter();
        let paces = paces.filter_map(|(server, monitor)| Some((server, monitor.pace()?)));
        state.paces.keep(paces.collect());
        self.start_monitors();
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

    /// Starts the monitors that are missing, a group at a time: one reply may name a thousand
    /// servers, and other tasks run between two groups.
    pub(super) fn start_monitors(&mut self) {
        let state = &*self.state;
        if !matches!(state.phase, Phase::Connected)
            || state.description.topology_type() == TopologyType::LoadBalanced
        {
            return;
        }
        let servers = state.description.servers().iter();
        let mut missing = servers
            .map(|server| &server.address)
            .filter(|server| !state.monitors.contains_key(*server));
        let group: Vec<_> = missing.by_ref().take(GROUP).cloned().collect();
        let are_left = missing.next().is_some();
        group
            .into_iter()
            .for_each(|server| self.start_monitor(server));
        if are_left {
            let next = NextGroup {
                shared: self.shared.clone(),
                opening: self.state.settings.topology_id,
                has_run: false,
                _alive: self.shared.tasks.begin(),
            };
            self.tasks.push(Box::pin(next.run()));
        }
    }

    fn start_monitor(&mut self, server: ServerAddress) {
        let alive = self.shared.tasks.begin();
        let state = &mut *self.state;
        let paced_from = state.paces.take(&server);
        let topology_id = state.settings.topology_id;
        let (monitor, task) = pump::start(self.shared, &server, topology_id, alive, paced_from);
        state.monitors.insert(server, monitor);
        self.tasks.push(task);
    }
}

/// The task that starts the next group of monitors of an opening.
struct NextGroup {
    shared: Arc<Shared>,
    opening: ObjectId,
    has_run: bool,
    /// Dropped last.
    _alive: Alive,
}

impl NextGroup {
    async fn run(mut self) {
        yield_now().await;
        self.has_run = true;
        let mut writing = self.shared.write();
        if writing.state.settings.topology_id == self.opening {
            writing.start_monitors();
            writing.finish();
        }
    }
}

impl Drop for NextGroup {
    fn drop(&mut self) {
        if !self.has_run {
            self.shared.group_ended(self.opening);
        }
    }
}
