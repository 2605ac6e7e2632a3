//! A load on a replica set whose roles change, and what becomes of each operation.

mod change;
pub(crate) mod judge;
mod ours;
mod report;
mod view;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use mongo_testkit::Deployment;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub(crate) use change::Change;
use judge::Failure;
pub(crate) use ours::Ours;
pub(crate) use report::Report;
use report::{Cut, Round};
pub(crate) use view::View;

/// How many members the set has.
pub(crate) const MEMBERS: usize = 3;
/// How many tasks operate at a time.
pub(crate) const TASKS: u64 = 64;
/// What one operation may take, from the look for a server to the reply.
pub(crate) const BOUND: Duration = Duration::from_secs(1);
/// In the scripted set's memory an insert looks at all documents of its collection.
const COLLECTIONS: u64 = 8;
/// Nothing takes as long unless it is lost.
const LIMIT: Duration = Duration::from_secs(30);
/// The load between two changes.
const BETWEEN: Duration = Duration::from_millis(30);

/// Frequent checks, so that whoever comes back is soon seen.
pub(crate) const OPTIONS: &str =
    "heartbeatFrequencyMS=500&connectTimeoutMS=1000&serverSelectionTimeoutMS=5000";

/// A client under load. Each operation ends within [`BOUND`].
pub(crate) trait Subject: Clone + Send + Sync + 'static {
    fn connect(uri: &str, view: View) -> impl Future<Output = Self>;

    /// Inserts a document with nothing but this `_id`.
    fn write(&self, collection: &str, id: i64) -> impl Future<Output = Write> + Send;

    /// The `_id`s of the documents that are found by this one: of a primary, or else of a secondary
    /// where there is one.
    fn read(
        &self,
        collection: &str,
        id: i64,
        of_primary: bool,
    ) -> impl Future<Output = Result<Vec<i64>, Failure>> + Send;

    fn close(self) -> impl Future<Output = ()>;
}

/// What became of one write.
pub(crate) struct Write {
    /// Where it was about to be sent, and the moment before: everything known then was to be heeded.
    pub(crate) sent: Option<(String, Instant)>,
    pub(crate) outcome: Result<(), Failure>,
}

/// A write, whose it was, and how long it took.
pub(crate) struct Attempt {
    pub(crate) id: i64,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    pub(crate) write: Write,
}

/// What one task met.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) writes: Vec<Attempt>,
    /// Reads that failed, with when they began and ended.
    pub(crate) failed_reads: Vec<(Failure, Instant, Instant)>,
    /// When those began and ended that took as long as a short partition at least.
    pub(crate) slow_reads: Vec<(Instant, Instant)>,
    /// Reads by one `_id` that gave anything but the document with it, which was there.
    pub(crate) wrong: Vec<String>,
}

/// What the tasks share with the one who changes roles.
struct Course {
    start: Instant,
    round: AtomicUsize,
    is_over: AtomicBool,
    /// When the last acknowledged write of each task ended, in microseconds from the start.
    acknowledged: Vec<AtomicU64>,
}

impl Course {
    fn micros(&self, moment: Instant) -> u64 {
        u64::try_from((moment - self.start).as_micros()).expect("not that long")
    }

    /// Waits until each task had a write acknowledged since then.
    async fn all_wrote_since(&self, moment: Instant) {
        let moment = self.micros(moment);
        let behind = |task: &&AtomicU64| task.load(Ordering::Acquire) <= moment;
        let wait = async {
            while self.acknowledged.iter().any(|task| behind(&task)) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(LIMIT, wait).await.is_err() {
            let stuck = self.acknowledged.iter().filter(behind).count();
            panic!("{stuck} tasks have written nothing for {LIMIT:?}");
        }
    }
}

/// Puts the load on a set, and changes its roles in this order.
pub(crate) async fn run<S: Subject>(set: &Deployment, changes: &[Change]) -> Report {
    let view = View::default();
    let subject = S::connect(&format!("{}&{OPTIONS}", set.uri()), view.clone()).await;
    let course = Arc::new(Course {
        start: Instant::now(),
        round: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        acknowledged: (0..TASKS).map(|_| AtomicU64::new(0)).collect(),
    });
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        tasks.spawn(work(subject.clone(), course.clone(), task));
    }
    course.all_wrote_since(course.start).await;
    let mut rounds = Vec::new();
    for (number, change) in changes.iter().enumerate() {
        course.round.store(number, Ordering::Release);
        rounds.push(change.carry_out(set, &view, &course).await);
        sleep(BETWEEN).await;
    }
    course.is_over.store(true, Ordering::Release);
    let logs = timeout(LIMIT, tasks.join_all()).await;
    let logs = logs.expect("all tasks end");
    subject.close().await;
    Report::new(set, &view, rounds, logs)
}

/// One task: write, read it back, and again.
async fn work<S: Subject>(subject: S, course: Arc<Course>, task: u64) -> Log {
    let mut log = Log::default();
    for number in 0_u64.. {
        if course.is_over.load(Ordering::Acquire) {
            break;
        }
        let id = (task << 32 | number).cast_signed();
        let round = course.round.load(Ordering::Acquire);
        let collection = report::collection(round, task % COLLECTIONS);
        let begun = Instant::now();
        let write = subject.write(&collection, id).await;
        let ended = Instant::now();
        let is_acknowledged = write.outcome.is_ok();
        log.writes.push(Attempt {
            id,
            begun,
            ended,
            write,
        });
        if is_acknowledged {
            let place = usize::try_from(task).expect("a small number");
            course.acknowledged[place].store(course.micros(ended), Ordering::Release);
            read_back(&subject, &collection, id, &mut log).await;
        }
    }
    log
}

async fn read_back<S: Subject>(subject: &S, collection: &str, id: i64, log: &mut Log) {
    let begun = Instant::now();
    let read = subject.read(collection, id, id % 2 == 0).await;
    if read.is_ok() && begun.elapsed() >= change::SHORT {
        log.slow_reads.push((begun, Instant::now()));
    }
    match read {
        Ok(found) if found == [id] => {}
        Ok(found) => log.wrong.push(format!("{found:?} for {id}")),
        Err(failure) => log.failed_reads.push((failure, begun, Instant::now())),
    }
}
