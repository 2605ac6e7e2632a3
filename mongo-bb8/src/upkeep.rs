//! Closing idle connections on runtimes other than the one that a pool was built on.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mongo_core::Connection;
use tokio::runtime::{Handle, Id};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// bb8's reaper ends with the runtime that a pool was built on, and can't be restarted. Connections
/// live on the runtimes of their callers, so each other runtime on which the pool connects has a
/// task that does the same.
#[derive(Debug)]
pub(crate) struct Upkeep {
    /// The runtime of bb8's reaper.
    home: Id,
    idle_timeout: Option<Duration>,
    max_lifetime: Option<Duration>,
    interval: Duration,
    tasks: Mutex<Vec<(Id, JoinHandle<()>)>>,
}

impl Upkeep {
    /// Uses bb8's bounds and the interval of its reaper.
    pub(crate) fn new(
        home: Id,
        idle_timeout: Option<Duration>,
        max_lifetime: Option<Duration>,
        interval: Duration,
    ) -> Self {
        Self {
            home,
            idle_timeout,
            max_lifetime,
            interval,
            tasks: Mutex::default(),
        }
    }

    /// The current runtime, if it needs a task.
    pub(crate) fn missing(&self) -> Option<Handle> {
        let has_bounds = self.idle_timeout.is_some() || self.max_lifetime.is_some();
        let here = Handle::try_current().ok().filter(|_| has_bounds)?;
        let is_kept = here.id() == self.home || self.tasks().iter().any(|own| own.0 == here.id());
        (!is_kept).then_some(here)
    }

    /// Starts the task of a runtime that has a timer. It calls `reap` in each interval, until that
    /// returns false.
    pub(crate) fn start(&self, runtime: &Handle, reap: impl Fn() -> bool + Send + 'static) {
        let task = runtime.spawn(run(self.interval, reap));
        let mut ended = vec![(runtime.id(), task)];
        // Tasks are dropped without the lock.
        let mut tasks = self.tasks();
        let all = std::mem::take(&mut *tasks);
        let is_new = all.iter().all(|own| own.0 != runtime.id());
        let (over, mut alive): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|own| own.1.is_finished());
        if is_new {
            alive.append(&mut ended);
        }
        *tasks = alive;
        drop(tasks);
        ended.iter().for_each(|own| own.1.abort());
        drop((ended, over));
    }

    /// Ends all tasks.
    pub(crate) fn end(&self) {
        let tasks = std::mem::take(&mut *self.tasks());
        tasks.iter().for_each(|own| own.1.abort());
    }

    /// Whether an idle connection is within bb8's bounds.
    pub(crate) fn should_retain(&self, connection: &Connection, now: Instant) -> bool {
        let within = |since, max: Option<Duration>| {
            max.is_none_or(|max| now.saturating_duration_since(since) < max)
        };
        within(connection.idle_since(), self.idle_timeout)
            && within(connection.created(), self.max_lifetime)
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

async fn run(interval: Duration, reap: impl Fn() -> bool) {
    loop {
        sleep(interval).await;
        if !reap() {
            return;
        }
    }
}
