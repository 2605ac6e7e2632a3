//! Transactions, and their convenient API.

use std::collections::BTreeSet;
use std::time::Duration;

use mongo_core::bson::{Document, doc};
use mongo_core::operation::{OperationKind, TransactionOptions};
use mongo_core::pools::{Backend, Session};
use mongo_core::select::Criterion;
use mongo_core::{Error, ErrorKind, Result};
use mongo_testkit::{Action, Matcher};
use tokio::time::Instant;

use super::refusal;
use crate::support::{World, begun, eventually, insert, one_waits};
use crate::transactions::begin;

on_both! {
    transactions_1_a_new_transaction_unpins,
    transactions_2_an_operation_outside_of_transactions_unpins,
    transactions_a_cleared_pool_is_transient,
    convenient_the_function_s_error_ends_it,
    convenient_the_function_s_value_is_returned,
    convenient_the_time_for_retries_is_limited,
    convenient_retries_back_off,
}

async fn find<B: Backend>(world: &World<B>, session: &mut Session<B>) {
    let find = world.pools.command("test", &doc! { "find": "test" });
    let find = find.kind(OperationKind::Read).session(session);
    let found = find
        .cursor()
        .await
        .expect("a cursor")
        .next::<Document>()
        .await;
    found.expect("a batch").expect("a document");
}

/// A session that a transaction has pinned, and the routers of the next fifty finds.
async fn unpinned<B: Backend<Config: Default>>(in_transactions: bool) {
    let world = World::<B>::sharded(2, "localThresholdMS=1000").await;
    world.set.insert("test.test", [doc! { "_id": 1 }]);
    world.ping().await.expect("a reply");
    let routers = || {
        let known = world.pools.topology().snapshot();
        let suitable = known.suitable(&Criterion::write(), &[]);
        suitable.map_or(0, |routers| routers.len())
    };
    eventually("both routers", || routers() == 2).await;
    let mut session = world.session();
    begin(&mut session);
    find(&world, &mut session).await;
    session.commit_transaction().await.expect("a commit");
    assert!(session.is_pinned());
    for _ in 0..50 {
        if in_transactions {
            begin(&mut session);
        }
        find(&world, &mut session).await;
        if in_transactions {
            session.commit_transaction().await.expect("a commit");
        }
    }
    let routers = world.commands.servers_of("find").split_off(1);
    assert_eq!(routers.len(), 50);
    assert_eq!(BTreeSet::from_iter(routers).len(), 2);
    drop(session);
    world.pools.close().await;
}

async fn transactions_1_a_new_transaction_unpins<B: Backend<Config: Default>>() {
    unpinned::<B>(true).await;
}

async fn transactions_2_an_operation_outside_of_transactions_unpins<B: Backend<Config: Default>>() {
    unpinned::<B>(false).await;
}

async fn transactions_a_cleared_pool_is_transient<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("maxPoolSize=1").await;
    let mut session = begun(&world).await;
    let held = world.pools.get().await.expect("the only connection");
    let clears = async {
        one_waits(&world.pools).await;
        world.set.server(0).close_connections().await;
    };
    let (waited, ()) = tokio::join!(insert(&world.pools, &mut session), clears);
    let error = waited.expect_err("the pool was cleared while it waited");
    assert!(matches!(error.kind(), ErrorKind::PoolCleared), "{error}");
    assert!(error.has_label("TransientTransactionError"));
    drop((held, session));
    world.pools.close().await;
}

async fn convenient_the_function_s_error_ends_it<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    let mut calls = 0;
    let count = &mut calls;
    let run = async |_: &mut Session<B>| {
        *count += 1;
        Err::<(), _>(Error::configuration("its own"))
    };
    let failed = session
        .with_transaction(TransactionOptions::default(), run)
        .await;
    let error = failed.expect_err("its own").to_string();
    assert_eq!((calls, &*error), (1, "configuration: its own"));
    drop(session);
    world.pools.close().await;
}

async fn convenient_the_function_s_value_is_returned<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    let run = async |_: &mut Session<B>| Ok("Foo");
    let value = session
        .with_transaction(TransactionOptions::default(), run)
        .await;
    assert_eq!(value.expect("a commit"), "Foo");
    drop(session);
    world.pools.close().await;
}

async fn run<B: Backend>(world: &World<B>, session: &mut Session<B>) -> Result<()> {
    let run = async |session: &mut Session<B>| insert(&world.pools, session).await;
    session
        .with_transaction(TransactionOptions::default(), run)
        .await
}

async fn convenient_the_time_for_retries_is_limited<B: Backend<Config: Default>>() {
    for (name, label) in [
        ("insert", "TransientTransactionError"),
        ("commitTransaction", "UnknownTransactionCommitResult"),
        ("commitTransaction", "TransientTransactionError"),
    ] {
        let world = World::<B>::replica_set("").await;
        let mut session = world.session();
        // Slow, so that a commit without a pause in between is not sent too often.
        let refused = Matcher::command(name).then(Action::Delay(Duration::from_secs(1)));
        let refused = refused.then(Action::Error(refusal(251, &[label])));
        world.set.server(0).script().add(refused);
        let begun = Instant::now();
        let error = run(&world, &mut session).await.expect_err("never");
        assert!(error.is_timeout() && error.has_label(label), "{error:?}");
        let cause = error.cause().expect("the error that it wraps");
        assert_eq!(error.labels().collect::<Vec<_>>(), [label]);
        assert_eq!(cause.labels().collect::<Vec<_>>(), [label]);
        let elapsed = begun.elapsed().as_secs();
        assert!((118..=122).contains(&elapsed), "{name}, {label}: {elapsed}");
        drop(session);
        world.pools.close().await;
    }
}

async fn convenient_retries_back_off<B: Backend<Config: Default>>() {
    const TIMES: u32 = 50;
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    let mut total = Duration::ZERO;
    for _ in 0..TIMES {
        let labels = ["TransientTransactionError"];
        let refused = Matcher::command("commitTransaction").times(13);
        let refused = refused.then(Action::Error(refusal(251, &labels)));
        world.set.server(0).script().add(refused);
        let begun = Instant::now();
        run(&world, &mut session).await.expect("a commit");
        total += begun.elapsed();
    }
    // The jitter is random: its mean is a half of the 2.3 s.
    let mean = (total / TIMES).as_millis();
    assert!((900..1500).contains(&mean), "{mean} ms");
    drop(session);
    world.pools.close().await;
}
