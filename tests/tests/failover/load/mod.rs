//! A load on a replica set with changing roles, and the outcome of each operation.

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

/// The number of members of the set.
pub(crate) const MEMBERS: usize = 3;
/// The number of concurrent tasks.
pub(crate) const TASKS: u64 = 64;
/// The timeout of one operation, from server selection to the reply.
pub(crate) const BOUND: Duration = Duration::from_secs(1);
/// The number of collections. On the scripted set an insert compares all documents of its
/// collection.
const COLLECTIONS: u64 = 8;
/// The limit for waits: only a lost operation takes this long.
const LIMIT: Duration = Duration::from_secs(30);
/// The time between two changes.
const BETWEEN: Duration = Duration::from_millis(30);

/// Options with frequent checks, so that returning members are soon noticed.
pub(crate) const OPTIONS: &str =
    "heartbeatFrequencyMS=500&connectTimeoutMS=1000&serverSelectionTimeoutMS=5000";

/// A client under load. Each operation ends within [`BOUND`].
pub(crate) trait Subject: Clone + Send + Sync + 'static {
    fn connect(uri: &str, view: View) -> impl Future<Output = Self>;

    /// Inserts a document with nothing but this `_id`.
    fn write(&self, collection: &str, id: i64) -> impl Future<Output = Write> + Send;

    /// The `_id`s of the documents that match this `_id`, read from the primary, or else from a
    /// secondary.
    fn read(
        &self,
        collection: &str,
        id: i64,
        of_primary: bool,
    ) -> impl Future<Output = Result<Vec<i64>, Failure>> + Send;

    fn close(self) -> impl Future<Output = ()>;
}

/// The outcome of one write.
pub(crate) struct Write {
    /// The server that it was about to be sent to, and the time before. The client must heed
    /// everything it knew at that time.
    pub(crate) sent: Option<(String, Instant)>,
    pub(crate) outcome: Result<(), Failure>,
}

/// A write, its task, and its duration.
pub(crate) struct Attempt {
    pub(crate) id: i64,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    pub(crate) write: Write,
}

/// The log of one task.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) writes: Vec<Attempt>,
    /// Failed reads, with their start and end.
    pub(crate) failed_reads: Vec<(Failure, Instant, Instant)>,
    /// The start and end of reads that took at least as long as a short partition.
    pub(crate) slow_reads: Vec<(Instant, Instant)>,
    /// Reads by `_id` that did not return exactly the existing document.
    pub(crate) wrong: Vec<String>,
}

/// State that the tasks share with the task that changes roles.
struct Course {
    start: Instant,
    round: AtomicUsize,
    is_over: AtomicBool,
    /// The end of the last acknowledged write of each task, in microseconds from the start.
    acknowledged: Vec<AtomicU64>,
}

impl Course {
    fn micros(&self, moment: Instant) -> u64 {
        u64::try_from((moment - self.start).as_micros()).expect("not that long")
    }

    /// Waits until each task has had a write acknowledged since `moment`.
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

/// Runs the load on a set, and changes its roles in this order.
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

/// One task: writes a document, reads it back, and repeats.
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
