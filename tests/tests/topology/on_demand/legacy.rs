//! Servers that refuse the command `hello` although they said `helloOk`.

use std::time::Duration;

use mongo_core::ClientOptions;
use mongo_core::event::SdamEvent;
use mongo_core::handshake::{ServerApi, ServerApiVersion};
use mongo_core::net::OnDemandTopology;
use mongo_core::select::Criterion;
use mongo_testkit::{RuleId, User};

use super::*;

const REFUSALS: [(i32, &str); 2] = [(59, "CommandNotFound"), (115, "CommandNotSupported")];

/// Has the only member refuse `hello`.
fn refuse(set: &Deployment, code: i32, name: &str) -> RuleId {
    let refused = ErrorReply::new(code, name, "no such command: 'hello'");
    let rule = Matcher::command("hello").then(Action::Error(refused));
    set.server(0).script().add(rule)
}

async fn alone(network: &SimNetwork) -> Deployment {
    let set = Deployment::replica_set("rs").members(1);
    let set = set.user(User::new("one", "first").iterations(4096));
    set.network(network).start().await
}

/// What came on a connection, in order.
fn names_on(set: &Deployment, connection: u64) -> Vec<String> {
    set.server(0).look(|seen| {
        let names = seen.names_on(connection).into_iter();
        names.map(str::to_owned).collect()
    })
}

/// The heartbeats that succeeded, and those that failed.
type Heartbeats = Arc<Mutex<[u32; 2]>>;

fn watched(builder: OnDemandTopologyBuilder) -> (OnDemandTopologyBuilder, Heartbeats) {
    let heartbeats = Heartbeats::default();
    let kept = heartbeats.clone();
    let builder = builder.event_handler(move |event| {
        let [succeeded, failed] = &mut *kept.lock().expect("no panic");
        match event {
            SdamEvent::ServerHeartbeatSucceeded(_) => *succeeded += 1,
            SdamEvent::ServerHeartbeatFailed(_) => *failed += 1,
            _ => {}
        }
    });
    (builder, heartbeats)
}

/// The next selection scans.
async fn scan(topology: &mut OnDemandTopology) -> Result<(), Error> {
    sleep(Duration::from_secs(61)).await;
    topology.select(&Criterion::write()).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_scan_keeps_the_legacy_hello() {
    for (code, name) in REFUSALS {
        let network = SimNetwork::new(61);
        let set = alone(&network).await;
        let refused = refuse(&set, code, name);
        let (builder, heartbeats) = watched(over(&set.uri(), &network));
        let mut topology = builder.build().expect("a topology");
        for _ in 0..3 {
            scan(&mut topology).await.expect("a primary");
        }
        // The one that is refused, and another one within the same check; from then on the legacy one.
        let expected = ["isMaster", "hello", "isMaster", "isMaster"];
        assert_eq!(names_on(&set, 1), expected, "{code}");

        // A new connection changes nothing of that.
        let closes = Matcher::command("ismaster").once().drop_connection();
        set.server(0).script().add(closes);
        for _ in 0..3 {
            scan(&mut topology).await.expect("a primary");
        }
        assert_eq!(names_on(&set, 2), ["isMaster"; 3], "{code}");
        assert_eq!(set.server(0).script().applied(refused), 1);
        assert_eq!(*heartbeats.lock().expect("no panic"), [6, 1], "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_keeps_the_legacy_hello() {
    for (code, name) in REFUSALS {
        for user in [None, Some("one")] {
            let network = SimNetwork::new(62);
            let set = alone(&network).await;
            let refused = refuse(&set, code, name);
            let uri = user.map_or_else(|| set.uri(), |user| set.uri_for(user, "first"));
            let (builder, heartbeats) = watched(over(&uri, &network));
            let mut client = builder.build_client().expect("a client");
            for _ in 0..3 {
                ping(&mut client).await.expect("a ping");
                sleep(Duration::from_secs(61)).await;
            }
            let names = names_on(&set, 1);
            let after = names.iter().position(|name| name == "ping");
            let expected = ["ping", "hello", "isMaster", "ping", "isMaster", "ping"];
            assert_eq!(names[after.expect("a ping")..], expected, "{code} {user:?}");
            assert_eq!(accepted(&set), [1], "{code} {user:?}");

            let closes = Matcher::command("ping").once().drop_connection();
            set.server(0).script().add(closes);
            ping(&mut client).await.expect_err("closed");
            for _ in 0..2 {
                ping(&mut client).await.expect("a ping");
                sleep(Duration::from_secs(61)).await;
            }
            assert_eq!(accepted(&set), [2], "{code} {user:?}");
            assert_eq!(set.server(0).script().applied(refused), 1);
            assert_eq!(heartbeats.lock().expect("no panic")[1], 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_refusal_of_hello_fails_the_check() {
    for (code, name) in [(13, "Unauthorized"), (26, "NamespaceNotFound")] {
        let network = SimNetwork::new(63);
        let set = alone(&network).await;
        let refused = refuse(&set, code, name);
        let (builder, heartbeats) = watched(over(&set.uri(), &network));
        let mut topology = builder.build().expect("a topology");
        for _ in 0..2 {
            scan(&mut topology).await.expect("a primary");
            let error = scan(&mut topology).await.expect_err("refused");
            assert!(error.to_string().contains("no such command"), "{error}");
        }
        // Each is told at once, and ends its connection.
        let names = [1, 2].map(|connection| names_on(&set, connection));
        assert_eq!(names, [["isMaster", "hello"]; 2], "{code}");
        assert_eq!(set.server(0).script().applied(refused), 2);
        assert_eq!(*heartbeats.lock().expect("no panic"), [2, 2], "{code}");
    }
}

/// The stable API has no legacy hello, whatever the code says, on a connection that is there or a
/// new one.
#[tokio::test(start_paused = true)]
async fn the_stable_api_stays_with_hello() {
    for (code, name) in REFUSALS {
        for answered in [0, 1] {
            let network = SimNetwork::new(64);
            let set = alone(&network).await;
            let refusal = ErrorReply::new(code, name, "no such command: 'hello'");
            let rule = Matcher::command("hello").after(answered);
            set.server(0)
                .script()
                .add(rule.then(Action::Error(refusal)));
            let mut options = ClientOptions::parse(&set.uri()).expect("a URI");
            options.server_api = Some(ServerApi::new(ServerApiVersion::V1));
            let builder = OnDemandTopology::builder(options);
            let builder = builder.connector(Arc::new(OverSim(network.clone())));
            let (builder, heartbeats) = watched(builder);
            let mut topology = builder.build().expect("a topology");
            for _ in 0..answered {
                scan(&mut topology).await.expect("a primary");
            }
            let error = scan(&mut topology).await.expect_err("refused");
            assert!(error.to_string().contains("no such command"), "{error}");
            assert_eq!(set.server(0).look(|seen| seen.count("ismaster")), 0);
            let [succeeded, failed] = *heartbeats.lock().expect("no panic");
            assert_eq!(u64::from(succeeded), answered, "{code}");
            assert!(failed > 0, "{code}");
        }
    }
}
