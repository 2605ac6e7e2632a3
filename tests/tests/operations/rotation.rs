//! Transactions that are open while their credential rotates to another user, or to another secret.

use std::time::Duration;

use mongo_core::Error;
use mongo_core::auth::{AuthMechanism, Credential};
use mongo_core::bson::{Document, doc};
use mongo_core::operation::{
    SessionOptions, TRANSIENT_TRANSACTION_ERROR, TransactionOptions, UNKNOWN_COMMIT_RESULT,
};
use mongo_core::pools::{Backend, Pools, PoolsConfig, Session};
use mongo_testkit::{Action, Deployment, DeploymentBuilder, Matcher};
use tokio::time::sleep;

use crate::support::{
    World, begun_by, credential, eventually, insert, no_transaction, one_waits, with_users_of,
};

on_both! {
    a_transaction_of_a_former_user_is_run_again_by_the_new_one,
    a_command_of_a_former_user_s_transaction_is_not_sent,
    a_waiting_command_of_a_former_user_s_transaction_is_not_sent,
    a_sent_commit_of_a_former_user_is_not_repeated,
    a_session_without_a_transaction_follows_its_user,
    a_cursor_of_a_former_user_ends,
    a_transaction_goes_on_with_another_secret_of_its_user,
    a_name_in_another_database_is_another_user,
    a_balancer_s_transaction_ends_as_its_user,
    a_session_of_another_credential_is_still_refused,
}

fn rotate<B: Backend>(pools: &Pools<B>) {
    pools.rotate(credential("two", "second")).expect("a user");
}

/// The sessions of the commands of a name, in order.
fn sessions<B: Backend>(world: &World<B>, name: &str) -> Vec<Document> {
    let commands = world.commands.of(name);
    let ids = commands.iter().map(|own| own.get_document("lsid").cloned());
    ids.map(|id| id.expect("a session")).collect()
}

fn is_transient(error: &Error) {
    assert!(error.has_label(TRANSIENT_TRANSACTION_ERROR), "{error:?}");
    assert!(error.is_transient());
}

pub(crate) fn names_the_rotation(error: &Error) {
    is_transient(error);
    assert!(error.to_string().contains("rotated"), "{error}");
}

/// A member with a collection, so that its creation is no conflict, and a handle for the first user.
async fn with_users<B: Backend<Config: Default>>() -> (World<B>, Pools<B>) {
    over(Deployment::replica_set("rs").members(1), "").await
}

async fn over<B: Backend<Config: Default>>(
    set: DeploymentBuilder,
    options: &str,
) -> (World<B>, Pools<B>) {
    let (world, pools) = with_users_of(set, options, PoolsConfig::default()).await;
    world.set.insert("db.c", [doc! { "x": 0 }]);
    (world, pools)
}

/// The server ends what the former user has left.
pub(crate) async fn nothing_is_left<B: Backend>(world: World<B>, pools: &Pools<B>) {
    assert_eq!(world.in_use(), 0);
    sleep(Duration::from_secs(61)).await;
    let count = pools.command("db", &doc! { "count": "c" });
    count.await.map(drop).expect("a reply");
    no_transaction(&world).await;
    world.pools.close().await;
}

async fn a_transaction_of_a_former_user_is_run_again_by_the_new_one<B: Backend<Config: Default>>() {
    let (world, pools) = with_users::<B>().await;
    let session = pools.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    let mut runs = 0;
    let (own, count) = (&pools, &mut runs);
    let run = async |session: &mut Session<B>| {
        *count += 1;
        insert(own, session).await?;
        if *count == 1 {
            rotate(own);
        }
        insert(own, session).await
    };
    let done = session
        .with_transaction(TransactionOptions::default(), run)
        .await;
    done.expect("a commit, by the new user");
    assert_eq!(runs, 2);
    assert_eq!(world.set.documents("db.c").len(), 3, "one run");
    let inserts = sessions(&world, "insert");
    assert_eq!(inserts.len(), 3, "nothing was sent for the former user");
    assert_ne!(inserts[0], inserts[1]);
    assert_eq!(inserts[1..], [inserts[1].clone(), inserts[1].clone()]);
    assert_eq!(sessions(&world, "commitTransaction"), inserts[1..2]);
    let mut connection = pools.get().await.expect("a connection");
    assert_eq!(connection.user(), Some("two"));
    let count = connection.run_command("db", &doc! { "count": "c" }).await;
    assert_eq!(count.expect("a reply").get_i32("n").ok(), Some(3));
    drop((connection, session));
    nothing_is_left(world, &pools).await;
}

async fn a_command_of_a_former_user_s_transaction_is_not_sent<B: Backend<Config: Default>>() {
    let (world, pools) = with_users::<B>().await;
    for is_commit in [false, true] {
        if is_commit {
            pools.rotate(credential("one", "first")).expect("a user");
        }
        let mut session = begun_by(&pools).await;
        let sent = world.commands.of("insert").len();
        rotate(&pools);
        let failed = match is_commit {
            true => session.commit_transaction().await,
            false => insert(&pools, &mut session).await,
        };
        names_the_rotation(&failed.expect_err("another user"));
        assert_eq!(world.commands.of("insert").len(), sent);
        assert!(world.commands.of("commitTransaction").is_empty());
        if !is_commit {
            session.abort_transaction().await.expect("an abort");
        }
        assert!(world.commands.of("abortTransaction").is_empty());
        // The next transaction is the new user's.
        session
            .start_transaction(TransactionOptions::default())
            .expect("a transaction");
        insert(&pools, &mut session).await.expect("a write");
        session.abort_transaction().await.expect("an abort");
        assert_eq!(world.commands.of("abortTransaction").len(), 1);
        world.commands.clear();
    }
    nothing_is_left(world, &pools).await;
}

async fn a_waiting_command_of_a_former_user_s_transaction_is_not_sent<
    B: Backend<Config: Default>,
>() {
    let one = Deployment::replica_set("rs").members(1);
    let (world, pools) = over::<B>(one, "maxPoolSize=1").await;
    let mut session = begun_by(&pools).await;
    let held = pools.get().await.expect("the only connection");
    let waits = insert(&pools, &mut session);
    let rotates = async {
        one_waits(&pools).await;
        rotate(&pools);
        drop(held);
    };
    let (written, ()) = tokio::join!(waits, rotates);
    is_transient(&written.expect_err("its pool is closed"));
    assert_eq!(world.commands.of("insert").len(), 1);
    drop(session);
    nothing_is_left(world, &pools).await;
}

async fn a_sent_commit_of_a_former_user_is_not_repeated<B: Backend<Config: Default>>() {
    let (world, pools) = with_users::<B>().await;
    let lost = Matcher::command("commitTransaction").times(2);
    let lost = lost.then(Action::NoReply).then(Action::Close);
    world.set.server(0).script().add(lost);
    let mut session = begun_by(&pools).await;
    let error = session.commit_transaction().await.expect_err("lost");
    assert!(error.has_label(UNKNOWN_COMMIT_RESULT));
    rotate(&pools);
    let error = session
        .commit_transaction()
        .await
        .expect_err("another user");
    assert!(error.to_string().contains("unknown"), "{error}");
    assert_eq!(error.labels().count(), 0, "neither is to be run again");
    assert_eq!(world.commands.of("commitTransaction").len(), 2);
    drop(session);
    nothing_is_left(world, &pools).await;
}

async fn a_session_without_a_transaction_follows_its_user<B: Backend<Config: Default>>() {
    let (world, pools) = with_users::<B>().await;
    let session = pools.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    insert(&pools, &mut session).await.expect("a write");
    let time = session.operation_time();
    rotate(&pools);
    assert_eq!(session.operation_time(), time, "it stays causal");
    insert(&pools, &mut session).await.expect("a write");
    let inserts = sessions(&world, "insert");
    assert_ne!(inserts[0], inserts[1], "a session belongs to one user");
    drop(session);
    nothing_is_left(world, &pools).await;
}

async fn a_cursor_of_a_former_user_ends<B: Backend<Config: Default>>() {
    let (world, pools) = with_users::<B>().await;
    let orders = (0..10).map(|id| doc! { "_id": id });
    world.set.insert("shop.orders", orders);
    let session = pools.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    let find = pools.command("shop", &doc! { "find": "orders", "batchSize": 2 });
    let cursor = find.session(&mut session).cursor().await;
    let mut cursor = cursor.expect("a cursor");
    rotate(&pools);
    let mut read = 0;
    let error = loop {
        match cursor.next_document().await {
            Ok(Some(_)) => read += 1,
            Ok(None) => panic!("an end"),
            Err(error) => break error,
        }
    };
    assert_eq!(read, 2, "the first batch");
    assert!(error.to_string().contains("another credential"), "{error}");
    assert!(world.commands.of("getMore").is_empty());
    drop(cursor);
    drop(session);
    nothing_is_left(world, &pools).await;
}

async fn a_transaction_goes_on_with_another_secret_of_its_user<B: Backend<Config: Default>>() {
    let (world, pools) = with_users::<B>().await;
    let mut session = begun_by(&pools).await;
    let other = credential("one", "first").with_mechanism(AuthMechanism::ScramSha256);
    pools.rotate(other).expect("a secret");
    insert(&pools, &mut session).await.expect("a write");
    session.commit_transaction().await.expect("a commit");
    let inserts = sessions(&world, "insert");
    assert_eq!(inserts[0], inserts[1]);
    drop(session);
    nothing_is_left(world, &pools).await;
}

async fn a_name_in_another_database_is_another_user<B: Backend<Config: Default>>() {
    let (world, pools) = with_users::<B>().await;
    let mut session = begun_by(&pools).await;
    let other = Credential::new("one", "first").with_source("tenants");
    pools.rotate(other).expect("a user");
    let error = insert(&pools, &mut session).await;
    names_the_rotation(&error.expect_err("another user"));
    drop(session);
    let others = world.pools.with_credential(credential("two", "second"));
    nothing_is_left(world, &others.expect("a handle")).await;
}

async fn a_balancer_s_transaction_ends_as_its_user<B: Backend<Config: Default>>() {
    let (world, pools) = over::<B>(Deployment::load_balanced(1), "").await;
    for is_dropped in [false, true] {
        pools.rotate(credential("one", "first")).expect("a user");
        let mut session = begun_by(&pools).await;
        rotate(&pools);
        insert(&pools, &mut session).await.expect("a write");
        match is_dropped {
            true => drop(session),
            false => {
                session.commit_transaction().await.expect("a commit");
                session.end().await;
            }
        }
        // It is aborted over its connection, which is closed.
        no_transaction(&world).await;
        eventually("no connection", || world.in_use() == 0).await;
        assert_eq!(world.set.documents("db.c").len(), 3);
        assert!(pools.status().iter().all(|pool| pool.size == 0));
    }
    nothing_is_left(world, &pools).await;
}

async fn a_session_of_another_credential_is_still_refused<B: Backend<Config: Default>>() {
    let (world, pools) = with_users::<B>().await;
    let other = world.pools.with_credential(credential("two", "second"));
    let other = other.expect("a handle");
    let mut session = begun_by(&pools).await;
    let error = insert(&other, &mut session).await;
    let error = error.expect_err("another credential");
    assert!(error.labels().next().is_none() && !error.is_transient());
    session.abort_transaction().await.expect("an abort");
    drop(session);
    nothing_is_left(world, &pools).await;
}
