//! Sees each event, and checks the invariants of snapshots and of the order of events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mongo_core::ServerAddress;
use mongo_core::event::SdamEvent;
use mongo_core::sdam::{
    ElectionTuple, ServerDescription, ServerType, TopologyDescription, TopologyType,
};
use tokio::time::Instant;

use super::log::Log;

/// The wire versions of a seed's servers, which decide how elections are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Versions {
    /// Under 17: `setVersion` is compared before `electionId`.
    SetVersionFirst,
    /// 17 and later: `electionId` is compared first.
    ElectionIdFirst,
    /// Both, and members change.
    Mixed,
}

pub(super) struct Observer {
    log: Log,
    versions: Versions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    known: Arc<TopologyDescription>,
    changes: u64,
    open: BTreeMap<ServerAddress, Watched>,
    primary_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Before,
    Open,
    Closed,
}

struct Watched {
    description: Arc<ServerDescription>,
    /// Whether a check is in progress, and whether it is awaited.
    check: Option<bool>,
}

impl Observer {
    pub(super) fn new(log: Log, versions: Versions) -> Arc<Self> {
        Arc::new(Self {
            log,
            versions,
            state: Mutex::default(),
        })
    }

    /// The time since which there has always been a primary; `None` while there is none.
    pub(super) fn primary_since(&self) -> Option<Instant> {
        self.lock().primary_since
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().phase == Phase::Closed
    }

    pub(super) fn see(&self, event: &SdamEvent) {
        let state = &mut *self.lock();
        let expected = match event {
            SdamEvent::TopologyOpening(_) => Phase::Before,
            _ => Phase::Open,
        };
        let phase = state.phase;
        self.log
            .require(phase == expected, format_args!("{phase:?}, and {event:?}"));
        match event {
            SdamEvent::TopologyOpening(_) => {
                state.phase = Phase::Open;
                self.log.write(format_args!("opening"));
            }
            SdamEvent::TopologyClosed(_) => {
                state.phase = Phase::Closed;
                self.log.write(format_args!("closed"));
                let left = state.open.len();
                self.log
                    .require(left == 0, format_args!("{left} servers after the close"));
            }
            SdamEvent::TopologyDescriptionChanged(event) => {
                let (before, now) = (&event.previous_description, &event.new_description);
                self.topology_changed(state, before, now);
            }
            _ => self.see_server(state, event),
        }
    }

    fn see_server(&self, state: &mut State, event: &SdamEvent) {
        let Some(address) = event.address() else {
            return;
        };
        if let SdamEvent::ServerOpening(_) = event {
            self.log.write(format_args!("{address} opening"));
            let watched = Watched {
                description: Arc::new(ServerDescription::unknown(address.clone())),
                check: None,
            };
            let before = state.open.insert(address.clone(), watched);
            self.log
                .require(before.is_none(), format_args!("{address} opened twice"));
            return;
        }
        let Some(watched) = state.open.get_mut(address) else {
            self.log
                .violation(format_args!("{address} is not open, and {event:?}"));
            return;
        };
        match event {
            SdamEvent::ServerDescriptionChanged(event) => {
                let (before, now) = (&event.previous_description, &event.new_description);
                self.server_changed(watched, before, now);
            }
            SdamEvent::ServerClosed(_) => {
                self.log.write(format_args!("{address} closed"));
                state.open.remove(address);
            }
            SdamEvent::ServerHeartbeatStarted(event) => {
                let awaited = event.awaited;
                self.log
                    .write(format_args!("{address} heartbeat, awaited: {awaited}"));
                let running = watched.check.replace(awaited);
                self.log
                    .require(running.is_none(), format_args!("{address}: two heartbeats"));
            }
            SdamEvent::ServerHeartbeatSucceeded(event) => {
                let time = event.duration;
                self.log.write(format_args!("{address} ok in {time:?}"));
                self.heartbeat_ended(watched, event.awaited);
            }
            SdamEvent::ServerHeartbeatFailed(event) => {
                let (time, failure) = (event.duration, &event.failure);
                self.log
                    .write(format_args!("{address} failed in {time:?}: {failure}"));
                self.heartbeat_ended(watched, event.awaited);
            }
            _ => {}
        }
    }

    fn heartbeat_ended(&self, watched: &mut Watched, awaited: bool) {
        let began = watched.check.take();
        let address = &watched.description.address;
        self.log.require(
            began == Some(awaited),
            format_args!("{address}: a heartbeat began as {began:?} and ended as {awaited}"),
        );
    }

    fn server_changed(
        &self,
        watched: &mut Watched,
        before: &Arc<ServerDescription>,
        now: &Arc<ServerDescription>,
    ) {
        let (address, kind) = (&now.address, now.server_type);
        self.log.write(format_args!(
            "{address} is {kind}: {:?}, {:?} {:?}",
            now.topology_version, now.set_version, now.election_id
        ));
        self.log.require(
            *before == watched.description,
            format_args!(
                "{address} was {:?}, its event says {before:?}",
                watched.description
            ),
        );
        if let (Some(old), Some(new)) = (before.topology_version, now.topology_version)
            && old.process_id == new.process_id
        {
            self.log.require(
                new.counter >= old.counter,
                format_args!("{address} goes back from {old:?} to {new:?}"),
            );
        }
        watched.description = now.clone();
    }

    fn topology_changed(
        &self,
        state: &mut State,
        before: &Arc<TopologyDescription>,
        now: &Arc<TopologyDescription>,
    ) {
        let (kind, max) = (now.topology_type(), now.max_election());
        let primary = now.primary().map(|primary| &primary.address);
        self.log
            .write(format_args!("{kind}, primary {primary:?}, {max}"));
        self.log.require(
            *before == state.known,
            format_args!("the event's previous {before:?} is not {:?}", state.known),
        );
        // The seeds are opened after the first description.
        if state.changes > 0 {
            let own = state.open.values().map(|watched| &watched.description);
            self.log.require(
                own.eq(now.servers()),
                format_args!("the servers' own events don't make up {now:?}"),
            );
        }
        self.check(now);
        if !now.servers().is_empty() {
            let earlier = state.known.max_election();
            self.log.require(
                self.is_forward(earlier, max),
                format_args!("the greatest election goes back from {earlier} to {max}"),
            );
        }
        let since = state.primary_since.take();
        state.primary_since = primary.map(|_| since.unwrap_or_else(Instant::now));
        state.changes += 1;
        state.known = now.clone();
    }

    /// Checks the invariants of a snapshot.
    pub(super) fn check(&self, snapshot: &TopologyDescription) {
        let is_primary = |one: &&Arc<ServerDescription>| one.server_type == ServerType::RsPrimary;
        let primaries: Vec<_> = snapshot.servers().iter().filter(is_primary).collect();
        self.log.require(
            primaries.len() <= 1,
            format_args!("two primaries: {snapshot:?}"),
        );
        let with_primary = snapshot.topology_type() == TopologyType::ReplicaSetWithPrimary;
        self.log.require(
            with_primary != primaries.is_empty(),
            format_args!("its type does not fit {snapshot:?}"),
        );
        let sorted = snapshot
            .servers()
            .is_sorted_by(|a, b| a.address < b.address);
        self.log
            .require(sorted, format_args!("not sorted, or twice: {snapshot:?}"));
        let max = snapshot.max_election();
        for primary in primaries {
            let own = ElectionTuple {
                election_id: primary.election_id,
                set_version: primary.set_version,
            };
            // Before wire version 17 an incomplete tuple is not compared, whether reported or
            // known.
            let is_partial = own.election_id.is_none() || own.set_version.is_none();
            let is_current = match self.versions {
                Versions::ElectionIdFirst => own == max,
                Versions::SetVersionFirst => is_partial || own.election_id == max.election_id,
                Versions::Mixed => {
                    is_partial
                        || own.election_id >= max.election_id
                        || own.set_version >= max.set_version
                }
            };
            self.log.require(
                is_current,
                format_args!("{} is primary by {own}, known was {max}", primary.address),
            );
        }
    }

    fn is_forward(&self, earlier: ElectionTuple, later: ElectionTuple) -> bool {
        match self.versions {
            Versions::ElectionIdFirst => later >= earlier,
            Versions::SetVersionFirst => {
                (later.set_version, later.election_id) >= (earlier.set_version, earlier.election_id)
            }
            Versions::Mixed => {
                later.election_id >= earlier.election_id || later.set_version >= earlier.set_version
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
