//! Background tasks: their runtime, and which of them are alive.

use std::collections::BTreeSet;
use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::callback::{WAKER, guard};
use crate::error::{Error, Result};
use crate::sync::lock;

/// A task that has not been spawned yet.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The runtime of the background tasks.
pub(crate) struct Home {
    /// The runtime that the application named.
    named: Option<Handle>,
    /// The runtime that was chosen last.
    used: Mutex<Option<Handle>>,
}

impl Home {
    pub(crate) fn new(named: Option<Handle>) -> Self {
        Self {
            named,
            used: Mutex::default(),
        }
    }

    /// The runtime that the application named.
    pub(crate) fn named(&self) -> Option<&Handle> {
        self.named.as_ref()
    }

    /// The runtime that was chosen last, else the named one. It may have shut down.
    pub(crate) fn known(&self) -> Option<Handle> {
        self.used().clone().or_else(|| self.named.clone())
    }

    /// Chooses a runtime that has not shut down: the named one, else the previously chosen one,
    /// else the current one. Must be called without a lock, and only before tasks are started.
    ///
    /// # Errors
    /// None of them is available.
    pub(crate) fn choose(&self) -> Result<Handle> {
        let used = self.used().clone();
        let chosen = choose([self.named.clone(), used])?;
        let former = self.used().replace(chosen.clone());
        // Without the lock, because it may be the last handle.
        drop(former);
        Ok(chosen)
    }

    /// Forgets the chosen runtime, so that the next choice does not depend on it.
    pub(crate) fn forget(&self) {
        let former = self.used().take();
        drop(former);
    }

    fn used(&self) -> MutexGuard<'_, Option<Handle>> {
        lock(&self.used)
    }
}

/// The first of these runtimes that has not shut down, else the current one. Must be called without
/// a lock.
///
/// # Errors
/// None of them is available.
pub(crate) fn choose(known: [Option<Handle>; 2]) -> Result<Handle> {
    let current = Handle::try_current().ok();
    let known = known.into_iter().flatten().chain(current);
    { known }.find(is_running).ok_or_else(|| {
        Error::configuration("must be called within a Tokio runtime, or with one configured")
    })
}

/// Whether a runtime still accepts tasks. A runtime that has shut down drops tasks when they are
/// spawned.
pub(crate) fn is_running(runtime: &Handle) -> bool {
    let probe = runtime.spawn(pending::<()>());
    let is_running = !probe.is_finished();
    probe.abort();
    is_running
}

/// The live tasks of one owner.
#[derive(Default)]
pub(crate) struct Tasks {
    /// By number, in the order in which they began.
    alive: watch::Sender<BTreeSet<u64>>,
    begun: AtomicU64,
}

impl Tasks {
    /// Counts a task that is about to be spawned as alive, until the result is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Alive {
        let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        self.alive.send_if_modified(|alive| {
            alive.insert(number);
            // Waiters only wait for the end of tasks.
            false
        });
        Alive {
            number,
            tasks: self.clone(),
        }
    }

    /// The number of the task that began last.
    pub(crate) fn newest(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Waits until all tasks with numbers up to `newest` have ended, for whatever reason.
    ///
    /// May be dropped at any time.
    pub(crate) async fn ended(&self, newest: u64) {
        let mut alive = self.alive.subscribe();
        // This can't fail, because the sender is borrowed.
        let _ = alive
            .wait_for(|alive| alive.first().is_none_or(|oldest| *oldest > newest))
            .await;
    }
}

/// A live task. The task owns this and drops it last.
pub(crate) struct Alive {
    number: u64,
    tasks: Arc<Tasks>,
}

impl Alive {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        // A panic would leave this destructor, perhaps during another one.
        let _ = guard(WAKER, || {
            self.tasks.alive.send_modify(|alive| {
                alive.remove(&self.number);
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::runtime::{Builder, Runtime};
    use tokio::time::timeout;

    use super::*;

    fn runtime() -> Runtime {
        Builder::new_current_thread().build().expect("a runtime")
    }

    #[test]
    fn the_named_runtime_comes_first_unless_it_has_ended() {
        let (named, first, second) = (runtime(), runtime(), runtime());
        let home = Home::new(Some(named.handle().clone()));
        let chosen = |within: &Runtime| {
            let _entered = within.enter();
            home.choose().expect("a runtime").id()
        };
        assert_eq!(chosen(&first), named.handle().id());
        drop(named);
        assert_eq!(chosen(&first), first.handle().id());
        assert_eq!(chosen(&second), first.handle().id(), "it still runs");
        let first_id = first.handle().id();
        drop(first);
        assert_ne!(chosen(&second), first_id);
        assert_eq!(chosen(&second), second.handle().id());
        home.forget();
        drop(second);
        home.choose().expect_err("no runtime is left");
    }

    #[tokio::test(start_paused = true)]
    async fn every_waiter_waits_for_the_tasks_that_began_before_it() {
        let tasks = Arc::<Tasks>::default();
        let (first, second) = (tasks.begin(), tasks.begin());
        let newest = tasks.newest();
        let later = tasks.begin();
        let second_of_time = Duration::from_secs(1);
        drop(second);
        for _ in 0..2 {
            let waited = timeout(second_of_time, tasks.ended(newest)).await;
            assert!(waited.is_err(), "the first is alive");
        }
        drop(first);
        for _ in 0..2 {
            let waited = timeout(second_of_time, tasks.ended(newest)).await;
            assert!(waited.is_ok());
        }
        drop(later);
    }
}
