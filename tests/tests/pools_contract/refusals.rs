//! The effect of refused commands and broken connections on connections, servers and retries.

use std::time::Duration;

use mongo_core::bson::{Document, doc};
use mongo_core::error::ClosedReason;
use mongo_core::pools::{Backend, ManagerConfig, ServerPool};
use mongo_core::sdam::ServerType;
use mongo_core::select::{Criterion, ReadPreference, ReadPreferenceMode};
use mongo_core::{Deadline, Error, ErrorKind, ServerAddress};
use mongo_testkit::{Action, ErrorReply, Matcher};

use crate::support::{LIMIT, Sim, handshake, observed, pool_of};

on_both! {
    on a paused clock:
    a_server_pool_closes_connections_to_a_server_whose_role_changed,
    a_secondary_that_refuses_a_plain_read_keeps_its_role,
    a_reply_too_long_to_drain_is_named,
    retryable_writes_are_labelled,
    errors_of_servers_before_4_4_are_labelled,
}

/// The connection of the check-out after a command was refused with a code.
async fn after<B: Backend<Config: Default>>(
    pool: &ServerPool<B>,
    sim: &Sim,
    member: usize,
    code: i32,
) -> (u64, u64) {
    let refusal = ErrorReply::new(code, "Refused", "by the test");
    let refusal = Matcher::command("find").once().then(Action::Error(refusal));
    sim.set.server(member).script().add(refusal);
    let get = || pool.get(Deadline::after(LIMIT));
    let mut held = get().await.expect("a connection");
    let failed = held.run_command("db", &doc! {"find": "c"}).await.map(drop);
    assert_eq!(failed.expect_err("refused").code(), Some(code));
    let former = held.id();
    // A held connection stays usable.
    held.run_command("db", &doc! {"ping": 1})
        .await
        .expect("a ping");
    drop(held);
    (former, get().await.expect("a connection").id())
}

async fn a_server_pool_closes_connections_to_a_server_whose_role_changed<
    B: Backend<Config: Default>,
>() {
    let sim = Sim::of(2).await;
    let pool = pool_of::<B>(&sim, "", ManagerConfig::default());
    for code in [10107, 13435, 10058, 13436, 189, 11602] {
        let (former, next) = after(&pool, &sim, 0, code).await;
        assert_ne!(former, next, "{code}");
    }
    for code in [11000, 112, 50] {
        let (former, next) = after(&pool, &sim, 0, code).await;
        assert_eq!(former, next, "{code}");
    }
    pool.close();
}

async fn a_secondary_that_refuses_a_plain_read_keeps_its_role<B: Backend<Config: Default>>() {
    let sim = Sim::of(2).await;
    let (pools, kept) = observed(sim.builder::<B>(""));
    let secondary = ReadPreference::new(ReadPreferenceMode::Secondary);
    let mut held = pools.read(secondary.clone()).await.expect("a connection");
    let refusal = ErrorReply::new(
        13435,
        "NotPrimaryNoSecondaryOk",
        "not master and slaveOk=false",
    );
    let plain = Matcher::command("find").when(|find| !find.contains_key("$readPreference"));
    sim.set
        .server(1)
        .script()
        .add(plain.then(Action::Error(refusal)));
    let refused = held.run_command("db", &doc! {"find": "c"}).await.map(drop);
    assert_eq!(refused.expect_err("plain").code(), Some(13435));
    let address: ServerAddress = sim.set.address(1).parse().expect("an address");
    let known = pools.topology().description();
    let known = known.server(&address).expect("a member");
    assert_eq!(known.server_type, ServerType::RsSecondary);
    assert_eq!(kept.count("PoolCleared"), 0);
    let served = Action::Reply(doc! {"ok": 1});
    sim.set
        .server(1)
        .script()
        .add(Matcher::command("find").then(served));
    let find = doc! {"find": "c", "$readPreference": secondary.to_document()};
    held.run_command("db", &find).await.expect("served");
    // A primary that replies so is no longer primary.
    let refusal = ErrorReply::new(13435, "NotPrimaryNoSecondaryOk", "stepped down");
    let refusal = Matcher::command("find").once().then(Action::Error(refusal));
    sim.set.server(0).script().add(refusal);
    let mut primary = pools.get().await.expect("a connection");
    let refused = primary
        .run_command("db", &doc! {"find": "c"})
        .await
        .map(drop);
    refused.expect_err("stepped down");
    let address: ServerAddress = sim.set.address(0).parse().expect("an address");
    let known = pools.topology().description();
    let known = known.server(&address).expect("a member");
    assert_eq!(known.server_type, ServerType::Unknown);
    drop((held, primary));
    pools.close().await;
}

async fn a_reply_too_long_to_drain_is_named<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pool = pool_of::<B>(&sim, "", ManagerConfig::default());
    let long = Action::Reply(doc! {"ok": 1, "text": "x".repeat(2 * 1024 * 1024)});
    let late = Action::Delay(Duration::from_millis(100));
    let rule = Matcher::command("find").then(late).then(long);
    sim.set.server(0).script().add(rule);
    let mut held = pool
        .get(Deadline::after(LIMIT))
        .await
        .expect("a connection");
    let find = doc! {"find": "c"};
    let bound = Duration::from_millis(50);
    let late = held.run_command_by(bound, "db", &find).await.map(drop);
    assert!(late.expect_err("late").is_timeout());
    for _ in 0..2 {
        let closed = held.run_command("db", &doc! {"ping": 1}).await.map(drop);
        let closed = closed.expect_err("too long");
        let reason = ClosedReason::LongReply;
        assert!(
            matches!(closed.kind(), ErrorKind::ConnectionClosed(found) if *found == reason),
            "{closed}"
        );
        let text = closed.to_string();
        assert!(
            text.contains("closed: the reply to a cancelled command was too long"),
            "{text}"
        );
    }
    drop(held);
    pool.close();
}

fn is_labelled(error: &Error) -> bool {
    error.has_label("RetryableWriteError")
}

async fn retryable_writes_are_labelled<B: Backend<Config: Default>>() {
    let insert = doc! {"insert": "c", "documents": [{"x": 1}]};
    let numbered = doc! {"insert": "c", "documents": [{"x": 1}], "txnNumber": 1_i64};
    let mut within = numbered.clone();
    within.insert("autocommit", false);
    let commit = doc! {"commitTransaction": 1, "txnNumber": 1_i64, "autocommit": false};
    let cases: [(&str, &Document, bool); 6] = [
        ("", &numbered, true),
        ("retryWrites=true", &numbered, true),
        ("retryWrites=false", &numbered, false),
        ("", &insert, false),
        ("", &within, false),
        ("", &commit, true),
    ];
    for (options, command, expected) in cases {
        let sim = Sim::of(1).await;
        let pools = sim.pools::<B>(options);
        let name = command.keys().next().expect("a name");
        let mut held = pools.get().await.expect("a connection");
        let script = sim.set.server(0).script();
        let refusal = ErrorReply::new(11000, "DuplicateKey", "there already");
        script.add(Matcher::command(name).once().then(Action::Error(refusal)));
        let refused = held.run_command("admin", command).await.map(drop);
        assert!(!is_labelled(&refused.expect_err("refused")));
        script.add(Matcher::command(name).once().drop_connection());
        let cut = held.run_command("admin", command).await.map(drop);
        let cut = cut.expect_err("cut");
        assert_eq!(is_labelled(&cut), expected, "{options} {command}: {cut}");
        drop(held);
        pools.close().await;
    }
    for (options, expected) in [("", true), ("retryWrites=false", false)] {
        let sim = Sim::of(1).await;
        let pools = sim.pools::<B>(options);
        drop(pools.get().await.expect("a connection"));
        let held = pools.get().await.expect("a connection");
        let script = sim.set.server(0).script();
        script.add(handshake().once().drop_connection());
        let failed = pools
            .get_by(LIMIT, &Criterion::write(), &[])
            .await
            .map(drop)
            .expect_err("cut");
        assert_eq!(is_labelled(&failed), expected, "{options}: {failed}");
        drop(held);
        pools.close().await;
        // A paused pool.
        let pool = sim.builder::<B>(options).build_server_pool();
        let pool = pool.expect("a pool");
        let paused = pool.get(Deadline::after(LIMIT)).await.map(drop);
        let paused = paused.expect_err("paused");
        assert!(matches!(paused.kind(), ErrorKind::PoolCleared), "{paused}");
        assert_eq!(is_labelled(&paused), expected, "{options}: {paused}");
    }
}

/// Retryable writes, "RetryableWriteError Labels": of a mongod's or a mongos' code, of a mongod's
/// `writeConcernError`, and of no `writeErrors`; where the server has no labels of its own.
async fn errors_of_servers_before_4_4_are_labelled<B: Backend<Config: Default>>() {
    let insert = doc! {"insert": "c", "documents": [{"x": 1}]};
    let numbered = doc! {"insert": "c", "documents": [{"x": 1}], "txnNumber": 1_i64};
    let error = |code| Action::Error(ErrorReply::new(code, "Refused", "by the test"));
    let unconfirmed = |code| doc! {"code": code, "errmsg": "by the test"};
    let concern = |code| Action::Reply(doc! {"ok": 1, "writeConcernError": unconfirmed(code)});
    let write_error = doc! {"index": 0, "code": 6, "errmsg": "by the test"};
    let writes = doc! {"ok": 1, "writeErrors": [write_error]};
    let mut both = writes.clone();
    both.insert("writeConcernError", unconfirmed(6));
    // Whether a mongod's is labelled, and a mongos'.
    for (command, action, expected) in [
        (&numbered, error(6), [true, true]),
        (&insert, error(6), [false, false]),
        (&numbered, error(134), [false, false]),
        (&numbered, error(11000), [false, false]),
        (&insert, concern(6), [true, false]),
        (&insert, concern(100), [false, false]),
        (&insert, Action::Reply(writes), [false, false]),
        (&insert, Action::Reply(both), [false, false]),
    ] {
        for (version, is_mongos, options) in [
            (8, false, ""),
            (8, true, ""),
            (9, false, ""),
            (8, false, "retryWrites=false"),
        ] {
            let sim = Sim::of(1).await;
            let script = sim.set.server(0).script();
            let mut says = doc! {"maxWireVersion": version};
            if is_mongos {
                says.insert("msg", "isdbgrid");
            }
            script.add(Matcher::hello().then(Action::Merge(says)));
            script.add(Matcher::command("insert").then(action.clone()));
            let pool = pool_of::<B>(&sim, options, ManagerConfig::default());
            let mut held = pool
                .get(Deadline::after(LIMIT))
                .await
                .expect("a connection");
            let checked = match held.run_command("db", command).await {
                Err(error) => [error.clone(), error],
                Ok(reply) => [
                    reply.check_write().expect_err("an error"),
                    reply.into_owned().check_write().expect_err("an error"),
                ],
            };
            let expected = expected[usize::from(is_mongos)] && version < 9 && options.is_empty();
            for error in checked {
                let what = format!("{command} {action:?} {version} {is_mongos} {options}");
                assert_eq!(is_labelled(&error), expected, "{what}: {error}");
            }
            drop(held);
            pool.close();
        }
    }
}
