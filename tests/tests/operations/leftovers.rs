//! What dropped, cancelled and late callers leave to do on the servers.

use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::operation::{OperationKind, SessionOptions, TransactionOptions, TransactionState};
use mongo_core::pools::{Backend, Pools, PoolsConfig, Session};
use mongo_core::{Error, ErrorKind};
use mongo_testkit::{Action, ErrorReply, Matcher};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    World, begun, begun_by, begun_on, behind_a_balancer, credential, eventually, find, insert,
    no_transaction, open, with_orders, with_users,
};
use crate::transactions::begin;

on_both! {
    a_cancelled_abort_reaches_the_server,
    a_cancelled_end_of_a_session_reaches_the_server,
    a_commit_that_was_never_sent_leaves_no_transaction,
    a_commit_that_was_sent_is_not_aborted,
    a_refused_commit_leaves_no_transaction,
    a_transaction_of_a_connection_is_aborted_when_it_is_dropped,
    an_abort_after_the_time_of_with_transaction_reaches_the_server,
    an_abort_of_a_cancelled_with_transaction_reaches_the_server,
    the_time_of_a_cancelled_with_transaction_is_over,
    many_dropped_transactions_are_aborted,
    logout_aborts_the_transactions_of_its_sessions,
    logout_ends_its_sessions,
    a_logout_that_is_dropped_gives_the_credential_up,
    a_rotation_to_another_user_ends_the_sessions,
    the_sessions_of_an_unused_credential_are_ended,
    closed_pools_start_no_session,
    closing_a_cursor_waits_after_a_cancelled_call,
    a_cancelled_close_of_a_cursor_reaches_the_server,
    a_cancelled_retry_of_a_batch_keeps_its_connection,
    the_cursor_that_is_closed_is_that_of_the_last_reply,
    a_connection_with_a_cursor_that_could_not_be_closed_is_closed,
    a_cursor_of_a_transaction_behind_a_balancer_is_closed,
}

const SHORT: Duration = Duration::from_millis(300);

fn aborts<B: Backend>(world: &World<B>) -> usize {
    world.commands.of("abortTransaction").len()
}

async fn a_cancelled_abort_reaches_the_server<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("maxPoolSize=1").await;
    let mut session = begun(&world).await;
    let held = world.pools.get().await.expect("a connection");
    let waited = timeout(SHORT, session.abort_transaction()).await;
    waited.expect_err("no connection");
    assert_eq!(session.transaction_state(), TransactionState::Aborted);
    drop((held, session));
    no_transaction(&world).await;
    world.pools.close().await;
}

async fn a_cancelled_end_of_a_session_reaches_the_server<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("maxPoolSize=1").await;
    let session = begun(&world).await;
    let held = world.pools.get().await.expect("a connection");
    let waited = timeout(SHORT, session.end()).await;
    waited.expect_err("no connection");
    drop(held);
    no_transaction(&world).await;
    world.pools.close().await;
}

async fn a_commit_that_was_never_sent_leaves_no_transaction<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("maxPoolSize=1&waitQueueTimeoutMS=200").await;
    for is_cancelled in [true, false] {
        let mut session = begun(&world).await;
        let held = world.pools.get().await.expect("a connection");
        let limit = if is_cancelled { SHORT / 3 } else { SHORT };
        let waited = timeout(limit, session.commit_transaction()).await;
        assert_eq!(waited.is_err(), is_cancelled);
        assert!(waited.is_err() || waited.is_ok_and(|own| own.is_err()));
        drop((held, session));
        no_transaction(&world).await;
    }
    assert_eq!(aborts(&world), 2);
    assert!(world.commands.of("commitTransaction").is_empty());
    world.pools.close().await;
}

async fn a_commit_that_was_sent_is_not_aborted<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    world.set.insert("db.c", [doc! { "_id": 1 }]);
    let script = || world.set.server(0).script();
    // It is executed, and its reply is late, or lost.
    let slow = Matcher::command("commitTransaction").times(1);
    script().add(slow.then(Action::Delay(Duration::from_secs(5))));
    let mut session = begun(&world).await;
    let waited = timeout(SHORT, session.commit_transaction()).await;
    waited.expect_err("late");
    drop(session);
    let lost = Matcher::command("commitTransaction").times(2);
    script().add(lost.then(Action::NoReply).then(Action::Close));
    let mut session = begun(&world).await;
    session.commit_transaction().await.expect_err("lost twice");
    drop(session);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(aborts(&world), 0);
    world.pools.close().await;
    assert_eq!(aborts(&world), 0);
}

async fn a_refused_commit_leaves_no_transaction<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let refusal = ErrorReply::new(462, "IngressRequestRateLimitExceeded", "too many");
    let refusal = refusal
        .label("SystemOverloadedError")
        .label("RetryableError");
    let mut session = begun(&world).await;
    world.fail_ends(100, "commitTransaction", Some(refusal));
    session.commit_transaction().await.expect_err("overloaded");
    drop(session);
    no_transaction(&world).await;
    assert_eq!(aborts(&world), 1);
    world.pools.close().await;
}

async fn a_transaction_of_a_connection_is_aborted_when_it_is_dropped<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::replica_set("").await;
    let mut connection = world.pools.get().await.expect("a connection");
    let session = begun_on(&mut connection).await;
    drop(session);
    no_transaction(&world).await;
    drop(connection);
    world.pools.close().await;
}

async fn an_abort_after_the_time_of_with_transaction_reaches_the_server<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    let (limit, pools) = (Duration::from_secs(1), &world.pools);
    let run = async |session: &mut Session<B>| {
        insert(pools, session).await?;
        sleep(Duration::from_secs(2)).await;
        session.abort_transaction().await
    };
    let ended = session
        .with_transaction_by(limit, TransactionOptions::default(), run)
        .await;
    ended.expect("an abort");
    assert_eq!(world.set.server(0).open_transactions(), 0);
    let abort = &world.commands.of("abortTransaction")[0];
    let time = abort.get_i64("maxTimeMS").expect("the limit, anew");
    assert!((900..=1000).contains(&time), "{time}");
    drop(session);
    world.pools.close().await;
    assert_eq!(aborts(&world), 1);
}

async fn cancelled<B: Backend>(world: &World<B>, session: &mut Session<B>) {
    let pools = &world.pools;
    let run = async |session: &mut Session<B>| {
        insert(pools, session).await?;
        sleep(Duration::from_secs(5)).await;
        Ok(())
    };
    let limit = Duration::from_secs(1);
    let run = session.with_transaction_by(limit, TransactionOptions::default(), run);
    timeout(limit, run).await.map(drop).expect_err("slow");
}

async fn an_abort_of_a_cancelled_with_transaction_reaches_the_server<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    cancelled(&world, &mut session).await;
    session.abort_transaction().await.expect("an abort");
    assert_eq!(world.set.server(0).open_transactions(), 0);
    drop(session);
    world.pools.close().await;
}

async fn the_time_of_a_cancelled_with_transaction_is_over<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    cancelled(&world, &mut session).await;
    insert(&world.pools, &mut session).await.expect("a write");
    let limit = Duration::from_secs(1);
    let commit = session.commit_transaction_by(limit).await;
    commit.expect("a limit of its own");
    drop(session);
    world.pools.close().await;
}

async fn many_dropped_transactions_are_aborted<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    // The collection exists, so that its creation is no conflict.
    world.set.insert("db.c", [doc! { "_id": 1 }]);
    let mut sessions = Vec::new();
    for _ in 0..600 {
        sessions.push(begun(&world).await);
    }
    drop(sessions);
    no_transaction(&world).await;
    assert_eq!(aborts(&world), 600);
    world.pools.close().await;
}

async fn ping<B: Backend>(pools: &Pools<B>) -> Result<(), Error> {
    let ping = doc! { "ping": 1 };
    pools.command("db", &ping).await.map(drop)
}

fn ended<B: Backend>(world: &World<B>) -> usize {
    let ends = world.commands.of("endSessions");
    let ids = ends
        .iter()
        .filter_map(|own| own.get_array("endSessions").ok());
    ids.map(Vec::len).sum()
}

async fn logout_aborts_the_transactions_of_its_sessions<B: Backend<Config: Default>>() {
    let (world, pools) = with_users::<B>(PoolsConfig::default()).await;
    let session = begun_by(&pools).await;
    drop(session);
    pools.logout().await;
    assert_eq!(world.set.server(0).open_transactions(), 0);
    assert_eq!(ended(&world), 1, "its session goes back, and is ended");
    world.pools.close().await;
}

async fn logout_ends_its_sessions<B: Backend<Config: Default>>() {
    let (world, pools) = with_users::<B>(PoolsConfig::default()).await;
    ping(&pools).await.expect("a reply");
    pools.logout().await;
    assert_eq!(ended(&world), 1);
    let error = ping(&pools).await.expect_err("logged out");
    assert!(matches!(error.kind(), ErrorKind::PoolClosed));
    // A server that does not answer delays it by a second.
    let pools = world.pools.with_credential(credential("one", "first"));
    let pools = pools.expect("a handle");
    ping(&pools).await.expect("a reply");
    let silent = Matcher::command("endSessions").then(Action::NoReply);
    world.set.server(0).script().add(silent);
    let begun = Instant::now();
    let waited = timeout(Duration::from_millis(1500), async {
        pools.logout().await;
    });
    let _ = waited.await;
    ping(&pools).await.expect_err("logged out");
    assert!(begun.elapsed() < Duration::from_secs(2));
    world.pools.close().await;
}

async fn a_logout_that_is_dropped_gives_the_credential_up<B: Backend<Config: Default>>() {
    let (world, pools) = with_users::<B>(PoolsConfig::default()).await;
    ping(&pools).await.expect("a reply");
    let silent = Matcher::command("endSessions").then(Action::NoReply);
    world.set.server(0).script().add(silent);
    timeout(SHORT, pools.logout()).await.expect_err("silent");
    let error = ping(&pools).await.expect_err("logged out");
    assert!(matches!(error.kind(), ErrorKind::PoolClosed));
    world.pools.close().await;
}

async fn a_rotation_to_another_user_ends_the_sessions<B: Backend<Config: Default>>() {
    let (world, pools) = with_users::<B>(PoolsConfig::default()).await;
    ping(&pools).await.expect("a reply");
    pools.rotate(credential("two", "second")).expect("a user");
    eventually("endSessions", || ended(&world) == 1).await;
    ping(&pools).await.expect("a reply");
    let pings = world.commands.of("ping");
    assert_ne!(pings[0].get("lsid"), pings[1].get("lsid"));
    world.pools.close().await;
}

async fn the_sessions_of_an_unused_credential_are_ended<B: Backend<Config: Default>>() {
    let config = PoolsConfig::default().with_unused_timeout(Duration::from_secs(60));
    let (world, pools) = with_users::<B>(config).await;
    ping(&pools).await.expect("a reply");
    sleep(Duration::from_secs(120)).await;
    assert_eq!(ended(&world), 1);
    assert!(world.pools.status().is_empty(), "its pool is closed");
    world.pools.close().await;
}

async fn closed_pools_start_no_session<B: Backend<Config: Default>>() {
    let (world, pools) = with_users::<B>(PoolsConfig::default()).await;
    for is_all in [false, true] {
        match is_all {
            false => pools.logout().await,
            true => world.pools.close().await,
        }
        let handle = if is_all { &world.pools } else { &pools };
        let error = handle.start_session(SessionOptions::default());
        let error = error.map(drop).expect_err("closed");
        assert!(matches!(error.kind(), ErrorKind::PoolClosed));
    }
}

async fn closing_a_cursor_waits_after_a_cancelled_call<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let slow = Matcher::command("getMore").times(1);
    let slow = slow.then(Action::Delay(Duration::from_secs(1)));
    world.set.server(0).script().add(slow);
    let mut orders = open(&world).await;
    let read = async { while let Ok(Some(_)) = orders.next_document().await {} };
    timeout(SHORT, read).await.expect_err("a fetch");
    orders.close().await;
    assert_eq!(world.commands.of("killCursors").len(), 1);
    assert_eq!(world.set.server(0).open_cursors(), 0);
    world.pools.close().await;
}

async fn a_cancelled_close_of_a_cursor_reaches_the_server<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("maxPoolSize=1").await;
    let orders = (0..10).map(|id| doc! { "_id": id });
    world.set.insert("shop.orders", orders);
    let orders = open(&world).await;
    let held = world.pools.get().await.expect("a connection");
    let waited = timeout(SHORT, orders.close()).await;
    waited.expect_err("no connection");
    drop(held);
    eventually("its end", || world.set.server(0).open_cursors() == 0).await;
    world.pools.close().await;
}

async fn a_cancelled_retry_of_a_batch_keeps_its_connection<B: Backend<Config: Default>>() {
    let world = behind_a_balancer::<B>("").await;
    let mut orders = open(&world).await;
    let refusal = doc! {
        "ok": 0, "code": 462, "errmsg": "too many", "baseBackoffMS": 10_000,
        "errorLabels": ["SystemOverloadedError", "RetryableError"],
    };
    // The pauses are random, up to 10 s each: one of two is not short.
    let rule = Matcher::command("getMore").times(3);
    world
        .set
        .server(0)
        .script()
        .add(rule.then(Action::Reply(refusal)));
    let read = async { while let Ok(Some(_)) = orders.next_document().await {} };
    timeout(SHORT / 10, read).await.expect_err("a pause");
    assert!(!world.commands.of("getMore").is_empty());
    drop(orders);
    eventually("its end", || world.set.server(0).open_cursors() == 0).await;
    assert_eq!(world.commands.of("killCursors").len(), 1);
    world.pools.close().await;
}

async fn the_cursor_that_is_closed_is_that_of_the_last_reply<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let batch = doc! { "nextBatch": [{ "_id": 7 }], "id": 99_i64, "ns": "shop.orders" };
    let other = Action::Reply(doc! { "ok": 1, "cursor": batch });
    let rule = Matcher::command("getMore").then(other);
    world.set.server(0).script().add(rule);
    for is_dropped in [false, true] {
        let mut orders = open(&world).await;
        for _ in 0..4 {
            let next = orders.next_document().await.expect("a document");
            next.expect("one");
        }
        assert_eq!(orders.id(), 99);
        match is_dropped {
            false => orders.close().await,
            true => drop(orders),
        }
    }
    eventually("both", || world.commands.of("killCursors").len() == 2).await;
    for kill in world.commands.of("killCursors") {
        assert_eq!(kill.get_array("cursors").ok(), Some(&vec![99_i64.into()]));
    }
    world.pools.close().await;
}

async fn a_connection_with_a_cursor_that_could_not_be_closed_is_closed<
    B: Backend<Config: Default>,
>() {
    let world = behind_a_balancer::<B>("").await;
    world.fail(2, doc! { "failCommands": ["killCursors"], "errorCode": 1 });
    let size = || {
        world
            .pools
            .status()
            .iter()
            .map(|pool| pool.size)
            .sum::<usize>()
    };
    for is_dropped in [false, true] {
        let orders = open(&world).await;
        match is_dropped {
            false => orders.close().await,
            true => drop(orders),
        }
        eventually("its end", || size() == 0).await;
    }
    // One that was closed is used again.
    open(&world).await.close().await;
    assert_eq!(size(), 1);
    let find = doc! { "find": "orders", "batchSize": 3 };
    let find = world.pools.command("shop", &find).kind(OperationKind::Read);
    drop(find.cursor().await.expect("a cursor"));
    eventually("its end", || world.set.server(0).open_cursors() == 2).await;
    assert_eq!(size(), 1);
    world.pools.close().await;
}

async fn a_cursor_of_a_transaction_behind_a_balancer_is_closed<B: Backend<Config: Default>>() {
    let world = behind_a_balancer::<B>("").await;
    let mut session = world.session();
    begin(&mut session);
    let find = world.pools.command("shop", &find());
    let find = find.kind(OperationKind::Read).session(&mut session);
    let cursor = find.cursor().await.expect("a cursor");
    assert!(cursor.id() != 0);
    drop(cursor);
    session.commit_transaction().await.expect("a commit");
    drop(session);
    sleep(Duration::from_secs(15)).await;
    assert_eq!(world.set.server(0).open_cursors(), 0);
    world.pools.close().await;
}
