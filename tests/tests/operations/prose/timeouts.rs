//! Client side operations timeout.

use std::time::Duration;

use mongo_core::bson::{Document, doc};
use mongo_core::operation::{CursorType, OperationKind, SessionOptions, TransactionOptions};
use mongo_core::pools::{Backend, Pools, PoolsConfig, Session};
use mongo_core::{ErrorKind, ServerAddress};
use mongo_testkit::{Action, Deployment, Matcher};
use tokio::time::Instant;

use crate::support::{World, begun, eventually, insert, with_users_of};

on_both! {
    timeouts_5_tailable_cursors,
    timeouts_8_server_selection,
    timeouts_8_the_handshake,
    timeouts_9_the_end_of_a_session,
    timeouts_10_the_abort_of_with_transaction_has_its_time_anew,
    timeouts_the_server_gets_the_remaining_time_less_the_shortest_round_trip,
}

fn delay<B: Backend>(world: &World<B>, name: &str, millis: u64) {
    let slow = Action::Delay(Duration::from_millis(millis));
    let slow = Matcher::command(name).then(slow);
    world.set.server(0).script().add(slow);
}

async fn timeouts_5_tailable_cursors<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("timeoutMS=20").await;
    world.set.insert("db.coll", [doc! { "x": 1 }]);
    let tailable = doc! { "find": "coll", "tailable": true, "awaitData": true };
    let reply = |batch: &str, documents: Vec<Document>| {
        let cursor = doc! { batch: documents, "id": 7_i64, "ns": "db.coll" };
        Action::Reply(doc! { "ok": 1, "cursor": cursor })
    };
    let script = world.set.server(0).script();
    script.add(Matcher::command("find").then(reply("firstBatch", vec![doc! { "x": 1 }])));
    let slow = Action::Delay(Duration::from_millis(15));
    script.add(
        Matcher::command("getMore")
            .then(slow)
            .then(reply("nextBatch", vec![])),
    );
    let _ = world.ping().await;
    let find = world.pools.command("db", &tailable);
    let find = find.kind(OperationKind::Read);
    let cursor = find.cursor_type(CursorType::TailableAwait).cursor().await;
    let mut cursor = cursor.expect("a cursor");
    let first = cursor.next::<Document>().await.expect("a batch");
    assert_eq!(first, Some(doc! { "x": 1 }));
    assert!(world.commands.of("getMore").is_empty());
    let error = cursor.next::<Document>().await.expect_err("too late");
    assert!(error.is_timeout(), "{error}");
    assert_eq!(world.commands.of("getMore").len(), 2);
    drop(cursor);
    world.pools.close().await;
}

async fn timeouts_8_server_selection<B: Backend<Config: Default>>() {
    for options in [
        "serverSelectionTimeoutMS=10",
        "timeoutMS=10&serverSelectionTimeoutMS=20",
        "timeoutMS=20&serverSelectionTimeoutMS=10",
        "timeoutMS=0&serverSelectionTimeoutMS=10",
    ] {
        let world = World::<B>::replica_set(options).await;
        for member in 0..3 {
            world.set.server(member).partition().await;
        }
        let begun = Instant::now();
        let error = world.ping().await.expect_err("no server");
        let selection = error.cause().unwrap_or(&error);
        let is_selection = matches!(selection.kind(), ErrorKind::ServerSelection(_));
        assert!(is_selection, "{options}: {error}");
        let elapsed = begun.elapsed().as_millis();
        assert!((10..=15).contains(&elapsed), "{options}: {elapsed} ms");
        world.pools.close().await;
    }
}

async fn timeouts_8_the_handshake<B: Backend<Config: Default>>() {
    for options in [
        "timeoutMS=10&serverSelectionTimeoutMS=20",
        "timeoutMS=20&serverSelectionTimeoutMS=10",
    ] {
        let one = Deployment::replica_set("rs").members(1);
        let (world, pools) = with_users_of::<B>(one, options, PoolsConfig::default()).await;
        let address: ServerAddress = world.set.address(0).parse().expect("an address");
        while !is_known(&pools, &address) {
            let _ = world.ping().await;
        }
        delay(&world, "saslContinue", 30);
        let insert = doc! { "insert": "coll", "documents": [{ "x": 1 }] };
        let begun = Instant::now();
        let error = pools
            .command("db", &insert)
            .kind(OperationKind::Write)
            .await;
        let error = error.map(drop).expect_err("too late");
        assert!(error.is_timeout(), "{options}: {error}");
        let elapsed = begun.elapsed().as_millis();
        assert!((10..=25).contains(&elapsed), "{options}: {elapsed} ms");
        world.pools.close().await;
    }
}

fn is_known<B: Backend>(pools: &Pools<B>, address: &ServerAddress) -> bool {
    let known = pools.topology().snapshot();
    let entry = known.server(address);
    entry.is_some_and(|entry| entry.description().round_trip_time.is_some())
}

async fn timeouts_9_the_end_of_a_session<B: Backend<Config: Default>>() {
    let limit = Duration::from_millis(150);
    for by in ["client", "session", "operation"] {
        let options = if by == "client" { "timeoutMS=150" } else { "" };
        let world = World::<B>::replica_set(options).await;
        world.set.insert("db.c", [doc! { "x": 0 }]);
        world.ping().await.expect("known servers");
        delay(&world, "abortTransaction", 200);
        let mut session = match by {
            "session" => {
                let options = SessionOptions::default().with_default_timeout(limit);
                let mut session = world.pools.start_session(options).expect("a session");
                let options = TransactionOptions::default();
                session.start_transaction(options).expect("a transaction");
                insert(&world.pools, &mut session).await.expect("a write");
                session
            }
            _ => begun(&world).await,
        };
        // Errors of an abort are ignored.
        let begun = Instant::now();
        match by {
            "operation" => session.abort_transaction_by(limit).await.expect("an abort"),
            _ => session.end().await,
        }
        let elapsed = begun.elapsed();
        assert!((limit / 2..=limit).contains(&elapsed), "{by}: {elapsed:?}");
        world.pools.close().await;
    }
}

async fn timeouts_10_the_abort_of_with_transaction_has_its_time_anew<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::replica_set("timeoutMS=150").await;
    world.ping().await.expect("known servers");
    delay(&world, "insert", 200);
    delay(&world, "abortTransaction", 200);
    let mut session = world.session();
    let pools = &world.pools;
    let run = async |session: &mut Session<B>| insert(pools, session).await;
    let begun = Instant::now();
    let outcome = session
        .with_transaction(TransactionOptions::default(), run)
        .await;
    assert!(outcome.expect_err("too late").is_timeout());
    let elapsed = begun.elapsed().as_millis();
    assert!((250..=310).contains(&elapsed), "{elapsed} ms, twice 150");
    assert_eq!(world.commands.of("insert").len(), 1);
    assert_eq!(world.commands.of("abortTransaction").len(), 1);
    drop(session);
    world.pools.close().await;
}

/// `maxTimeMS`, with a streaming monitor, whose round trips a connection of its own measures.
async fn timeouts_the_server_gets_the_remaining_time_less_the_shortest_round_trip<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::replica_set("timeoutMS=5000&heartbeatFrequencyMS=500").await;
    world.ping().await.expect("a connection");
    let address: ServerAddress = world.set.address(0).parse().expect("an address");
    let known = || {
        let known = world.pools.topology().snapshot();
        let server = known.server(&address).expect("a member");
        server.description().min_round_trip_time
    };
    // The shortest of the last ten samples: all are of the slow network.
    world
        .network
        .set_latency(Duration::from_millis(20), Duration::from_millis(21));
    let is_slow = || known().is_some_and(|shortest| shortest >= Duration::from_millis(40));
    eventually("slow samples", is_slow).await;
    let shortest = known().expect("samples");
    assert!((40..=42).contains(&shortest.as_millis()), "{shortest:?}");
    world.commands.clear();
    world.ping().await.expect("a reply");
    let ping = &world.commands.of("ping")[0];
    let time = ping.get_i64("maxTimeMS").expect("a limit");
    assert!((4957..=4960).contains(&time), "{time} of 5000 less 40");
    world.pools.close().await;
}
