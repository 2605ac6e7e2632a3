//! The queue under workers of apalis, on the test kit's servers and on a real one.

mod program;
mod support;

use std::time::Duration;

use apalis::prelude::*;
use bson::{DateTime, doc};
use mongo_testkit::{Deployment, RealServer};
use support::{Fixture, Job, LONG, Log, counts, start, until, wait_for};

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
