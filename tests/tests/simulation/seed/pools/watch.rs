//! Looks at the pools' own status all the time: whether it adds up, and whether anybody waits for
//! what is there.

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

/// The longest pause that a pool makes after failures, and some time to go on.
const PATIENCE: Duration = Duration::from_millis(1200);

/// So often others get a turn, until what is on its way between two of them has arrived.
const TURNS: u32 = 200;

pub(super) struct Watch<B: Backend> {
    world: Arc<World<B>>,
    pools: Pools<B>,
    sizes: Sizes,
    /// Since when somebody waits for what is there, and how many attempts there had been by then.
    stuck: BTreeMap<Name, (Instant, u64)>,
    /// Since when connections are checked for nobody.
    unasked: BTreeMap<Name, Instant>,
    /// Since when an attempt pauses, and how many had begun by then.
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
                    format_args!("something goes on in a paused pool: {status:?}"),
                );
            }
            self.check_pauses(&all);
            self.check_checks(&all);
            self.check_progress(&all);
        }
    }

    /// At every moment.
    fn check_bounds(&self, status: &PoolStatus) {
        self.world.log.require(
            status.size <= self.sizes.max
                && status.pending <= self.sizes.max_connecting
                && status.idle + status.in_use + status.pending == status.size,
            format_args!("out of bounds: {status:?}"),
        );
    }

    /// By the events, if they are seen.
    fn booked(&self, status: &PoolStatus) -> Option<Standing> {
        let ledger = self.world.ledger.as_ref()?;
        Some(ledger.standing(&status.server, status.user.as_ref()?))
    }

    /// Whether each connection that counts is where the events say.
    fn adds_up(&self, status: &PoolStatus) -> bool {
        self.booked(status).is_none_or(|booked| {
            // The others are being checked, and an attempt that pauses has not begun for the events.
            booked.size - booked.pending == status.size - status.pending
                && booked.pending <= status.pending
                && booked.in_use <= status.in_use
        })
    }

    /// In a paused pool nothing is made, and only callers that are not polled wait.
    fn is_quiet(&self, status: &PoolStatus) -> bool {
        let held = self.world.shocks.held.load(Ordering::Relaxed);
        status.state == PoolState::Ready || (status.waiting <= held && status.pending == 0)
    }

    /// No attempt pauses for ever.
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
            // Else the one before it has ended.
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

    /// Who asks may have a connection that is being checked; on bb8 two: an idle one, and one made in
    /// advance, by the task that would make one. That task may go on for one who has gone, but not
    /// for ever.
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
                        format_args!("in use by nobody: {booked:?} {status:?}"),
                    );
                }
                false => drop(self.unasked.remove(&key)),
            }
        }
    }

    /// Nobody waits while there is a connection, or room for one.
    fn check_progress(&mut self, all: &[PoolStatus]) {
        let Some(ledger) = self.world.ledger.clone() else {
            return;
        };
        if self.world.shocks.held.load(Ordering::Relaxed) > 0 {
            // What was given to a caller that nobody polls is idle until it goes.
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
                // Nobody is checking one.
                && status.in_use == booked.in_use
                && (status.idle > 0 || has_room);
            let key = (status.server.clone(), status.user.clone());
            match is_stuck {
                true => {
                    let stuck = self.stuck.entry(key).or_insert((now, status.created));
                    // An attempt that fails at once is over between two looks.
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
