//! The queue under workers of apalis, on the test kit's servers and on a real one.

#[path = "../../tests/support/process.rs"]
mod process;

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apalis::prelude::*;
use bson::{DateTime, Document, doc};
use mongo_example_jobs::backend::{OperationKind, Pools};
use mongo_example_jobs::{Counts, Queue, QueueConfig};
use mongo_testkit::{Deployment, RealServer, ScriptedServer};
use process::Process;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const POLL: Duration = Duration::from_millis(20);
/// The limit of every wait.
const LIMIT: Duration = Duration::from_secs(40);
/// For tests of other things: it does not end.
const LONG: Duration = Duration::from_secs(600);

#[derive(Deserialize, Serialize)]
enum Job {
    Number(u32),
    /// Waits for a permit.
    Waits,
    /// Fails in its first attempts.
    Fails(usize),
}

/// The workers that started jobs, and the permits of jobs that wait.
#[derive(Clone)]
struct Log {
    started: Arc<Mutex<Vec<String>>>,
    permits: Arc<Semaphore>,
}

impl Log {
    fn new() -> Self {
        Self {
            started: Arc::default(),
            permits: Arc::new(Semaphore::new(0)),
        }
    }

    fn started(&self) -> Vec<String> {
        self.started.lock().expect("no panic").clone()
    }

    async fn wait_for_starts(&self, starts: usize) {
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
fn start(queue: &Queue, log: &Log, name: &str) -> (WorkerContext, JoinHandle<()>) {
    let context = WorkerContext::new(name);
    let worker = WorkerBuilder::new(&context)
        .backend(queue.source())
        .concurrency(1)
        .data(log.clone())
        .build(run_job);
    let task = tokio::spawn(async move { worker.run().await.expect("a worker") });
    (context, task)
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < LIMIT, "no {what}");
        tokio::time::sleep(POLL).await;
    }
}

async fn wait_for(queue: &Queue, wanted: Counts) {
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

fn counts(waiting: u64, running: u64, done: u64, failed: u64) -> Counts {
    Counts {
        waiting,
        running,
        done,
        failed,
    }
}

struct Fixture {
    pools: Pools,
    queue: Queue,
    database: String,
    collection: &'static str,
}

impl Fixture {
    fn new(url: &str, collection: &'static str, lease: Duration) -> Self {
        Self::within("jobs", url, collection, lease)
    }

    fn within(database: &str, url: &str, collection: &'static str, lease: Duration) -> Self {
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

    async fn push(&self, jobs: impl IntoIterator<Item = Job>) {
        let jobs = jobs.into_iter().collect();
        self.queue.source().push_bulk(jobs).await.expect("jobs");
    }

    async fn documents(&self) -> Vec<Document> {
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

    async fn only_document(&self) -> Document {
        let mut all = self.documents().await;
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// Ends all leases.
    async fn end_leases(&self) {
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

async fn runs_each_job_once(url: &str, database: &str) {
    let fixture = Fixture::within(database, url, "once", LONG);
    let (queue, log) = (&fixture.queue, Log::new());
    fixture.push((0..30).map(Job::Number)).await;
    // Each worker keeps one, so that all three have work.
    fixture.push([Job::Waits, Job::Waits, Job::Waits]).await;
    let workers = ["a", "b", "c"].map(|name| start(queue, &log, name));
    wait_for(queue, counts(0, 3, 30, 0)).await;
    log.permits.add_permits(3);
    wait_for(queue, counts(0, 0, 33, 0)).await;
    for (context, task) in workers {
        context.stop().expect("it runs");
        task.await.expect("no panic");
    }
    let mut started = log.started();
    assert_eq!(started.len(), 33);
    started.sort_unstable();
    started.dedup();
    assert_eq!(started, ["a", "b", "c"]);
    for job in fixture.documents().await {
        assert_eq!(job.get("result"), job.get("worker"), "{job}");
        assert_eq!(job.get_i64("attempts").ok(), Some(1), "{job}");
        assert!(!job.contains_key("due"), "{job}");
    }
    fixture.pools.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_job_runs_once() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    runs_each_job_once(&set.uri(), "jobs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_job_runs_once_on_a_real_server() {
    let server = RealServer::shared();
    runs_each_job_once(&server.uri(), &server.database("jobs")).await;
}

async fn takes_over_from_a_dead_worker(url: &str, database: &str) {
    let fixture = Fixture::within(database, url, "dead", Duration::from_millis(500));
    let (queue, log) = (&fixture.queue, Log::new());
    fixture.push([Job::Waits]).await;
    let (_, first) = start(queue, &log, "first");
    log.wait_for_starts(1).await;
    first.abort();
    // Aborted: it does not renew its lease.
    first.await.expect_err("it is dead");
    let (context, second) = start(queue, &log, "second");
    log.wait_for_starts(2).await;
    log.permits.add_permits(1);
    wait_for(queue, counts(0, 0, 1, 0)).await;
    context.stop().expect("it runs");
    second.await.expect("no panic");
    let job = fixture.only_document().await;
    assert_eq!(job.get_str("result").ok(), Some("second"), "{job}");
    assert_eq!(job.get_i64("attempts").ok(), Some(2), "{job}");
    fixture.pools.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_is_taken_over() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    takes_over_from_a_dead_worker(&set.uri(), "jobs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_is_taken_over_on_a_real_server() {
    let server = RealServer::shared();
    takes_over_from_a_dead_worker(&server.uri(), &server.database("jobs")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_result_is_ignored() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let fixture = Fixture::new(&set.uri(), "late", LONG);
    let (queue, slow, quick) = (&fixture.queue, Log::new(), Log::new());
    fixture.push([Job::Waits]).await;
    let (late, first) = start(queue, &slow, "late");
    slow.wait_for_starts(1).await;
    fixture.end_leases().await;
    quick.permits.add_permits(1);
    let (context, second) = start(queue, &quick, "second");
    wait_for(queue, counts(0, 0, 1, 0)).await;
    slow.permits.add_permits(1);
    for (context, task) in [(late, first), (context, second)] {
        context.stop().expect("it runs");
        task.await.expect("no panic");
    }
    assert_eq!(slow.permits.available_permits(), 0, "it has ended");
    let job = fixture.only_document().await;
    assert_eq!(job.get_str("result").ok(), Some("second"), "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_renew_the_lease() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let fixture = Fixture::new(&set.uri(), "renewed", Duration::from_secs(3));
    let (queue, log) = (&fixture.queue, Log::new());
    fixture.push([Job::Waits]).await;
    let (context, task) = start(queue, &log, "worker");
    log.wait_for_starts(1).await;
    let due = async || {
        let due = fixture.only_document().await;
        *due.get_datetime("due").expect("a lease")
    };
    let first = due().await;
    until("renewal", async || due().await > first).await;
    log.permits.add_permits(1);
    wait_for(queue, counts(0, 0, 1, 0)).await;
    context.stop().expect("it runs");
    task.await.expect("no panic");
    assert_eq!(log.started().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_is_tried_again() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let fixture = Fixture::new(&set.uri(), "failed", LONG);
    let (queue, log) = (&fixture.queue, Log::new());
    fixture.push([Job::Fails(1), Job::Fails(9)]).await;
    let (context, task) = start(queue, &log, "worker");
    wait_for(queue, counts(0, 0, 1, 1)).await;
    context.stop().expect("it runs");
    task.await.expect("no panic");
    assert_eq!(log.started().len(), 2 + 3);
    for job in fixture.documents().await {
        assert_eq!(job.get_str("error").ok(), Some("it failed"), "{job}");
    }
}

/// A job that kills its worker each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_given_up_after_its_last_lease() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let fixture = Fixture::new(&set.uri(), "given_up", LONG);
    let (queue, log) = (&fixture.queue, Log::new());
    fixture.push([Job::Waits]).await;
    for attempt in 1..=3 {
        let (_, task) = start(queue, &log, "worker");
        log.wait_for_starts(attempt).await;
        task.abort();
        task.await.expect_err("it is dead");
        fixture.end_leases().await;
    }
    // A worker looks for such jobs at its start too.
    let (context, task) = start(queue, &log, "worker");
    wait_for(queue, counts(0, 0, 0, 1)).await;
    context.stop().expect("it runs");
    task.await.expect("no panic");
    assert_eq!(log.started().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_running_jobs_and_leaves_the_rest() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let fixture = Fixture::new(&set.uri(), "stopped", LONG);
    let (queue, log) = (&fixture.queue, Log::new());
    fixture.push((0..5).map(|_| Job::Waits)).await;
    let (context, task) = start(queue, &log, "worker");
    log.wait_for_starts(1).await;
    context.stop().expect("it runs");
    assert!(!task.is_finished());
    log.permits.add_permits(5);
    task.await.expect("no panic");
    let left = queue.counts().await.expect("counts");
    assert_eq!(left, counts(4, 0, 1, 0));
    assert_eq!(log.started().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_added_once() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let fixture = Fixture::new(&set.uri(), "keys", LONG);
    for number in [1, 2] {
        let job = TaskBuilder::new(Job::Number(number)).idempotency_key("key");
        let later = job.run_in_hours(1).build();
        fixture
            .queue
            .source()
            .push_task(later)
            .await
            .expect("a job");
    }
    let job = fixture.only_document().await;
    assert_eq!(
        job.get_document("args").ok(),
        Some(&doc! { "Number": 1_i64 })
    );
    assert!(*job.get_datetime("due").expect("a time") > DateTime::now());
}

/// The program, with short leases.
fn program(url: &str, settings: &[(&str, &str)]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_mongo-example-jobs"));
    program.env("MONGODB_URI", url).env("LEASE_MS", "1000");
    program.envs(settings.iter().copied());
    program
}

fn takes_over_from_a_killed_process(fixture: &Fixture, url: &str) {
    let runtime = tokio::runtime::Handle::current();
    let slow = [("FRAMES", "20"), ("WORKERS", "3"), ("FRAME_MS", "60000")];
    let first = Process::start(&mut program(url, &slow));
    runtime.block_on(wait_for(&fixture.queue, counts(17, 3, 0, 0)));
    first.signal("KILL");
    let (status, _) = first.end();
    assert!(!status.success(), "{status}");
    let quick = doc! { "q": {}, "u": { "$set": { "args.millis": 5_i64 } }, "multi": true };
    let quick = doc! { "update": "frames", "updates": [quick] };
    let quick = fixture
        .pools
        .command("film", &quick)
        .kind(OperationKind::Write);
    let quick = runtime.block_on(quick.not_retryable().into_future());
    quick.expect("a reply").check_write().expect("an update");
    let (status, output) = Process::start(&mut program(url, &[("FRAMES", "20")])).end();
    assert!(status.success(), "{status}\n{output}");
    assert!(output.contains("20 done, 0 failed, 0 left"), "{output}");
    runtime.block_on(fixture.pools.close());
}

async fn survives_a_kill(url: String) {
    let pools = Pools::new(&url).expect("a URL");
    let config = QueueConfig::default();
    let queue = Queue::new(pools.clone(), "film", "frames", config);
    let fixture = Fixture {
        pools,
        queue,
        database: "film".to_owned(),
        collection: "frames",
    };
    let kill = move || takes_over_from_a_killed_process(&fixture, &url);
    tokio::task::spawn_blocking(kill).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_no_job() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    survives_a_kill(set.uri()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_no_job_on_a_real_server() {
    // The program names its database.
    let server = RealServer::builder().sole_use().start();
    survives_a_kill(server.uri()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_finishes_running_jobs() {
    let server = ScriptedServer::start().await;
    let settings = [("FRAMES", "40"), ("FRAME_MS", "300")];
    let process = Process::start(&mut program(&server.uri(), &settings));
    server
        .wait_for("a claim", |seen| seen.count("findAndModify") > 4)
        .await;
    process.signal("INT");
    let ended = tokio::task::spawn_blocking(|| process.end()).await;
    let (status, output) = ended.expect("no panic");
    assert!(status.success(), "{status}\n{output}");
    let last = output.lines().last().unwrap_or_default();
    let numbers: Vec<u32> = last
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    let &[done, 0, left] = &numbers[..] else {
        panic!("{output}");
    };
    assert!(done >= 4 && left > 0 && done + left == 40, "{output}");
    let jobs = server.documents("film.frames");
    let running = jobs
        .iter()
        .filter(|job| job.get_str("state").ok() == Some("running"));
    assert_eq!(running.count(), 0, "{jobs:?}");
    server
        .wait_for("no connection", |seen| seen.open == 0)
        .await;
}

/// `script` gives the program a terminal.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_a_bar() {
    let server = ScriptedServer::start().await;
    let mut script = Command::new("script");
    script.args([
        "-qec",
        env!("CARGO_BIN_EXE_mongo-example-jobs"),
        "/dev/null",
    ]);
    script
        .env("MONGODB_URI", server.uri())
        .env("FRAMES", "20")
        .env("TERM", "xterm");
    let end = move || {
        let mut process = Process::start(&mut script);
        process.after("20 done");
        process.end()
    };
    let ended = tokio::task::spawn_blocking(end).await;
    let (status, output) = ended.expect("no panic");
    assert!(status.success(), "{status}\n{output}");
    for part in [
        "\x1b[",
        "] 20/20 0 running, 0 failed",
        "20 done, 0 failed, 0 left",
    ] {
        assert!(output.contains(part), "no {part:?} in:\n{output}");
    }
}
