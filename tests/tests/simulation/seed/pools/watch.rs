//! Continuously checks the pools' status: that it is consistent, and that no caller waits while a
//! connection is available.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mongo_core::ServerAddress;
use mongo_core::pools::{Backend, PoolState, PoolStatus, Pools};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::super::chance::Chance;
use super::ledger::Standing;
use super::plan::Sizes;
use super::{Phase, World};

/// The longest pause of a pool after failures, plus some time to continue.
const PATIENCE: Duration = Duration::from_millis(1200);

/// The number of yields after which all pending wakes between tasks are done.
const TURNS: u32 = 200;

pub(super) struct Watch<B: Backend> {
    world: Arc<World<B>>,
    pools: Pools<B>,
    sizes: Sizes,
    /// The time since which a caller waits for an available connection, and the number of attempts
    /// at that time.
    stuck: BTreeMap<Name, (Instant, u64)>,
    /// The time since which connections are checked without a caller.
    unasked: BTreeMap<Name, Instant>,
    /// The time since which an attempt pauses, and the number of attempts at that time.
    pausing: BTreeMap<Name, (Instant, u64)>,
}

type Name = (ServerAddress, Option<Arc<str>>);

impl<B: Backend> Watch<B> {
    pub(super) fn new(world: &Arc<World<B>>, pools: &Pools<B>, sizes: Sizes) -> Self {
        Self {
            world: world.clone(),
            pools: pools.clone(),
            sizes,
            stuck: BTreeMap::new(),
            unasked: BTreeMap::new(),
            pausing: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self, mut chance: Chance) {
        while self.world.phase() != Phase::Over && !self.world.log.is_broken() {
            sleep(chance.millis(5, 150)).await;
            let mut turns = 0;
            let all = loop {
                let all = self.pools.status();
                all.iter().for_each(|one| self.check_bounds(one));
                if turns == TURNS
                    || all
                        .iter()
                        .all(|one| self.adds_up(one) && self.is_quiet(one))
                {
                    break all;
                }
                turns += 1;
                yield_now().await;
            };
            for status in &all {
                let booked = self.booked(status);
                self.world.log.require(
                    self.adds_up(status),
                    format_args!("{status:?} does not add up to {booked:?}"),
                );
                self.world.log.require(
                    self.is_quiet(status),
                    format_args!("there is activity in a paused pool: {status:?}"),
                );
            }
            self.check_pauses(&all);
            self.check_checks(&all);
            self.check_progress(&all);
        }
    }

    /// Invariants that hold at every moment.
    fn check_bounds(&self, status: &PoolStatus) {
        self.world.log.require(
            status.size <= self.sizes.max
                && status.pending <= self.sizes.max_connecting
                && status.idle + status.in_use + status.pending == status.size,
            format_args!("out of bounds: {status:?}"),
        );
    }

    /// The state by the events, if there is a handler.
    fn booked(&self, status: &PoolStatus) -> Option<Standing> {
        let ledger = self.world.ledger.as_ref()?;
        Some(ledger.standing(&status.server, status.user.as_ref()?))
    }

    /// Whether the status agrees with the events.
    fn adds_up(&self, status: &PoolStatus) -> bool {
        self.booked(status).is_none_or(|booked| {
            // The rest is being checked, and a pausing attempt has no event yet.
            booked.size - booked.pending == status.size - status.pending
                && booked.pending <= status.pending
                && booked.in_use <= status.in_use
        })
    }

    /// In a paused pool no connection is made, and only unpolled callers wait.
    fn is_quiet(&self, status: &PoolStatus) -> bool {
        let held = self.world.shocks.held.load(Ordering::Relaxed);
        status.state == PoolState::Ready || (status.waiting <= held && status.pending == 0)
    }

    /// Checks that no attempt pauses forever.
    fn check_pauses(&mut self, all: &[PoolStatus]) {
        let now = Instant::now();
        let mut pausing = BTreeMap::new();
        for status in all {
            let Some(booked) = self.booked(status) else {
                return;
            };
            if status.pending <= booked.pending {
                continue;
            }
            let key = (status.server.clone(), status.user.clone());
            let known = self.pausing.get(&key).copied();
            // Otherwise the previous attempt has ended.
            let same = known.filter(|(_, created)| *created == status.created);
            let since = same.unwrap_or((now, status.created));
            self.world.log.require(
                now - since.0 < PATIENCE,
                format_args!("an attempt does not begin: {booked:?} {status:?}"),
            );
            pausing.insert(key, since);
        }
        self.pausing = pausing;
    }

    /// A caller may have one connection being checked; on bb8 two: an idle one, and a spare one, by
    /// the task that would make a connection. That task may continue for a cancelled caller, but
    /// not forever.
    fn check_checks(&mut self, all: &[PoolStatus]) {
        let now = Instant::now();
        for status in all {
            let Some(booked) = self.booked(status) else {
                return;
            };
            let key = (status.server.clone(), status.user.clone());
            let is_bb8 = TypeId::of::<B>() == TypeId::of::<mongo_bb8::Pool>();
            let checked_for_one = 1 + usize::from(is_bb8);
            let ledger = self.world.ledger.as_ref();
            let warming = ledger.map_or(0, |ledger| ledger.warming.load(Ordering::Relaxed));
            let callers = booked.asked + warming;
            match status.in_use > booked.in_use + checked_for_one * callers {
                true => {
                    let since = *self.unasked.entry(key).or_insert(now);
                    self.world.log.require(
                        now - since < PATIENCE,
                        format_args!("in use without a caller: {booked:?} {status:?}"),
                    );
                }
                false => drop(self.unasked.remove(&key)),
            }
        }
    }

    /// Checks that no caller waits while there is a connection, or room for one.
    fn check_progress(&mut self, all: &[PoolStatus]) {
        let Some(ledger) = self.world.ledger.clone() else {
            return;
        };
        if self.world.shocks.held.load(Ordering::Relaxed) > 0 {
            // A connection assigned to an unpolled caller is idle until the caller ends.
            return self.stuck.clear();
        }
        let now = Instant::now();
        for status in all {
            let Some(user) = &status.user else { continue };
            let booked = ledger.standing(&status.server, user);
            let own = |other: &&PoolStatus| other.server == status.server;
            let idle: usize = all.iter().filter(own).map(|other| other.idle).sum();
            let cap = self.sizes.cap.unwrap_or(usize::MAX);
            let has_room =
                status.size < self.sizes.max && (ledger.total(&status.server) < cap || idle > 0);
            let is_stuck = booked.asked > 0
                && status.state == PoolState::Ready
                && status.pending == 0
                // No connection is being checked.
                && status.in_use == booked.in_use
                && (status.idle > 0 || has_room);
            let key = (status.server.clone(), status.user.clone());
            match is_stuck {
                true => {
                    let stuck = self.stuck.entry(key).or_insert((now, status.created));
                    // An attempt that fails at once ends between two checks.
                    if stuck.1 != status.created {
                        *stuck = (now, status.created);
                    }
                    let since = stuck.0;
                    self.world.log.require(
                        now - since < PATIENCE,
                        format_args!("stuck for {:?}: {booked:?} {status:?}", now - since),
                    );
                }
                false => drop(self.stuck.remove(&key)),
            }
        }
    }
}
