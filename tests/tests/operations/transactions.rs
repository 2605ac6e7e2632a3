//! Transactions.

use mongo_core::bson::{Document, doc};
use mongo_core::operation::{OperationKind, SessionOptions, TransactionOptions, TransactionState};
use mongo_core::pools::{Backend, Session};
use mongo_core::select::{ReadPreference, ReadPreferenceMode};
use mongo_core::{Error, ErrorKind, ReadConcern, WriteConcern};
use mongo_testkit::ErrorReply;

use crate::support::{World, eventually, insert};

on_both! {
    the_first_command_starts_the_transaction,
    a_transaction_without_commands_sends_nothing,
    states_refuse_calls_out_of_order,
    options_of_operations_are_refused,
    a_repeated_commit_waits_for_a_majority,
    a_commit_is_retried_even_without_retrywrites,
    errors_of_an_abort_are_ignored,
    a_command_is_not_retried_in_a_transaction,
    an_overloaded_first_command_is_first_again,
    a_dropped_transaction_is_aborted,
    a_transaction_runs_on_a_connection,
    a_transaction_has_its_own_read_preference_in_a_sharded_cluster,
    read_preferences_other_than_primary_are_refused_in_a_transaction,
}

/// The refusal of an overloaded server.
fn overloaded() -> ErrorReply {
    let refusal = ErrorReply::new(462, "IngressRequestRateLimitExceeded", "too many");
    refusal
        .label("SystemOverloadedError")
        .label("RetryableError")
}

pub(crate) fn begin<B: Backend>(session: &mut Session<B>) {
    session
        .start_transaction(TransactionOptions::default())
        .expect("a transaction");
}

async fn the_first_command_starts_the_transaction<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("w=majority").await;
    let mut session = world.session();
    let options = TransactionOptions::default().with_read_concern(ReadConcern::SNAPSHOT);
    session.start_transaction(options).expect("a transaction");
    insert(&world.pools, &mut session).await.expect("a write");
    insert(&world.pools, &mut session).await.expect("a write");
    session.commit_transaction().await.expect("a commit");
    let inserts = world.commands.of("insert");
    assert_eq!(inserts[0].get_bool("startTransaction").ok(), Some(true));
    let level = inserts[0]
        .get_document("readConcern")
        .ok()
        .map(|own| own.get_str("level").ok());
    assert_eq!(level, Some(Some("snapshot")));
    assert!(
        !inserts[1].contains_key("startTransaction") && !inserts[1].contains_key("readConcern")
    );
    for own in &inserts {
        assert_eq!(own.get_bool("autocommit").ok(), Some(false));
        assert_eq!(own.get_i64("txnNumber").ok(), Some(1));
        assert!(!own.contains_key("writeConcern"));
    }
    let commit = &world.commands.of("commitTransaction")[0];
    assert_eq!(
        commit.get_document("writeConcern").ok(),
        Some(&doc! { "w": "majority" })
    );
    assert_eq!(commit.get_str("$db").ok(), Some("admin"));
    assert_eq!(
        session.transaction_state(),
        TransactionState::Committed { empty: false }
    );
    // The next operation is outside of any transaction.
    insert(&world.pools, &mut session).await.expect("a write");
    assert_eq!(session.transaction_state(), TransactionState::None);
    assert!(!world.commands.of("insert")[2].contains_key("autocommit"));
    drop(session);
    world.pools.close().await;
}

async fn a_transaction_without_commands_sends_nothing<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    begin(&mut session);
    session
        .commit_transaction()
        .await
        .expect("nothing to commit");
    session
        .commit_transaction()
        .await
        .expect("nothing to commit");
    begin(&mut session);
    session.abort_transaction().await.expect("nothing to abort");
    assert!(world.commands.of("commitTransaction").is_empty());
    assert!(world.commands.of("abortTransaction").is_empty());
    drop(session);
    world.pools.close().await;
}

async fn states_refuse_calls_out_of_order<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    let says = |outcome: Result<(), Error>, text: &str| {
        let error = outcome.expect_err("out of order");
        assert!(error.to_string().contains(text), "{error}");
        assert!(matches!(error.kind(), ErrorKind::Configuration(_)));
    };
    says(session.commit_transaction().await, "No transaction started");
    says(session.abort_transaction().await, "No transaction started");
    begin(&mut session);
    let again = session.start_transaction(TransactionOptions::default());
    says(again, "Transaction already in progress");
    session.abort_transaction().await.expect("an abort");
    says(
        session.abort_transaction().await,
        "Cannot call abortTransaction twice",
    );
    let commit = session.commit_transaction().await;
    says(
        commit,
        "Cannot call commitTransaction after calling abortTransaction",
    );
    begin(&mut session);
    session.commit_transaction().await.expect("a commit");
    let abort = session.abort_transaction().await;
    says(
        abort,
        "Cannot call abortTransaction after calling commitTransaction",
    );
    let unacknowledged = TransactionOptions::default().with_write_concern(WriteConcern::nodes(0));
    let refused = session.start_transaction(unacknowledged);
    says(
        refused,
        "transactions do not support unacknowledged write concerns",
    );
    let snapshot = SessionOptions::default().with_snapshot(true);
    let mut snapshot = world.pools.start_session(snapshot).expect("a session");
    let refused = snapshot.start_transaction(TransactionOptions::default());
    says(refused, "not supported in snapshot sessions");
    drop((session, snapshot));
    world.pools.close().await;
}

async fn options_of_operations_are_refused<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    begin(&mut session);
    let find = doc! { "find": "c" };
    let command = || world.pools.command("db", &find).kind(OperationKind::Read);
    let secondary = ReadPreference::new(ReadPreferenceMode::Secondary);
    for (command, text) in [
        (
            command().read_concern(ReadConcern::LOCAL),
            "Cannot set read concern",
        ),
        (
            command().write_concern(WriteConcern::majority()),
            "Cannot set write concern",
        ),
        (
            command().read_preference(secondary),
            "read preference in a transaction must be primary",
        ),
    ] {
        let refused = command
            .session(&mut session)
            .await
            .map(drop)
            .expect_err("an option");
        assert!(refused.to_string().contains(text), "{refused}");
        assert_eq!(
            session.transaction_state(),
            TransactionState::Starting,
            "unchanged"
        );
    }
    session.abort_transaction().await.expect("nothing to abort");
    drop(session);
    world.pools.close().await;
}

async fn a_repeated_commit_waits_for_a_majority<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    begin(&mut session);
    insert(&world.pools, &mut session).await.expect("a write");
    session.commit_transaction().await.expect("a commit");
    session.commit_transaction().await.expect("a commit");
    let commits = world.commands.of("commitTransaction");
    assert!(!commits[0].contains_key("writeConcern"));
    let concern = commits[1].get_document("writeConcern").expect("a concern");
    assert_eq!(concern.get_str("w").ok(), Some("majority"));
    assert!(concern.contains_key("wtimeout"));
    drop(session);
    world.pools.close().await;
}

async fn a_commit_is_retried_even_without_retrywrites<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("retryWrites=false").await;
    let mut session = world.session();
    begin(&mut session);
    insert(&world.pools, &mut session).await.expect("a write");
    world.fail_ends(1, "commitTransaction", None);
    session
        .commit_transaction()
        .await
        .expect("the second attempt");
    let commits = world.commands.of("commitTransaction");
    assert_eq!(commits.len(), 2);
    assert_eq!(commits[0].get("txnNumber"), commits[1].get("txnNumber"));
    let concern = commits[1].get_document("writeConcern").expect("a concern");
    assert_eq!(concern.get_str("w").ok(), Some("majority"));
    // Twice is a failure whose result is unknown.
    begin(&mut session);
    insert(&world.pools, &mut session).await.expect("a write");
    world.fail_ends(2, "commitTransaction", None);
    let error = session
        .commit_transaction()
        .await
        .expect_err("two failures");
    assert!(
        error.has_label("UnknownTransactionCommitResult"),
        "{error:?}"
    );
    assert!(!error.has_label("TransientTransactionError"));
    drop(session);
    world.pools.close().await;
}

async fn errors_of_an_abort_are_ignored<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    begin(&mut session);
    insert(&world.pools, &mut session).await.expect("a write");
    world.fail_ends(5, "abortTransaction", None);
    session.abort_transaction().await.expect("no error");
    assert_eq!(world.commands.of("abortTransaction").len(), 2);
    assert_eq!(session.transaction_state(), TransactionState::Aborted);
    drop(session);
    world.pools.close().await;
}

async fn a_command_is_not_retried_in_a_transaction<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    begin(&mut session);
    world.fail(
        1,
        doc! { "failCommands": ["insert"], "closeConnection": true },
    );
    let error = insert(&world.pools, &mut session).await.expect_err("lost");
    assert!(error.has_label("TransientTransactionError"), "{error:?}");
    assert!(!error.has_label("RetryableWriteError"), "{error:?}");
    assert_eq!(world.commands.of("insert").len(), 1);
    assert!(session.is_dirty());
    session.abort_transaction().await.expect("an abort");
    // Nor is a read.
    begin(&mut session);
    let data = doc! { "failCommands": ["find"], "closeConnection": true };
    world.fail(1, data);
    let find = world.pools.command("db", &doc! { "find": "c" });
    let find = find.kind(OperationKind::Read).session(&mut session).await;
    find.map(drop).expect_err("lost");
    assert_eq!(world.commands.of("find").len(), 1);
    session.abort_transaction().await.expect("an abort");
    drop(session);
    world.pools.close().await;
}

async fn an_overloaded_first_command_is_first_again<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    begin(&mut session);
    let labels = ["SystemOverloadedError", "RetryableError"];
    world.fail(
        2,
        doc! { "failCommands": ["insert"], "errorCode": 462, "errorLabels": labels },
    );
    insert(&world.pools, &mut session)
        .await
        .expect("the third attempt");
    let inserts = world.commands.of("insert");
    assert_eq!(inserts.len(), 3);
    assert!(
        inserts
            .iter()
            .all(|own| own.contains_key("startTransaction"))
    );
    // So is the commit, with the concern that it had.
    world.fail_ends(1, "commitTransaction", Some(overloaded()));
    session
        .commit_transaction()
        .await
        .expect("the second attempt");
    let commits = world.commands.of("commitTransaction");
    assert!(commits.len() == 2 && !commits[1].contains_key("writeConcern"));
    drop(session);
    world.pools.close().await;
}

async fn a_dropped_transaction_is_aborted<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    begin(&mut session);
    insert(&world.pools, &mut session).await.expect("a write");
    drop(session);
    eventually("an abort", || world.set.server(0).open_transactions() == 0).await;
    assert_eq!(world.commands.of("abortTransaction").len(), 1);
    let mut session = world.session();
    begin(&mut session);
    insert(&world.pools, &mut session).await.expect("a write");
    session.end().await;
    assert_eq!(world.commands.of("abortTransaction").len(), 2);
    world.pools.close().await;
}

async fn a_transaction_runs_on_a_connection<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut connection = world.pools.get().await.expect("a connection");
    let session = connection.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    let insert = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    for is_commit in [true, false] {
        session
            .start_transaction(TransactionOptions::default())
            .expect("a transaction");
        for _ in 0..2 {
            let write = connection.command("db", &insert).session(&mut session);
            let reply = write.await.expect("a reply");
            reply.check_write().expect("a write");
        }
        match is_commit {
            true => connection
                .commit_transaction(&mut session)
                .await
                .expect("a commit"),
            false => connection
                .abort_transaction(&mut session)
                .await
                .expect("an abort"),
        }
    }
    let starts = world.commands.of("startTransaction");
    assert_eq!(starts.len(), 2);
    assert_eq!(world.commands.of("commitTransaction").len(), 1);
    assert_eq!(world.commands.of("abortTransaction").len(), 1);
    let numbers = world.commands.of("insert");
    let numbers: Vec<_> = numbers
        .iter()
        .map(|own: &Document| own.get_i64("txnNumber").ok())
        .collect();
    assert_eq!(numbers, [Some(1), Some(1), Some(2), Some(2)]);
    drop(connection);
    world.pools.close().await;
}

/// The read preference of the connection string does not apply within a transaction that
/// has another one. A mongos refuses one other than primary.
async fn a_transaction_has_its_own_read_preference_in_a_sharded_cluster<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::sharded(1, "readPreference=secondaryPreferred").await;
    let mut session = world.session();
    let primary = ReadPreference::new(ReadPreferenceMode::Primary);
    let options = TransactionOptions::default().with_read_preference(primary);
    session.start_transaction(options).expect("a transaction");
    let find = world.pools.command("db", &doc! { "find": "c" });
    let find = find.kind(OperationKind::Read).session(&mut session);
    find.await.map(drop).expect("a reply");
    let find = &world.commands.of("find")[0];
    assert!(find.contains_key("startTransaction"));
    assert!(!find.contains_key("$readPreference"), "{find}");
    session.abort_transaction().await.expect("an abort");
    drop(session);
    world.pools.close().await;
}

/// Also on the connection that the transaction has behind a load balancer, for which no server is
/// selected.
async fn read_preferences_other_than_primary_are_refused_in_a_transaction<
    B: Backend<Config: Default>,
>() {
    for world in [
        World::<B>::replica_set("").await,
        World::<B>::sharded(1, "").await,
        World::<B>::load_balanced("").await,
    ] {
        let mut session = world.session();
        begin(&mut session);
        for writes in 0..2 {
            for kind in [
                OperationKind::Write,
                OperationKind::Read,
                OperationKind::Command,
            ] {
                let other = ReadPreference::new(ReadPreferenceMode::Secondary);
                let write = doc! { "insert": "c", "documents": [{ "x": 1 }] };
                let write = world.pools.command("db", &write).kind(kind);
                let write = write.read_preference(other).session(&mut session);
                let error = write.await.map(drop).expect_err("another read preference");
                assert!(error.to_string().contains("must be primary"), "{error}");
                assert_eq!(world.commands.of("insert").len(), writes);
            }
            insert(&world.pools, &mut session).await.expect("a write");
        }
        let inserts = world.commands.of("insert");
        assert!(inserts[0].contains_key("startTransaction"), "{inserts:?}");
        assert!(!inserts[1].contains_key("startTransaction"), "{inserts:?}");
        session.commit_transaction().await.expect("a commit");
        drop(session);
        world.pools.close().await;
    }
}
