//! A load on a replica set with changing roles, and the outcome of each operation.

mod change;
mod course;
pub(crate) mod judge;
mod ours;
mod report;
mod view;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mongo_testkit::Deployment;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub(crate) use change::Change;
use course::{Course, LIMIT};
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

/// Runs the load on a set, and changes its roles in this order.
pub(crate) async fn run<S: Subject>(set: &Deployment, changes: &[Change]) -> Report {
    let view = View::default();
    let subject = S::connect(&format!("{}&{OPTIONS}", set.uri()), view.clone()).await;
    let course = Arc::new(Course::new(TASKS));
    let begun = Instant::now();
    let round = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        tasks.spawn(work(subject.clone(), course.clone(), round.clone(), task));
    }
    course.all_acknowledged_since(begun).await;
    let mut rounds = Vec::new();
    for (number, change) in changes.iter().enumerate() {
        round.store(number, Ordering::Release);
        rounds.push(change.carry_out(set, &view, &course).await);
        sleep(BETWEEN).await;
    }
    course.end();
    let logs = timeout(LIMIT, tasks.join_all()).await;
    let logs = logs.expect("all tasks end");
    subject.close().await;
    Report::new(set, &view, rounds, logs)
}

/// One task: writes a document, reads it back, and repeats.
async fn work<S: Subject>(
    subject: S,
    course: Arc<Course>,
    round: Arc<AtomicUsize>,
    task: u64,
) -> Log {
    let mut log = Log::default();
    for number in 0_u64.. {
        if course.is_over() {
            break;
        }
        let id = (task << 32 | number).cast_signed();
        let round = round.load(Ordering::Acquire);
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
            course.acknowledged(task, ended);
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
