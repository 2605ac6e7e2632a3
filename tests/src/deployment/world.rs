//! State that all servers of a deployment share: their roles, notifications of changes, and the
//! time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bson::oid::ObjectId;
use bson::{DateTime, Document, Timestamp, doc};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::process::Process;
use super::state::ReplicaSetState;
use crate::payload::random_bytes;
use crate::transactions::Tenure;

/// The roles of the servers.
#[derive(Debug)]
pub(crate) enum Roles {
    Set(ReplicaSetState),
    /// They are independent of each other.
    Mongoses(Vec<Process>),
    Standalones(Vec<Process>),
}

impl Roles {
    pub(super) fn process(&self, server: usize) -> &Process {
        match self {
            Self::Set(set) => set.process(server),
            Self::Mongoses(all) | Self::Standalones(all) => &all[server],
        }
    }

    pub(super) fn process_mut(&mut self, server: usize) -> &mut Process {
        match self {
            Self::Set(set) => set.process_mut(server),
            Self::Mongoses(all) | Self::Standalones(all) => &mut all[server],
        }
    }

    /// Records a write on a server, whose time is the deployment's newest.
    pub(super) fn wrote(&mut self, server: usize, now: DateTime) {
        match self {
            Self::Set(set) => set.wrote(server, now),
            Self::Mongoses(all) => {
                all[server].tick(now);
                let time = all[server].cluster_time;
                for process in all {
                    process.learn(time);
                    process.last_write = time;
                }
            }
            Self::Standalones(_) => {}
        }
    }

    /// The time of the newest write that a server's replies tell of.
    pub(super) fn operation_time(&self, server: usize) -> Option<Timestamp> {
        match self {
            Self::Set(set) => Some(set.process(server).last_write),
            Self::Mongoses(all) => Some(all[server].last_write),
            Self::Standalones(_) => None,
        }
    }

    /// A server's time in its role.
    pub(super) fn tenure(&self, server: usize) -> Tenure {
        let term = match self {
            Self::Set(set) => set.members[server].elected_in,
            Self::Mongoses(_) | Self::Standalones(_) => None,
        };
        (server, self.process(server).id, term)
    }

    /// The part of a server's hello reply that describes its role.
    pub(super) fn hello(&self, server: usize) -> Document {
        match self {
            Self::Set(set) => set.hello(server),
            Self::Mongoses(all) => doc! {
                "topologyVersion": all[server].topology_version(),
                "isWritablePrimary": true,
                "msg": "isdbgrid",
            },
            Self::Standalones(all) => doc! {
                "topologyVersion": all[server].topology_version(),
                "isWritablePrimary": true,
            },
        }
    }
}

#[derive(Debug)]
pub(crate) struct World {
    roles: Mutex<Roles>,
    /// Wakes waiters in the order of waiting, unlike a watch, so that a seed replays exactly.
    changed: Notify,
    ids: Mutex<(u64, u64)>,
    epoch: (DateTime, Instant),
}

impl World {
    /// The seed decides the process ids. `now` is the start of the wall clock, which then advances
    /// with tokio's.
    pub(crate) fn new(seed: u64, now: DateTime, roles: impl FnOnce(&Self) -> Roles) -> Arc<Self> {
        let world = Self {
            roles: Mutex::new(Roles::Standalones(Vec::new())),
            changed: Notify::new(),
            ids: Mutex::new((seed, 0)),
            epoch: (now, Instant::now()),
        };
        let roles = roles(&world);
        *world.lock() = roles;
        Arc::new(world)
    }

    pub(crate) fn now(&self) -> DateTime {
        let (start, instant) = self.epoch;
        let elapsed = i64::try_from(instant.elapsed().as_millis()).unwrap_or(i64::MAX);
        DateTime::from_millis(start.timestamp_millis().saturating_add(elapsed))
    }

    pub(crate) fn new_process_id(&self) -> ObjectId {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.1 += 1;
        let bytes = random_bytes(ids.0 ^ ids.1.rotate_left(32), 12);
        let mut id = [0; 12];
        id.copy_from_slice(&bytes);
        ObjectId::from_bytes(id)
    }

    pub(crate) fn look<R>(&self, look: impl FnOnce(&Roles) -> R) -> R {
        look(&self.lock())
    }

    /// Changes the roles, and wakes all waiters.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Roles) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    /// Changes the roles without waking waiters.
    pub(super) fn note(&self, change: impl FnOnce(&mut Roles)) {
        change(&mut self.lock());
    }

    /// The next change of the roles, also one before the first poll.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Waits until the condition holds.
    pub(crate) async fn wait_until(&self, condition: impl Fn(&Roles) -> bool) {
        loop {
            // Created before the check, so that no change between the two is missed.
            let changed = self.changed.notified();
            if self.look(&condition) {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Roles> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Elects an electable member once there has been no primary for this long.
pub(super) async fn hold_elections(world: Arc<World>, after: std::time::Duration) {
    let is_vacant = |roles: &Roles| match roles {
        Roles::Set(set) => set.primary().is_none(),
        Roles::Mongoses(_) | Roles::Standalones(_) => false,
    };
    loop {
        world.wait_until(is_vacant).await;
        tokio::time::sleep(after).await;
        let now = world.now();
        world.change(|roles| {
            if let Roles::Set(set) = roles
                && let Some(member) = set.candidate(now)
            {
                set.elect(member);
            }
        });
    }
}
