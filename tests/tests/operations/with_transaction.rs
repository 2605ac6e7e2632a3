//! `with_transaction`.

use std::time::Duration;

use mongo_core::Error;
use mongo_core::bson::doc;
use mongo_core::operation::{SessionOptions, TransactionOptions, TransactionState};
use mongo_core::pools::{Backend, Session};
use mongo_testkit::{Action, Matcher};
use tokio::time::{Instant, sleep, sleep_until};

use crate::support::{World, insert};

on_both! {
    with_transaction_runs_again_after_a_transient_error,
    with_transaction_commits_again_while_the_result_is_unknown,
    with_transaction_ends_with_its_time,
    commits_of_unknown_result_end,
    a_commit_without_time_for_a_round_trip_ends_with_transaction,
    a_transaction_can_be_spawned,
}

async fn with_transaction_runs_again_after_a_transient_error<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    world.fail(
        2,
        doc! { "failCommands": ["insert"], "closeConnection": true },
    );
    let mut calls = 0;
    let world = &world;
    let value = session
        .with_transaction(TransactionOptions::default(), async |session| {
            calls += 1;
            insert(&world.pools, session).await?;
            Ok(calls)
        })
        .await;
    assert_eq!(value.expect("a commit"), 3);
    let numbers = world.commands.of("insert");
    let numbers: Vec<_> = numbers
        .iter()
        .filter_map(|own| own.get_i64("txnNumber").ok())
        .collect();
    assert_eq!(numbers, [1, 2, 3]);
    // Another error ends it at once.
    let failed = session
        .with_transaction(TransactionOptions::default(), async |session| {
            insert(&world.pools, session).await?;
            Err::<(), _>(Error::configuration("no"))
        })
        .await;
    failed.expect_err("the function's error");
    assert_eq!(session.transaction_state(), TransactionState::Aborted);
    drop(session);
    world.pools.close().await;
}

async fn with_transaction_commits_again_while_the_result_is_unknown<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    world.fail_ends(5, "commitTransaction", None);
    let mut calls = 0;
    let world = &world;
    let done = session
        .with_transaction(TransactionOptions::default(), async |session| {
            calls += 1;
            insert(&world.pools, session).await
        })
        .await;
    done.expect("a commit");
    assert_eq!(calls, 1);
    assert_eq!(world.commands.of("commitTransaction").len(), 6);
    drop(session);
    world.pools.close().await;
}

async fn with_transaction_ends_with_its_time<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    let labels = ["TransientTransactionError"];
    world.fail(
        100_000,
        doc! { "failCommands": ["insert"], "errorCode": 251, "errorLabels": labels },
    );
    let begun = Instant::now();
    let world = &world;
    let run = async |session: &mut Session<B>| insert(&world.pools, session).await;
    let error = session
        .with_transaction(TransactionOptions::default(), run)
        .await;
    let error = error.expect_err("never");
    assert!(
        error.is_timeout() && error.has_label("TransientTransactionError"),
        "{error:?}"
    );
    let elapsed = begun.elapsed();
    assert!((119..=120).contains(&elapsed.as_secs()), "{elapsed:?}");
    let begun = Instant::now();
    let limit = Duration::from_secs(2);
    let mut last = Duration::ZERO;
    let run = async |session: &mut Session<B>| {
        last = begun.elapsed();
        insert(&world.pools, session).await
    };
    let error = session
        .with_transaction_by(limit, TransactionOptions::default(), run)
        .await;
    assert!(error.expect_err("never").is_timeout());
    // The timer rounds a pause up to the next millisecond.
    assert!(last <= limit, "{last:?}");
    // The last run may end with the limit. Its transaction is then still aborted, in one round trip.
    let round_trip = Duration::from_millis(20);
    assert!(
        begun.elapsed() <= limit + round_trip,
        "{:?}",
        begun.elapsed()
    );
    drop(session);
    world.pools.close().await;
}

async fn commits_of_unknown_result_end<B: Backend<Config: Default>>() {
    let limit = Duration::from_secs(3);
    let world = World::<B>::replica_set("").await;
    world.set.insert("db.c", [doc! { "x": 0 }]);
    let unknown = Action::write_concern_error(64, "WriteConcernTimeout", "late");
    let rule = Matcher::command("commitTransaction").then(unknown);
    world.set.server(0).script().add(rule);
    let mut session = world.session();
    let pools = &world.pools;
    let run = async |session: &mut Session<B>| insert(pools, session).await;
    let begun = Instant::now();
    let options = TransactionOptions::default();
    let done = session.with_transaction_by(limit, options, run).await;
    done.expect_err("unknown");
    let bound = limit + Duration::from_secs(1);
    assert!(begun.elapsed() <= bound, "{:?}", begun.elapsed());
    drop(session);
    world.pools.close().await;
}

/// The clock is paused, so a commit that is repeated in place would never end.
async fn a_commit_without_time_for_a_round_trip_ends_with_transaction<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::replica_set("").await;
    world.ping().await.expect("a reply");
    let mut session = world.session();
    let pause = Duration::from_secs(1);
    // The server can't get less than a millisecond.
    let limit = pause + Duration::from_micros(500);
    let begun = Instant::now();
    let world = &world;
    let run = async |session: &mut Session<B>| {
        insert(&world.pools, session).await?;
        sleep_until(begun + pause).await;
        Ok(())
    };
    let options = TransactionOptions::default();
    let error = session.with_transaction_by(limit, options, run).await;
    let error = error.expect_err("too little time");
    assert!(error.is_timeout(), "{error:?}");
    assert!(error.has_label("UnknownTransactionCommitResult"));
    assert!(!error.has_label("TransientTransactionError"));
    assert_eq!(begun.elapsed(), pause);
    assert!(world.commands.of("commitTransaction").is_empty());
    drop(session);
    world.pools.close().await;
    // Nothing was committed, and nothing is left open.
    assert_eq!(world.commands.of("abortTransaction").len(), 1);
}

async fn a_transaction_can_be_spawned<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let pools = world.pools.clone();
    let task = tokio::spawn(async move {
        let mut session = pools.start_session(SessionOptions::default())?;
        let options = TransactionOptions::default();
        let run = session.with_boxed_transaction(options, pools, |session, pools| {
            Box::pin(async move {
                let insert = doc! { "insert": "c", "documents": [{ "x": 1 }] };
                let write = pools.command("db", &insert).session(session);
                write.await?.check_write()
            })
        });
        run.await
    });
    task.await.expect("no panic").expect("a commit");
    assert_eq!(world.commands.of("commitTransaction").len(), 1);
    world.pools.close().await;
}

/// On a thread of its own: without a pause the runtime would never come back to a time limit.
#[test]
fn a_commit_without_compatible_servers_yields() {
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let world = World::<mongo_deadpool::Pool>::replica_set("").await;
            let mut session = world.session();
            let (world, second) = (&world, Duration::from_secs(1));
            let committed = session
                .with_transaction(TransactionOptions::default(), async |session| {
                    insert(&world.pools, session).await?;
                    (0..3).for_each(|server| world.set.upgrade(server, 1000, 1001));
                    sleep(second * 30).await;
                    Ok(())
                })
                .await;
            let error = committed.expect_err("no compatible server");
            let is_unknown = error.has_label("UnknownTransactionCommitResult");
            sender.send(is_unknown).expect("the test waits");
        });
    });
    let ended = ended.recv_timeout(Duration::from_secs(20));
    assert!(ended.expect("commits without a pause keep the thread"));
}
