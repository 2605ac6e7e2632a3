//! Hostile servers, careless callers and dropped futures.

use std::time::Duration;

use futures_util::StreamExt;
use mongo_core::Result;
use mongo_core::bson::{Document, doc, serialize_to_vec};
use mongo_core::operation::{OperationKind, SessionOptions, TransactionOptions};
use mongo_core::pools::{Backend, Session};
use mongo_testkit::{Action, Matcher};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    World, begun, behind_a_balancer, eventually, find, insert, no_transaction, open, with_orders,
};

on_both! {
    the_comment_of_batches_does_not_depend_on_the_order,
    the_recovery_token_is_that_of_the_last_reply,
    close_waits_for_a_dropped_cursor,
    close_waits_for_a_dropped_transaction,
    a_huge_recovery_token_is_not_sent,
    a_stream_skips_no_lost_batch,
    a_suspended_cursor_keeps_the_error_of_its_fetch,
    an_abort_with_its_own_limit_within_with_transaction_reaches_the_server,
    with_transaction_takes_any_limit,
    a_long_limit_is_lowered_to_the_servers_maximum,
    a_command_shows_no_secret,
    an_exhausted_pool_names_its_pinned_cursors,
    close_is_bounded_with_a_pinned_cursor,
    a_panic_in_a_transaction_aborts_it,
    a_cursor_dropped_outside_of_a_runtime_is_closed,
    a_cancelled_command_behind_a_load_balancer_leaks_nothing,
    a_huge_batch_is_read_in_linear_time,
    a_commit_without_a_primary_is_unknown,
    futures_are_small,
    an_exhausted_pool_names_its_pinned_transactions,
    a_cancelled_with_transaction_is_aborted,
    an_error_shows_no_control_characters_of_the_server,
}

async fn an_abort_with_its_own_limit_within_with_transaction_reaches_the_server<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    let (limit, pools) = (Duration::from_secs(10), &world.pools);
    let run = async |session: &mut Session<B>| {
        insert(pools, session).await?;
        session.abort_transaction_by(Duration::from_secs(1)).await
    };
    let _ = session
        .with_transaction_by(limit, TransactionOptions::default(), run)
        .await;
    drop(session);
    no_transaction(&world).await;
    world.pools.close().await;
}

async fn with_transaction_takes_any_limit<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    let pools = &world.pools;
    let run = async |session: &mut Session<B>| insert(pools, session).await;
    session
        .with_transaction_by(Duration::MAX, TransactionOptions::default(), run)
        .await
        .expect("a commit");
    drop(session);
    world.pools.close().await;
}

async fn a_long_limit_is_lowered_to_the_servers_maximum<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    for days in [1, 60] {
        let limit = Duration::from_secs(days * 24 * 3600);
        let ping = doc! { "ping": 1 };
        let ping = world.pools.command("db", &ping).timeout(limit);
        ping.await.map(drop).expect("a reply");
    }
    for own in world.commands.of("ping") {
        let time = own.get_i64("maxTimeMS").unwrap_or_default();
        assert!(time <= i32::MAX.into(), "servers refuse {time}");
    }
    world.pools.close().await;
}

async fn a_command_shows_no_secret<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut connection = world.pools.get().await.expect("a connection");
    let create = doc! { "createUser": "app", "pwd": "pencil", "roles": [] };
    let shown = format!("{:?}", connection.command("admin", &create));
    let coded: String = "pencil".bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(
        !shown.contains("pencil") && !shown.contains(&coded),
        "{shown}"
    );
    drop(connection);
    world.pools.close().await;
}

async fn an_exhausted_pool_names_its_pinned_cursors<B: Backend<Config: Default>>() {
    let world = behind_a_balancer::<B>("maxPoolSize=1&waitQueueTimeoutMS=500").await;
    let orders = open(&world).await;
    let ping = doc! { "ping": 1 };
    let error = world.pools.command("shop", &ping).await.map(drop);
    let error = error.expect_err("no connection");
    assert!(error.to_string().contains("cursor"), "{error}");
    orders.close().await;
    let reply = world.pools.command("shop", &ping).await;
    reply.map(drop).expect("a reply");
    world.pools.close().await;
}

async fn close_is_bounded_with_a_pinned_cursor<B: Backend<Config: Default>>() {
    let world = behind_a_balancer::<B>("").await;
    let mut orders = open(&world).await;
    let start = Instant::now();
    world.pools.close().await;
    assert!(
        start.elapsed() <= Duration::from_secs(12),
        "{:?}",
        start.elapsed()
    );
    let after = async { while let Ok(Some(_)) = orders.next_document().await {} };
    timeout(Duration::from_secs(1), after)
        .await
        .expect("an end");
    timeout(Duration::from_secs(1), orders.close())
        .await
        .expect("an end");
}

async fn a_panic_in_a_transaction_aborts_it<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let pools = world.pools.clone();
    let task = tokio::spawn(async move {
        let mut session = pools.start_session(SessionOptions::default())?;
        let options = TransactionOptions::default();
        let run = session.with_boxed_transaction(options, pools, |session, pools| {
            Box::pin(async move {
                insert(pools, session).await?;
                panic!("in the function");
            })
        });
        run.await
    });
    let outcome: Result<Result<()>, _> = task.await;
    assert!(outcome.expect_err("a panic").is_panic());
    no_transaction(&world).await;
    world.pools.close().await;
}

async fn a_cursor_dropped_outside_of_a_runtime_is_closed<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let orders = open(&world).await.suspend().await;
    let dropping = std::thread::spawn(move || drop(orders));
    dropping.join().expect("no panic");
    let open = || world.set.server(0).open_cursors();
    eventually("no cursor", || open() == 0).await;
    world.pools.close().await;
}

async fn a_cancelled_command_behind_a_load_balancer_leaks_nothing<B: Backend<Config: Default>>() {
    let world = World::<B>::load_balanced("").await;
    let mut session = begun(&world).await;
    world.cancelled_insert(&mut session).await;
    let _ = session.abort_transaction().await;
    let in_use = || world.in_use();
    assert_eq!(in_use(), 0);
    drop(session);
    world.pools.close().await;
}

async fn a_huge_batch_is_read_in_linear_time<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let batch = vec![doc! { "a": 1 }; 100_000];
    let cursor = doc! { "firstBatch": batch, "id": 0_i64, "ns": "shop.orders" };
    let reply = Action::Reply(doc! { "ok": 1, "cursor": cursor });
    let rule = Matcher::command("find").then(reply);
    world.set.server(0).script().add(rule);
    let orders = open(&world).await;
    let begun = std::time::Instant::now();
    assert_eq!(orders.count().await, 100_000);
    assert!(begun.elapsed() < Duration::from_secs(10));
    world.pools.close().await;
}

async fn a_commit_without_a_primary_is_unknown<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("serverSelectionTimeoutMS=500").await;
    let mut session = begun(&world).await;
    world.set.step_down(0);
    let error = session.commit_transaction().await.expect_err("no primary");
    assert!(
        error.has_label("UnknownTransactionCommitResult"),
        "{error:?}"
    );
    assert!(!error.has_label("TransientTransactionError"), "{error:?}");
    drop(session);
    world.pools.close().await;
}

async fn futures_are_small<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let pools = &world.pools;
    let find = find();
    let open = pools.command("shop", &find).cursor();
    let cursor = size_of_val(&open);
    drop(open);
    let mut session = world.session();
    let commit = size_of_val(&session.commit_transaction());
    let whole = {
        let run = async |session: &mut Session<B>| insert(pools, session).await;
        size_of_val(&session.with_transaction(TransactionOptions::default(), run))
    };
    let command = size_of_val(&pools.command("shop", &find));
    let sizes = format!("cursor {cursor}, commit {commit}, whole {whole}, command {command}");
    eprintln!("{sizes}");
    assert!(cursor.max(commit).max(whole) < 4096, "{sizes}");
    drop(session);
    world.pools.close().await;
}

async fn an_exhausted_pool_names_its_pinned_transactions<B: Backend<Config: Default>>() {
    let world = behind_a_balancer::<B>("maxPoolSize=1&waitQueueTimeoutMS=500").await;
    let mut session = begun(&world).await;
    let ping = world.pools.command("db", &doc! { "ping": 1 }).await;
    let error = ping.map(drop).expect_err("no connection");
    assert!(error.to_string().contains("transaction"), "{error}");
    session.abort_transaction().await.expect("an abort");
    let ping = world.pools.command("db", &doc! { "ping": 1 }).await;
    ping.map(drop).expect("a reply");
    drop(session);
    world.pools.close().await;
}

async fn a_cancelled_with_transaction_is_aborted<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    let pools = &world.pools;
    let run = async |session: &mut Session<B>| {
        insert(pools, session).await?;
        sleep(Duration::from_secs(5)).await;
        Ok(())
    };
    let run = session.with_transaction(TransactionOptions::default(), run);
    let short = Duration::from_secs(1);
    timeout(short, run).await.expect_err("slow").to_string();
    drop(session);
    no_transaction(&world).await;
    world.pools.close().await;
}

/// The first `getMore` is executed, but its reply is lost.
fn lose_a_batch<B: Backend>(world: &World<B>, after: Duration) {
    let rule = Matcher::command("getMore").times(1);
    let rule = rule.then(Action::Delay(after));
    let rule = rule.then(Action::NoReply).then(Action::Close);
    world.set.server(0).script().add(rule);
}

async fn a_stream_skips_no_lost_batch<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    lose_a_batch(&world, Duration::ZERO);
    let orders = open(&world).await;
    let mut ids = Vec::new();
    let mut errors = 0;
    let all: Vec<_> = orders.take(20).collect().await;
    for order in all {
        match order {
            Ok(order) => ids.push(order.get_i32("_id").expect("a number")),
            Err(_) => errors += 1,
        }
    }
    assert!(errors > 0);
    assert_eq!(ids, [0, 1, 2], "what follows the lost batch");
    world.pools.close().await;
}

async fn a_suspended_cursor_keeps_the_error_of_its_fetch<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    lose_a_batch(&world, Duration::from_secs(1));
    let mut orders = open(&world).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let next = orders.next::<Document>().await.expect("a document");
        ids.push(next.expect("one").get_i32("_id").expect("a number"));
    }
    let short = Duration::from_millis(300);
    timeout(short, orders.next_document())
        .await
        .map(drop)
        .expect_err("a fetch");
    let mut orders = orders.suspend().await.resume_alone().expect("its own");
    let outcome = loop {
        match orders.next::<Document>().await {
            Ok(Some(next)) => ids.push(next.get_i32("_id").expect("a number")),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    assert!(
        outcome.is_err() || ids == Vec::from_iter(0..10),
        "lost without an error: {ids:?}"
    );
    drop(orders);
    world.pools.close().await;
}

async fn a_huge_recovery_token_is_not_sent<B: Backend<Config: Default>>() {
    let world = World::<B>::sharded(1, "").await;
    let token = doc! { "recoveryToken": { "x": "x".repeat(1_000_000) } };
    let rule = Matcher::command("insert").then(Action::Merge(token));
    world.set.server(0).script().add(rule);
    let mut session = begun(&world).await;
    let _ = session.commit_transaction().await;
    let commit = &world.commands.of("commitTransaction")[0];
    let length = serialize_to_vec(commit).expect("BSON").len();
    assert!(length < 64 * 1024, "{length} bytes");
    drop(session);
    world.pools.close().await;
}

async fn close_waits_for_a_dropped_transaction<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let session = begun(&world).await;
    drop(session);
    world.pools.close().await;
    assert_eq!(world.set.server(0).open_transactions(), 0);
    let ended = world.commands.of("endSessions");
    let ended: usize = ended
        .iter()
        .filter_map(|own| own.get_array("endSessions").ok())
        .map(Vec::len)
        .sum();
    assert_eq!(ended, 1, "its session");
}

async fn close_waits_for_a_dropped_cursor<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    drop(open(&world).await);
    world.pools.close().await;
    assert_eq!(world.set.server(0).open_cursors(), 0);
}

async fn the_recovery_token_is_that_of_the_last_reply<B: Backend<Config: Default>>() {
    let world = World::<B>::sharded(1, "").await;
    let mut session = begun(&world).await;
    let token = doc! { "recoveryToken": { "last": true } };
    let rule = Matcher::command("commitTransaction").then(Action::Merge(token));
    world.set.server(0).script().add(rule);
    session.commit_transaction().await.expect("a commit");
    let _ = session.commit_transaction().await;
    let again = &world.commands.of("commitTransaction")[1];
    assert_eq!(
        again.get_document("recoveryToken").ok(),
        Some(&doc! { "last": true })
    );
    drop(session);
    world.pools.close().await;
}

async fn the_comment_of_batches_does_not_depend_on_the_order<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let find = world.pools.command("shop", &find());
    let find = find.get_more_comment("batch").comment("first");
    let orders = find.cursor().await.expect("a cursor");
    assert_eq!(orders.count().await, 10);
    let first = &world.commands.of("find")[0];
    assert_eq!(first.get_str("comment").ok(), Some("first"));
    let more = &world.commands.of("getMore")[0];
    assert_eq!(more.get_str("comment").ok(), Some("batch"));
    world.pools.close().await;
}

async fn an_error_shows_no_control_characters_of_the_server<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let script = world.set.server(0).script();
    for length in [500, 20_000] {
        script.clear();
        let namespace = format!("shop.a\n\u{1b}[31m{}", "x".repeat(length));
        let batch = |name: &str| doc! { name: [], "id": 7_i64, "ns": &namespace };
        for (command, name) in [("find", "firstBatch"), ("getMore", "nextBatch")] {
            let reply = doc! { "ok": 1, "cursor": batch(name) };
            script.add(Matcher::command(command).then(Action::Reply(reply)));
        }
        let find = world.pools.command("shop", &find());
        let error = match find.kind(OperationKind::Read).cursor().await {
            Ok(mut orders) => orders.next_document().await.map(drop),
            Err(error) => Err(error),
        };
        let error = error.expect_err("no end, or a long name").to_string();
        assert!(!error.chars().any(char::is_control), "control characters");
        assert!(error.len() < 500, "{} bytes", error.len());
    }
    world.pools.close().await;
}
