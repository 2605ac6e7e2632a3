//! Faults of the application: its callbacks panic, its runtimes end, its callers are not polled.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, poll_immediate};
use mongo_core::net::{Connector, Stream};
use mongo_core::pools::Backend;
use mongo_core::{Error, ServerAddress};
use tokio::runtime::Runtime;
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep};

use super::super::chance::Chance;
use super::super::log::Log;
use super::super::runtime;
use super::super::wire::Wire;
use super::World;

/// Panics and other faults of the application.
pub(super) struct Shocks {
    chance: Mutex<Chance>,
    are_over: AtomicBool,
    panics: AtomicUsize,
    /// Check-outs that have begun and are not being polled.
    pub(super) held: AtomicUsize,
}

impl Shocks {
    pub(super) fn new(chance: Chance) -> Arc<Self> {
        Arc::new(Self {
            chance: Mutex::new(chance),
            are_over: AtomicBool::new(false),
            panics: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
        })
    }

    /// Panics once in `once_in` calls, without a message on standard error.
    pub(super) fn may_panic(&self, once_in: u64) {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let panics = chance.once_in(once_in);
        drop(chance);
        if panics && !self.are_over.load(Ordering::Relaxed) {
            self.panics.fetch_add(1, Ordering::Relaxed);
            resume_unwind(Box::new("a callback of the application panics"));
        }
    }

    pub(super) fn end(&self) {
        self.are_over.store(true, Ordering::Relaxed);
    }

    pub(super) fn panics(&self) -> usize {
        self.panics.load(Ordering::Relaxed)
    }
}

/// A connector that panics now and then.
pub(super) struct Shaky {
    pub(super) wire: Wire,
    pub(super) shocks: Arc<Shocks>,
}

#[async_trait]
impl Connector for Shaky {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        self.shocks.may_panic(30);
        self.wire.connect(address).await
    }
}

/// Polls a future now and then, holds it for a time, and drops it.
pub(super) async fn hold<F: Future>(shocks: &Shocks, future: F, polls: u64, time: Duration) {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        if poll_immediate(&mut future).await.is_some() {
            return;
        }
        yield_now().await;
    }
    shocks.held.fetch_add(1, Ordering::Relaxed);
    sleep(time).await;
    drop(future);
    shocks.held.fetch_sub(1, Ordering::Relaxed);
}

/// Runtimes that exist from the beginning, so that no clock is ahead of the run's.
pub(super) struct Runtimes(Vec<Runtime>);

impl Runtimes {
    pub(super) fn new() -> Self {
        Self(std::iter::repeat_with(runtime).take(12).collect())
    }

    /// Begins a check-out on another runtime, and monitors if none are running. Then the runtime
    /// ends with its tasks: at most one attempt, since tokio's order of dropping tasks does not
    /// replay. Returns false if no runtime is left.
    pub(super) fn end_one<B: Backend>(
        &mut self,
        world: &World<B>,
        log: &Log,
        chance: &mut Chance,
    ) -> bool {
        let Some(runtime) = self.0.pop() else {
            return false;
        };
        log.write(format_args!("a runtime begins, and ends"));
        let (now, turns) = (Instant::now(), chance.below(8));
        // The run is blocked during this.
        thread::scope(|scope| {
            let ended = scope.spawn(|| {
                runtime.block_on(async {
                    advance(now - Instant::now()).await;
                    begin(world, chance, turns).await;
                });
                drop(runtime);
            });
            log.require(ended.join().is_ok(), format_args!("a runtime panicked"));
        });
        true
    }
}

impl Drop for Runtimes {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Runtime::shutdown_background);
    }
}

async fn begin<B: Backend>(world: &World<B>, chance: &mut Chance, turns: u64) {
    let pools = world.seats[chance.pick(&[0, 1, 2, 3])].look().pools;
    let mut begun: BoxFuture<'_, bool> = match chance.once_in(4) {
        true => Box::pin(async move { pools.verify().await.is_ok() }),
        false => Box::pin(async move { pools.get().await.is_ok() }),
    };
    // Never idle, so that the clock does not advance.
    for _ in 0..turns {
        if poll_immediate(&mut begun).await.is_some() {
            return;
        }
        yield_now().await;
    }
}
