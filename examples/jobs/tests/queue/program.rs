//! The program of the queue, as processes.

#[path = "../../../tests/support/process.rs"]
mod process;

use std::process::Command;

use bson::doc;
use mongo_example_jobs::backend::{OperationKind, Pools};
use mongo_example_jobs::{Queue, QueueConfig};
use mongo_testkit::{Deployment, RealServer, ScriptedServer};
use process::Process;

use crate::support::{Fixture, counts, wait_for};

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
