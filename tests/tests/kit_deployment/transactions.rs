//! Transactions, by wire commands.

use std::time::Duration;

use bson::{Document, doc};
use mongo_testkit::{Deployment, SimNetwork};
use tokio::time::{Instant, timeout};

use crate::members::{Members, over_both};
use crate::operations::{Session, code, counters, find, ids, increment, insert, labels, set};
use crate::wire::Wire;

over_both! {
    a_commit_publishes_a_transaction_at_once,
    a_failed_statement_aborts_its_transaction,
    an_unknown_transaction_is_labelled_transient,
    concurrent_transactions_conflict_on_the_same_document,
    another_mongos_commits_again_only_with_the_recovery_token,
    a_write_spoiled_before_its_commit_is_not_applied,
}

async fn a_commit_publishes_a_transaction_at_once(members: Members) {
    let set = set(members).await;
    set.insert("test.c", [doc! {"_id": 0, "n": 0}]);
    let (session, number) = (Session::new(), 1);
    let mut inside = Wire::connect(&set, 0).await;
    let mut outside = Wire::connect(&set, 0).await;
    assert_eq!(inside.code(session.start(number, insert(1))).await, 0);
    assert_eq!(inside.code(session.part(number, insert(2))).await, 0);
    assert_eq!(
        ids(&inside.run(session.part(number, find())).await),
        [0, 1, 2]
    );
    assert_eq!(ids(&outside.run(find()).await), [0]);
    assert_eq!(set.server(0).open_transactions(), 1);
    for _ in 0..2 {
        assert_eq!(inside.code(session.commit(number)).await, 0, "also again");
    }
    assert_eq!(ids(&outside.run(find()).await), [0, 1, 2]);
    assert_eq!(set.server(0).open_transactions(), 0);

    assert_eq!(inside.code(session.start(2, insert(3))).await, 0);
    assert_eq!(inside.code(session.abort(2)).await, 0);
    assert_eq!(ids(&outside.run(find()).await), [0, 1, 2]);
    assert_eq!(inside.code(session.commit(2)).await, 251);
    assert_eq!(inside.code(session.commit(1)).await, 225);
}

async fn a_failed_statement_aborts_its_transaction(members: Members) {
    let set = set(members).await;
    set.insert("test.c", [doc! {"_id": 1, "n": 0}]);
    let session = Session::new();
    let mut client = Wire::connect(&set, 0).await;
    assert_eq!(client.code(session.start(1, increment(1))).await, 0);
    let reply = client.run(session.part(1, insert(1))).await;
    assert_eq!(
        reply.get_array("writeErrors").expect("a duplicate").len(),
        1
    );
    let lost = client.run(session.commit(1)).await;
    assert_eq!(
        (code(&lost), labels(&lost)),
        (251, vec!["TransientTransactionError"])
    );
    assert_eq!(counters(&set), [0]);
    let refused = [
        (263, doc! {"count": "c"}),
        (72, doc! {"find": "c", "writeConcern": {"w": 1}}),
    ];
    for (number, (expected, command)) in (2..).zip(refused) {
        assert_eq!(client.code(session.start(number, command)).await, expected);
    }
}

async fn an_unknown_transaction_is_labelled_transient(members: Members) {
    let set = set(members).await;
    let session = Session::new();
    let mut client = Wire::connect(&set, 0).await;
    for command in [
        session.part(1, insert(1)),
        session.commit(1),
        session.abort(1),
    ] {
        let reply = client.run(command).await;
        assert_eq!(code(&reply), 251, "{reply}");
        assert_eq!(labels(&reply), ["TransientTransactionError"]);
    }
    let mut plain = session.write(2, find());
    plain.insert("startTransaction", true);
    assert_ne!(
        client.code(plain).await,
        0,
        "startTransaction without autocommit"
    );
    assert!(set.documents("test.c").is_empty());
}

async fn concurrent_transactions_conflict_on_the_same_document(members: Members) {
    let set = set(members).await;
    set.insert("test.c", [doc! {"_id": 1, "n": 0}, doc! {"_id": 2, "n": 0}]);
    let (one, two) = (Session::new(), Session::new());
    let mut client = Wire::connect(&set, 0).await;
    assert_eq!(client.code(one.start(1, increment(1))).await, 0);
    assert_eq!(client.code(two.start(1, increment(2))).await, 0);
    let reply = client.run(two.part(1, increment(1))).await;
    assert_eq!(
        (code(&reply), labels(&reply)),
        (112, vec!["TransientTransactionError"])
    );
    assert_eq!(client.code(two.commit(1)).await, 251);
    assert_eq!(client.code(one.commit(1)).await, 0);
    assert_eq!(counters(&set), [1, 0]);

    // A write since its start conflicts too.
    assert_eq!(client.code(one.start(2, find())).await, 0);
    assert_eq!(client.code(increment(2)).await, 0);
    assert_eq!(client.code(one.part(2, increment(2))).await, 112);
    assert_eq!(counters(&set), [1, 1]);
}

async fn another_mongos_commits_again_only_with_the_recovery_token(members: Members) {
    let sharded = members.start(Deployment::sharded(2)).await;
    let session = Session::new();
    let mut clients = [
        Wire::connect(&sharded, 0).await,
        Wire::connect(&sharded, 1).await,
    ];
    let started = clients[0].run(session.start(1, insert(1))).await;
    let token = started
        .get_document("recoveryToken")
        .expect("a token")
        .clone();
    let with_token = |number| {
        let mut commit = session.commit(number);
        commit.insert("recoveryToken", token.clone());
        commit
    };
    let elsewhere = clients[1].run(session.part(1, insert(2))).await;
    assert_eq!(
        (code(&elsewhere), labels(&elsewhere)),
        (251, vec!["TransientTransactionError"])
    );

    clients[0].run(session.start(2, insert(1))).await;
    assert_eq!(clients[1].code(session.commit(2)).await, 50940);
    assert_eq!(clients[0].code(with_token(2)).await, 0);
    assert_eq!(clients[1].code(session.commit(2)).await, 50940);
    assert_eq!(clients[1].code(with_token(2)).await, 0);
    assert_eq!(sharded.documents("test.c").len(), 1);

    // The recovery of what is not committed aborts it.
    clients[0].run(session.start(3, insert(3))).await;
    assert_eq!(clients[1].code(with_token(3)).await, 251);
    assert_eq!(clients[0].code(session.commit(3)).await, 251);
    assert_eq!(sharded.documents("test.c").len(), 1);
}

async fn a_write_spoiled_before_its_commit_is_not_applied(members: Members) {
    let set = set(members).await;
    set.insert("test.c", [doc! {"_id": 1, "n": 0}]);
    let session = Session::new();
    let spoil = |data: Document| {
        let mode = doc! {"times": 1};
        doc! {"configureFailPoint": "onPrimaryTransactionalWrite", "mode": mode, "data": data}
    };
    let write = |number| session.write(number, increment(1));
    let cases = [(doc! {}, 1), (doc! {"failBeforeCommitExceptionCode": 1}, 1)];
    for (number, (data, after)) in (1..).zip(cases) {
        set.configure_fail_point(0, &spoil(data));
        let mut client = Wire::connect(&set, 0).await;
        assert_eq!(client.code(increment(9)).await, 0, "this is not retryable");
        client.send(write(number), 0).await;
        let end = timeout(Duration::from_secs(5), client.try_receive()).await;
        assert!(end.expect("an end in time").is_none());
        assert_eq!(counters(&set), [after], "{number}");
    }
    let mut client = Wire::connect(&set, 0).await;
    assert_eq!(client.code(write(2)).await, 0);
    assert_eq!(counters(&set), [2]);
    let data = doc! {"failBeforeCommitExceptionCode": 11600, "closeConnection": false};
    set.configure_fail_point(0, &spoil(data));
    assert_eq!(client.code(write(2)).await, 0, "a retry writes nothing");
    let reply = client.run(write(3)).await;
    assert_eq!(
        (code(&reply), labels(&reply)),
        (11600, vec!["RetryableWriteError"])
    );
    assert_eq!(client.code(write(3)).await, 0);
    assert_eq!(counters(&set), [3]);

    let sharded = members.start(Deployment::sharded(1)).await;
    let mut client = Wire::connect(&sharded, 0).await;
    let mut command = spoil(doc! {});
    command.insert("$db", "admin");
    assert_ne!(
        client.code(command).await,
        0,
        "a mongos has no such fail point"
    );
}

#[tokio::test(start_paused = true)]
async fn a_write_waits_for_the_transaction_that_holds_its_document() {
    let network = SimNetwork::new(1);
    network.set_latency(Duration::ZERO, Duration::ZERO);
    let set = Deployment::replica_set("rs").members(2).network(&network);
    let set = set.start().await;
    set.insert("test.c", [doc! {"_id": 1, "n": 0}]);
    let session = Session::new();
    let connect = || async { Wire::over(network.connect("m0.test:27017").await.expect("m0")) };
    let (mut inside, mut outside) = (connect().await, connect().await);
    assert_eq!(inside.code(session.start(1, increment(1))).await, 0);
    let mut limited = increment(1);
    limited.insert("maxTimeMS", 300);
    let begun = Instant::now();
    assert_eq!(outside.code(limited).await, 50);
    assert_eq!(begun.elapsed().as_millis(), 300);
    outside.send(increment(1), 0).await;
    let early = timeout(Duration::from_secs(5), outside.try_receive()).await;
    assert!(early.is_err(), "it waits");
    assert_eq!(inside.code(session.commit(1)).await, 0);
    assert_eq!(code(&outside.receive().await.body), 0);
    assert_eq!(counters(&set), [2]);

    // A transaction that nobody ends is aborted after a minute.
    assert_eq!(inside.code(session.start(2, increment(1))).await, 0);
    let begun = Instant::now();
    outside.send(increment(1), 0).await;
    let reply = timeout(Duration::from_secs(90), outside.try_receive()).await;
    assert_eq!(code(&reply.expect("in time").expect("a reply").body), 0);
    assert_eq!(begun.elapsed().as_secs(), 60);
    assert_eq!(inside.code(session.commit(2)).await, 251);
    assert_eq!(counters(&set), [3]);

    // So is one whose primary steps down.
    assert_eq!(inside.code(session.start(3, increment(1))).await, 0);
    outside.send(increment(1), 0).await;
    // The clock moves once every task waits: by then the write waits for the transaction.
    tokio::time::sleep(Duration::from_millis(1)).await;
    set.elect(1);
    assert_eq!(code(&outside.receive().await.body), 10107);
    assert_eq!(set.server(0).open_transactions(), 0);
}
