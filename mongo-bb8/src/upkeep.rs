//! Closing idle connections by the bounds of bb8's builder.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mongo_core::Connection;
use tokio::runtime::{Handle, Id};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Replaces bb8's reaper, which ends with the runtime that the pool was built on, and closes
/// connections under the pool's lock: each runtime on which the pool connects has a task.
#[derive(Debug)]
pub(crate) struct Upkeep {
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) interval: Duration,
    pub(crate) tasks: Mutex<Vec<(Id, JoinHandle<()>)>>,
}

impl Upkeep {
    /// Whether an idle connection is over the bounds.
    #[inline]
    pub(crate) fn is_over(&self, connection: &Connection) -> bool {
        let exceeds =
            |since: Instant, max: Option<Duration>| max.is_some_and(|max| since.elapsed() >= max);
        exceeds(connection.created(), self.max_lifetime)
            || exceeds(connection.idle_since(), self.idle_timeout)
    }

    /// Starts the task of the current runtime, unless it runs or there are no bounds. It calls
    /// `reap` now and at each interval, until that returns false.
    pub(crate) fn start(&self, reap: impl Fn() -> bool + Send + 'static) {
        let has_bounds = self.idle_timeout.is_some() || self.max_lifetime.is_some();
        let Some(runtime) = Handle::try_current().ok().filter(|_| has_bounds) else {
            return;
        };
        let mut tasks = self.tasks();
        let ended = tasks.extract_if(.., |task| task.1.is_finished());
        let ended: Vec<_> = ended.collect();
        if tasks.iter().all(|task| task.0 != runtime.id()) {
            let interval = self.interval;
            let task = runtime.spawn(async move {
                while reap() {
                    sleep(interval).await;
                }
            });
            tasks.push((runtime.id(), task));
        }
        // Tasks are dropped without the lock.
        drop(tasks);
        drop(ended);
    }

    /// Ends all tasks.
    pub(crate) fn end(&self) {
        let tasks = std::mem::take(&mut *self.tasks());
        tasks.iter().for_each(|task| task.1.abort());
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<(Id, JoinHandle<()>)>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.end();
    }
}
