//! Jobs, workers that log them, and a queue on a server.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apalis::prelude::*;
use bson::{DateTime, Document, doc};
use mongo_example_jobs::backend::{OperationKind, Pools};
use mongo_example_jobs::{Counts, Queue, QueueConfig};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const POLL: Duration = Duration::from_millis(20);
/// The limit of every wait.
const LIMIT: Duration = Duration::from_secs(40);
/// For tests of other things: it does not end.
pub(crate) const LONG: Duration = Duration::from_secs(600);

#[derive(Deserialize, Serialize)]
pub(crate) enum Job {
    Number(u32),
    /// Waits for a permit.
    Waits,
    /// Fails in its first attempts.
    Fails(usize),
}

/// The workers that started jobs, and the permits of jobs that wait.
#[derive(Clone)]
pub(crate) struct Log {
    started: Arc<Mutex<Vec<String>>>,
    pub(crate) permits: Arc<Semaphore>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self {
            started: Arc::default(),
            permits: Arc::new(Semaphore::new(0)),
        }
    }

    pub(crate) fn started(&self) -> Vec<String> {
        self.started.lock().expect("no panic").clone()
    }

    pub(crate) async fn wait_for_starts(&self, starts: usize) {
        until("starts", async || self.started().len() >= starts).await;
    }
}

async fn run_job(
    job: Job,
    log: Data<Log>,
    attempt: Attempt,
    worker: WorkerContext,
) -> Result<String, BoxDynError> {
    let name = worker.name().to_owned();
    log.started.lock().expect("no panic").push(name.clone());
    match job {
        Job::Number(_) => {}
        Job::Waits => log.permits.acquire().await?.forget(),
        Job::Fails(times) if attempt.current() <= times => Err("it failed")?,
        Job::Fails(_) => {}
    }
    Ok(name)
}

/// Starts a worker. Aborting its task is its sudden death.
pub(crate) fn start(queue: &Queue, log: &Log, name: &str) -> (WorkerContext, JoinHandle<()>) {
    let context = WorkerContext::new(name);
    let worker = WorkerBuilder::new(&context)
        .backend(queue.source())
        .concurrency(1)
        .data(log.clone())
        .build(run_job);
    let task = tokio::spawn(async move { worker.run().await.expect("a worker") });
    (context, task)
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < LIMIT, "no {what}");
        tokio::time::sleep(POLL).await;
    }
}

pub(crate) async fn wait_for(queue: &Queue, wanted: Counts) {
    let begun = Instant::now();
    loop {
        let counts = queue.counts().await.expect("counts");
        if counts == wanted {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "{counts:?}, not {wanted:?}");
        tokio::time::sleep(POLL).await;
    }
}

pub(crate) fn counts(waiting: u64, running: u64, done: u64, failed: u64) -> Counts {
    Counts {
        waiting,
        running,
        done,
        failed,
    }
}

pub(crate) struct Fixture {
    pub(crate) pools: Pools,
    pub(crate) queue: Queue,
    pub(crate) database: String,
    pub(crate) collection: &'static str,
}

impl Fixture {
    pub(crate) fn new(url: &str, collection: &'static str, lease: Duration) -> Self {
        Self::within("jobs", url, collection, lease)
    }

    pub(crate) fn within(
        database: &str,
        url: &str,
        collection: &'static str,
        lease: Duration,
    ) -> Self {
        let pools = Pools::new(url).expect("a URL");
        let config = QueueConfig {
            lease,
            attempts: 3,
            pause: Duration::from_millis(50),
            poll: POLL,
        };
        let queue = Queue::new(pools.clone(), database, collection, config);
        Self {
            pools,
            queue,
            database: database.to_owned(),
            collection,
        }
    }

    pub(crate) async fn push(&self, jobs: impl IntoIterator<Item = Job>) {
        let jobs = jobs.into_iter().collect();
        self.queue.source().push_bulk(jobs).await.expect("jobs");
    }

    pub(crate) async fn documents(&self) -> Vec<Document> {
        let find = doc! { "find": self.collection };
        let find = self
            .pools
            .command(&self.database, &find)
            .kind(OperationKind::Read);
        let mut found = find.cursor().await.expect("a cursor");
        let mut all = Vec::new();
        while let Some(document) = found.next().await.expect("a batch") {
            all.push(document);
        }
        all
    }

    pub(crate) async fn only_document(&self) -> Document {
        let mut all = self.documents().await;
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// Ends all leases.
    pub(crate) async fn end_leases(&self) {
        let now = DateTime::now();
        let all = doc! { "q": { "state": "running" }, "u": { "$set": { "due": now } } };
        let end = doc! { "update": self.collection, "updates": [all] };
        let end = self
            .pools
            .command(&self.database, &end)
            .kind(OperationKind::Write);
        end.await
            .expect("a reply")
            .check_write()
            .expect("an update");
    }
}
