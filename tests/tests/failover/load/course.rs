//! The progress of tasks under load, for the task that changes roles.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// The limit for waits: only a lost operation takes this long.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// State that the tasks share with the task that changes roles.
pub(crate) struct Course {
    start: Instant,
    is_over: AtomicBool,
    /// The end of the last acknowledged operation of each task, in microseconds from the start.
    acknowledged: Vec<AtomicU64>,
}

impl Course {
    pub(crate) fn new(tasks: u64) -> Self {
        Self {
            start: Instant::now(),
            is_over: AtomicBool::new(false),
            acknowledged: (0..tasks).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn micros(&self, moment: Instant) -> u64 {
        u64::try_from((moment - self.start).as_micros()).expect("not that long")
    }

    /// An operation of a task was acknowledged at a moment.
    pub(crate) fn acknowledged(&self, task: u64, moment: Instant) {
        let task = usize::try_from(task).expect("a small number");
        self.acknowledged[task].store(self.micros(moment), Ordering::Release);
    }

    /// Waits until each task has had an operation acknowledged since `moment`.
    pub(crate) async fn all_acknowledged_since(&self, moment: Instant) {
        let moment = self.micros(moment);
        let behind = |task: &&AtomicU64| task.load(Ordering::Acquire) <= moment;
        let wait = async {
            while self.acknowledged.iter().any(|task| behind(&task)) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(LIMIT, wait).await.is_err() {
            let stuck = self.acknowledged.iter().filter(behind).count();
            panic!("{stuck} tasks had nothing acknowledged for {LIMIT:?}");
        }
    }

    /// Ends the tasks, each after its operation.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}
