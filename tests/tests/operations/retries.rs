//! Retries.

use std::time::Duration;

use mongo_core::ErrorKind;
use mongo_core::bson::{Document, doc};
use mongo_core::operation::OperationKind;
use mongo_core::pools::Backend;
use mongo_testkit::{Action, ErrorReply, Matcher};
use tokio::time::Instant;

use crate::support::World;

on_both! {
    a_read_is_retried_once,
    a_write_is_retried_with_the_same_number,
    a_generic_command_is_not_retried,
    a_write_concern_error_with_the_label_is_retried,
    an_error_without_an_effect_does_not_hide_one_with,
    a_sharded_cluster_is_retried_on_another_router,
    an_overloaded_server_is_tried_again_after_a_pause,
    a_session_on_a_lost_connection_is_not_used_again,
    a_cancelled_command_s_session_is_not_used_again,
    a_time_limit_covers_all_attempts,
    the_server_gets_the_remaining_time,
    too_little_time_for_a_round_trip_fails_at_once,
}

fn insert() -> Document {
    doc! { "insert": "c", "documents": [{ "x": 1 }] }
}

async fn a_read_is_retried_once<B: Backend<Config: Default>>() {
    for (failures, options, attempts) in [(1, "", 2), (5, "", 2), (1, "retryReads=false", 1)] {
        let world = World::<B>::replica_set(options).await;
        world.fail(
            failures,
            doc! { "failCommands": ["find"], "closeConnection": true },
        );
        let find = world.pools.command("db", &doc! { "find": "c" });
        let outcome = find.kind(OperationKind::Read).await.map(drop);
        assert_eq!(
            outcome.is_ok(),
            failures == 1 && attempts == 2,
            "{outcome:?}"
        );
        assert_eq!(world.commands.of("find").len(), attempts);
        world.pools.close().await;
    }
}

async fn a_write_is_retried_with_the_same_number<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let data = doc! {
        "failCommands": ["insert"], "errorCode": 10107, "errorLabels": ["RetryableWriteError"],
    };
    world.fail(1, data);
    let write = world.pools.command("db", &insert());
    let write = write.kind(OperationKind::Write);
    write.await.map(drop).expect("a reply");
    let inserts = world.commands.of("insert");
    let numbers: Vec<_> = inserts
        .iter()
        .map(|own| own.get_i64("txnNumber").ok())
        .collect();
    assert_eq!(numbers, [Some(1), Some(1)]);
    assert_eq!(inserts[0].get("lsid"), inserts[1].get("lsid"));
    world.pools.close().await;
}

async fn a_generic_command_is_not_retried<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    world.fail(
        1,
        doc! { "failCommands": ["find"], "closeConnection": true },
    );
    let lost = world
        .pools
        .command("db", &doc! { "find": "c" })
        .await
        .map(drop);
    lost.expect_err("a lost connection");
    assert_eq!(world.commands.of("find").len(), 1);
    world.pools.close().await;
}

async fn a_write_concern_error_with_the_label_is_retried<B: Backend<Config: Default>>() {
    for (failures, has_error) in [(1, false), (2, true)] {
        let world = World::<B>::replica_set("").await;
        let error = doc! { "code": 91, "errmsg": "shutting down" };
        let data = doc! {
            "failCommands": ["insert"], "writeConcernError": error,
            "errorLabels": ["RetryableWriteError"],
        };
        world.fail(failures, data);
        let write = world.pools.command("db", &insert());
        let write = write.kind(OperationKind::Write);
        let reply = write.await.expect("the write was done");
        assert_eq!(reply.check_write().is_err(), has_error);
        assert_eq!(world.commands.of("insert").len(), 2);
        world.pools.close().await;
    }
}

async fn an_error_without_an_effect_does_not_hide_one_with<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let refusal = |code| ErrorReply::new(code, "Refused", "not now").label("RetryableWriteError");
    let script = world
        .set
        .server(world.set.primary().expect("a primary"))
        .script();
    let first = Matcher::command("insert").once();
    script.add(first.then(Action::Error(refusal(91))));
    let second = Matcher::command("insert").once();
    let second = second.then(Action::Error(refusal(262).label("NoWritesPerformed")));
    script.add(second);
    let write = world.pools.command("db", &insert());
    let write = write.kind(OperationKind::Write);
    let error = write.await.map(drop).expect_err("two failures");
    assert_eq!(error.code(), Some(91), "{error}");
    world.pools.close().await;
}

async fn a_sharded_cluster_is_retried_on_another_router<B: Backend<Config: Default>>() {
    let world = World::<B>::sharded(2, "retryWrites=true").await;
    for router in 0..2 {
        let data = doc! { "failCommands": ["find"], "errorCode": 6 };
        world.set.fail_commands(router, doc! { "times": 1 }, data);
    }
    let find = world.pools.command("db", &doc! { "find": "c" });
    find.kind(OperationKind::Read)
        .await
        .map(drop)
        .expect_err("both fail");
    let servers = world.commands.servers_of("find");
    assert_eq!(servers.len(), 2);
    assert_ne!(servers[0], servers[1]);
    world.pools.close().await;
}

async fn an_overloaded_server_is_tried_again_after_a_pause<B: Backend<Config: Default>>() {
    let labels = ["SystemOverloadedError", "RetryableError"];
    for (options, attempts) in [
        ("", 3),
        ("maxAdaptiveRetries=1", 2),
        ("retryReads=false", 1),
    ] {
        let world = World::<B>::replica_set(options).await;
        world.ping().await.expect("a reply");
        let data = doc! { "failCommands": ["find"], "errorCode": 462, "errorLabels": labels };
        world.fail(10, data);
        let begun = Instant::now();
        let refused = world
            .pools
            .command("db", &doc! { "find": "c" })
            .await
            .map(drop);
        assert_eq!(refused.expect_err("overloaded").code(), Some(462));
        assert_eq!(world.commands.of("find").len(), attempts);
        let most = [10, 250, 650][attempts - 1];
        assert!(
            begun.elapsed() <= Duration::from_millis(most),
            "{:?}",
            begun.elapsed()
        );
        world.pools.close().await;
    }
}

async fn a_session_on_a_lost_connection_is_not_used_again<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    world.fail(
        1,
        doc! { "failCommands": ["ping"], "closeConnection": true },
    );
    world.ping().await.expect_err("lost");
    world.ping().await.expect("a reply");
    let pings = world.commands.of("ping");
    assert_ne!(pings[0].get("lsid"), pings[1].get("lsid"));
    world.pools.close().await;
}

async fn a_cancelled_command_s_session_is_not_used_again<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let ping = doc! { "ping": 1 };
    world.ping().await.expect("a reply");
    world.fail(
        1,
        doc! { "failCommands": ["ping"], "blockConnection": true, "blockTimeMS": 5000 },
    );
    let waits = tokio::time::timeout(
        Duration::from_millis(500),
        world.pools.command("db", &ping).into_future(),
    );
    assert!(waits.await.is_err(), "it is cancelled");
    world.ping().await.expect("a reply");
    let pings = world.commands.of("ping");
    assert_eq!(pings[0].get("lsid"), pings[1].get("lsid"));
    assert_ne!(pings[1].get("lsid"), pings[2].get("lsid"), "two at a time");
    world.pools.close().await;
}

async fn a_time_limit_covers_all_attempts<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    world.fail(1000, doc! { "failCommands": ["find"], "errorCode": 262, "blockConnection": true, "blockTimeMS": 100 });
    let begun = Instant::now();
    let find = world.pools.command("db", &doc! { "find": "c" });
    let find = find.kind(OperationKind::Read);
    let error = find
        .timeout(Duration::from_secs(2))
        .await
        .map(drop)
        .expect_err("never");
    assert!(error.is_timeout(), "{error}");
    assert!(
        begun.elapsed() < Duration::from_millis(2_100),
        "{:?}",
        begun.elapsed()
    );
    assert!(world.commands.of("find").len() >= 2);
    world.pools.close().await;
}

async fn the_server_gets_the_remaining_time<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("timeoutMS=5000").await;
    let ping = doc! { "ping": 1 };
    world.ping().await.expect("a reply");
    let unlimited = world.pools.command("db", &ping).timeout(Duration::ZERO);
    unlimited.await.map(drop).expect("a reply");
    let own = world
        .pools
        .command("db", &doc! { "ping": 1, "maxTimeMS": 7 });
    own.await.map(drop).expect("a reply");
    let pings = world.commands.of("ping");
    let limit = pings[0].get_i64("maxTimeMS").expect("a limit");
    assert!((1..=5000).contains(&limit), "{limit}");
    assert!(!pings[1].contains_key("maxTimeMS"));
    assert_eq!(pings[2].get_i32("maxTimeMS").ok(), Some(7));
    // The server's own limit is a time-out.
    world.fail(1, doc! { "failCommands": ["ping"], "errorCode": 50 });
    let error = world.ping().await.expect_err("too late");
    assert!(error.is_timeout(), "{error}");
    let cause = error.cause().map(|cause| cause.kind());
    assert!(matches!(cause, Some(ErrorKind::Command(_))));
    world.pools.close().await;
}

async fn too_little_time_for_a_round_trip_fails_at_once<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let warm = world.ping().await;
    warm.expect("a reply");
    // The server can't get less than a millisecond.
    let short = world.pools.command("db", &doc! { "find": "c" });
    let short = short
        .kind(OperationKind::Read)
        .timeout(Duration::from_micros(500));
    let error = short.await.map(drop).expect_err("too little");
    assert!(error.is_timeout(), "{error}");
    assert!(world.commands.of("find").is_empty());
    world.pools.close().await;
}
