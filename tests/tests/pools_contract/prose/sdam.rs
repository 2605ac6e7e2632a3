//! Server discovery and monitoring: "Connection Pool Management" and "Connection Pool
//! Backpressure".

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::event::{CmapEvent, EventHandlers, SdamEvent};
use mongo_core::pools::{Backend, Pools};
use mongo_testkit::{Action, Authority, Deployment, Matcher, ScriptedServer, ServerTls};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{LIMIT, builder, observed, ping};

on_both! {
    connection_pool_management,
    connection_pool_backpressure,
    connection_pool_backpressure_with_tls,
}

/// The events of the monitors and the pools, in one order.
#[derive(Clone, Default)]
struct Story(Arc<Mutex<Vec<&'static str>>>);

impl Story {
    fn tell(&self, what: &'static str) {
        self.0.lock().expect("no panic").push(what);
    }

    /// Waits until these events have occurred in this order, possibly with others in between.
    async fn wait_for(&self, expected: &[&str]) {
        let told = async {
            loop {
                let told = self.0.lock().expect("no panic").clone();
                let mut told = told.iter();
                if expected.iter().all(|one| told.any(|own| own == one)) {
                    return;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let told = timeout(LIMIT, told).await;
        assert!(told.is_ok(), "{expected:?}: {:?}", self.0.lock());
    }
}

async fn connection_pool_management<B: Backend<Config: Default>>() {
    let server = Deployment::standalones(1).start().await;
    let story = Story::default();
    let (pools_story, monitors_story) = (story.clone(), story.clone());
    let handlers = EventHandlers::new().on_cmap(move |event| match event {
        CmapEvent::PoolReady(_) => pools_story.tell("pool ready"),
        CmapEvent::PoolCleared(_) => pools_story.tell("pool cleared"),
        _ => {}
    });
    let uri = format!(
        "{}directConnection=true&appName=SDAMPoolManagementTest&heartbeatFrequencyMS=500",
        server.uri()
    );
    let pools: Pools<B> = builder(&uri)
        .event_handlers(handlers)
        .on_sdam(move |event| match event {
            SdamEvent::ServerHeartbeatSucceeded(_) => monitors_story.tell("heartbeat succeeded"),
            SdamEvent::ServerHeartbeatFailed(_) => monitors_story.tell("heartbeat failed"),
            _ => {}
        })
        .build()
        .expect("pools");
    ping(&pools).await.expect("a pong");
    story.wait_for(&["heartbeat succeeded", "pool ready"]).await;
    assert_eq!(story.0.lock().expect("no panic")[0], "heartbeat succeeded");
    let data = doc! {
        "failCommands": ["hello", "ismaster"],
        "errorCode": 1234,
        "appName": "SDAMPoolManagementTest",
    };
    server.fail_commands(0, doc! {"times": 2}, data);
    story.wait_for(&["pool ready", "heartbeat failed"]).await;
    story
        .wait_for(&["pool ready", "pool cleared", "pool ready"])
        .await;
    story
        .wait_for(&["heartbeat failed", "heartbeat succeeded", "pool ready"])
        .await;
    ping(&pools).await.expect("a pong");
    pools.close().await;
    server.shutdown().await;
}

/// The connections per second that `ingressConnectionEstablishmentRatePerSec` accepts, also in one
/// burst (`ingressConnectionEstablishmentBurstCapacitySecs` 1).
const RATE_PER_SECOND: u32 = 20;

/// Accepts new connections at the rate, and closes all others as soon as they are accepted, like a
/// server with a full queue.
async fn limit_rate(server: &ScriptedServer) {
    let others = |allowed| Matcher::accept().after(allowed).then(Action::Close);
    let mut rule = server.script().add(others(u64::from(RATE_PER_SECOND)));
    loop {
        sleep(Duration::from_secs(1) / RATE_PER_SECOND).await;
        server.script().remove(rule);
        rule = server.script().add(others(1));
    }
}

async fn backpressure<B: Backend<Config: Default>>(server: ScriptedServer, uri: &str) {
    let (pools, kept) = observed(builder::<B>(&format!("{uri}&maxConnecting=100")));
    server.insert("test.test", [doc! {}]);
    ping(&pools).await.expect("a pong");
    // The find that sleeps on the server.
    let slow = Action::Delay(Duration::from_millis(500));
    server.script().add(Matcher::command("find").then(slow));
    let begun = Instant::now();
    let storm = async {
        let mut tasks = JoinSet::new();
        for _ in 0..100 {
            let pools = pools.clone();
            tasks.spawn(async move {
                let mut connection = pools.get().await?;
                let find = doc! {"find": "test", "limit": 1};
                connection.run_command("test", &find).await.map(drop)
            });
        }
        // Their errors are ignored.
        tasks.join_all().await
    };
    // The limiter never ends by itself.
    let outcomes = tokio::select! {
        outcomes = timeout(LIMIT, storm) => outcomes.expect("in time"),
        () = limit_rate(&server) => Vec::new(),
    };
    let succeeded = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let failed = kept.count("ConnectionCheckOutFailed");
    assert!(failed >= 10, "{failed} failed, {:?}", begun.elapsed());
    assert!(succeeded >= 1, "the limiter lets some in");
    assert_eq!(kept.count("PoolCleared"), 0);
    pools.close().await;
    server.shutdown().await;
}

async fn connection_pool_backpressure<B: Backend<Config: Default>>() {
    let server = ScriptedServer::builder().start().await;
    let uri = format!("mongodb://{}/?directConnection=true", server.address());
    backpressure::<B>(server, &uri).await;
}

async fn connection_pool_backpressure_with_tls<B: Backend<Config: Default>>() {
    let authority = Authority::new();
    let server = ScriptedServer::builder().tls(ServerTls::new(authority.server()));
    let server = server.start().await;
    let trusted = authority.file().display().to_string().replace('/', "%2F");
    let uri = format!(
        "mongodb://{}/?directConnection=true&tls=true&tlsCAFile={trusted}",
        server.address()
    );
    backpressure::<B>(server, &uri).await;
}
