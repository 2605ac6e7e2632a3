//! The task that verifies credentials, rotates them, and logs them out and in again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mongo_core::error::ErrorKind;
use mongo_core::pools::{Backend, Pools};
use tokio::time::sleep;

use super::super::chance::Chance;
use super::callers::cut_short;
use super::seats::credential;
use super::{Phase, World};

pub(super) struct Host<B: Backend> {
    world: Arc<World<B>>,
    pools: Pools<B>,
}

impl<B: Backend> Host<B> {
    pub(super) fn new(world: &Arc<World<B>>, pools: &Pools<B>) -> Self {
        Self {
            world: world.clone(),
            pools: pools.clone(),
        }
    }

    pub(super) async fn run(self, mut chance: Chance) {
        while self.world.phase() == Phase::Trouble {
            sleep(chance.millis(50, 2500)).await;
            if self.world.phase() != Phase::Trouble {
                return;
            }
            let polls = chance.pick(&[1, 2, 4, u64::MAX, u64::MAX]);
            let time = chance.millis(0, 4000);
            match chance.below(5) {
                0 | 1 => drop(cut_short(self.verify(&mut chance), polls, time).await),
                2 => drop(cut_short(self.warm_up(), polls, time).await),
                3 => self.rotate(),
                _ => self.log_out_and_in(&mut chance).await,
            }
        }
    }

    async fn verify(&self, chance: &mut Chance) {
        let sitting = self.world.seats[chance.pick(&[0, 1, 2, 3])].look();
        let ledger = self.world.ledger.as_ref();
        let _verifying = ledger.map(|ledger| Counted::new(&ledger.verifying));
        let outcome = sitting.pools.verify().await;
        let verdict = outcome
            .as_ref()
            .err()
            .map(|error| error.is_authentication());
        self.world
            .log
            .write(format_args!("{} is verified: {verdict:?}", sitting.user));
        self.world.log.require(
            sitting.is_known() || outcome.is_err(),
            format_args!("{} is an unknown user, but was verified", sitting.user),
        );
    }

    async fn warm_up(&self) {
        let ledger = self.world.ledger.as_ref();
        let _warming = ledger.map(|ledger| Counted::new(&ledger.warming));
        drop(self.pools.warm_up().await);
    }

    fn rotate(&self) {
        let outcome = self.world.seats[2].rotate();
        self.world.log.write(format_args!("rotated"));
        self.world.log.require(
            outcome.is_ok() || self.world.phase() == Phase::Over,
            format_args!("not rotated: {outcome:?}"),
        );
    }

    /// Checks that the old handle gives no connection any more, and the new one does.
    async fn log_out_and_in(&self, chance: &mut Chance) {
        let seat = &self.world.seats[1];
        let old = seat.give_up();
        self.world.log.write(format_args!("logs out"));
        let polls = chance.pick(&[1, 3, u64::MAX]);
        cut_short(old.logout(), polls, Duration::from_secs(5)).await;
        let refused = old.get().await;
        let is_refused = |error: &mongo_core::Error| matches!(error.kind(), ErrorKind::PoolClosed);
        self.world.log.require(
            refused.as_ref().is_err_and(is_refused),
            format_args!("logged out, and {refused:?}"),
        );
        drop(refused);
        sleep(chance.millis(0, 300)).await;
        if let Ok(pools) = self.pools.with_credential(credential("bob")) {
            seat.log_in(pools);
        }
    }
}

/// Counts while it exists.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
