//! A process that was frozen: replies arrived in its sockets before it continues.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::event::{CmapEvent, EventHandlers, SdamEvent};
use mongo_core::pools::Backend;
use mongo_testkit::{Action, Deployment, Matcher};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

use crate::support::{Kept, LIMIT, Sim, builder, one};

on_both! {
    on a paused clock:
    a_freeze_leaves_time_for_a_whole_handshake,
}

/// The variable that passes the backend, the runtime and the deployment to [`child`].
const CHILD: &str = "MONGO_CONTRACT_FROZEN_CHILD";

const BACKENDS: [&str; 2] = ["deadpool", "bb8"];
const RUNTIMES: [&str; 2] = ["current_thread", "multi_thread"];

/// The timeouts of a command and a heartbeat have expired when the process continues. The replies
/// arrived long before.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_frozen_process_does_not_mark_the_server_unknown() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let find = Matcher::command("find").then(Action::Delay(Duration::from_millis(500)));
    set.server(0).script().add(find);
    let mut children = Vec::new();
    for backend in BACKENDS {
        for runtime in RUNTIMES {
            let told = format!("{backend} {runtime} {}", set.uri());
            let child = Command::new(std::env::current_exe().expect("a path"))
                .args(["frozen_process::child", "--exact", "--nocapture"])
                .env(CHILD, told)
                .stdout(Stdio::null())
                .spawn();
            children.push((backend, runtime, child.expect("a child")));
        }
    }
    let count = children.len() as u64;
    set.server(0)
        .wait_for("a command of each child", |seen| {
            seen.count("find") == count
        })
        .await;
    for (_, _, child) in &children {
        signal(child, "STOP");
    }
    sleep(Duration::from_secs(3)).await;
    for (_, _, child) in &children {
        signal(child, "CONT");
    }
    for (backend, runtime, mut child) in children {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break status;
            }
            assert!(begun.elapsed() < LIMIT, "{backend}, {runtime}: no end");
            sleep(Duration::from_millis(10)).await;
        };
        assert!(status.success(), "{backend}, {runtime}: {status}");
    }
    set.shutdown().await;
}

fn signal(child: &Child, signal: &str) {
    let mut kill = Command::new("kill");
    let sent = kill.arg(format!("-{signal}")).arg(child.id().to_string());
    assert!(sent.status().expect("kill").success());
}

/// Does nothing unless the test above runs it.
#[test]
fn child() {
    let Ok(told) = std::env::var(CHILD) else {
        return;
    };
    let told: Vec<_> = told.split(' ').collect();
    let [backend, runtime, uri] = told[..] else {
        panic!("{told:?}");
    };
    let mut builder = match runtime {
        "current_thread" => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match backend {
            "deadpool" => is_frozen::<mongo_deadpool::Pool>(uri).await,
            _ => is_frozen::<mongo_bb8::Pool>(uri).await,
        }
    });
}

async fn is_frozen<B: Backend<Config: Default>>(uri: &str) {
    let failures = Arc::<AtomicUsize>::default();
    let (heartbeats, clears) = (failures.clone(), failures.clone());
    let handlers = EventHandlers::new().on_cmap(move |event| {
        if let CmapEvent::PoolCleared(_) = event {
            clears.fetch_add(1, Ordering::SeqCst);
        }
    });
    let pools = builder::<B>(&format!(
        "{uri}&heartbeatFrequencyMS=500&connectTimeoutMS=1000"
    ))
    .event_handlers(handlers)
    .on_sdam(move |event| {
        if let SdamEvent::ServerHeartbeatFailed(failed) = event {
            eprintln!("{}", failed.failure);
            heartbeats.fetch_add(1, Ordering::SeqCst);
        }
    })
    .build()
    .expect("pools");
    let mut connection = pools.get().await.expect("a connection");
    let find = doc! {"find": "c"};
    let bound = Duration::from_millis(1500);
    let found = connection.run_command_by(bound, "db", &find).await;
    found.expect("the reply arrived in time");
    // All expired timeouts have been handled.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(failures.load(Ordering::SeqCst), 0);
    drop(connection);
    pools.close().await;
}

/// The server is 60 ms away. The process is frozen for longer than `connectTimeoutMS`.
async fn a_freeze_leaves_time_for_a_whole_handshake<B: Backend<Config: Default>>() {
    for begins_after in [20, 80, 150, 200, 270] {
        let sim = Sim::of(1).await;
        let far = Duration::from_millis(60);
        sim.network.set_latency(far, far);
        let kept = Kept::default();
        let pools = sim
            .builder::<B>("connectTimeoutMS=2000")
            .event_handlers(kept.handlers())
            .build()
            .expect("pools")
            .with_credential(one())
            .expect("a handle");
        pools.connect().expect("connected");
        sleep(Duration::from_secs(1)).await;
        let waiting = tokio::spawn({
            let pools = pools.clone();
            async move { pools.get().await.map(drop) }
        });
        sleep(Duration::from_millis(begins_after)).await;
        tokio::time::advance(Duration::from_secs(5)).await;
        let got = waiting.await.expect("no panic");
        assert!(got.is_ok(), "{begins_after} ms: {got:?}");
        assert_eq!(kept.count("PoolCleared"), 0, "{begins_after} ms");
        pools.close().await;
    }
}
