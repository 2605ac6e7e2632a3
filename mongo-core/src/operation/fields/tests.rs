use std::time::Instant;

use bson::{Bson, doc};

use super::super::session::ClientContext;
use super::super::session::SessionOptions;
use super::super::transaction::TransactionOptions;
use super::*;
use crate::concern::{ReadConcern, WriteConcern};

fn defaults() -> Defaults {
    Defaults {
        read_concern: ReadConcern::MAJORITY,
        write_concern: WriteConcern::majority(),
        read_preference: ReadPreference::new(ReadPreferenceMode::Nearest),
        retry_reads: true,
        retry_writes: true,
        ..Defaults::default()
    }
}

fn session(options: SessionOptions) -> ClientSession {
    let context = Arc::new(ClientContext::new(defaults()));
    let server = |context: &ClientContext| context.take_session(Instant::now(), None, || [7; 16]);
    ClientSession::start(context, options, server).expect("a session")
}

/// Without the read preference of the connection string.
fn on_primary() -> TransactionOptions {
    let primary = ReadPreference::new(ReadPreferenceMode::Primary);
    TransactionOptions::default().with_read_preference(primary)
}

fn time(seconds: u32) -> Timestamp {
    Timestamp {
        time: seconds,
        increment: 1,
    }
}

fn cluster_time(seconds: u32) -> ClusterTime {
    let document = bson::rawdoc! { "clusterTime": time(seconds) };
    ClusterTime::newer(&document, None).expect("a time")
}

fn facts() -> Facts {
    Facts {
        max_wire_version: 25,
        cluster_time: Some(Arc::new(cluster_time(5))),
        ..Facts::default()
    }
}

fn request(kind: OperationKind) -> Box<Request> {
    let mut request = Request::new("db", &doc! { "find": "c" }).expect("a command");
    request.kind = kind;
    request
}

/// The fields that are added, except those of every session.
fn added(request: &Request) -> Document {
    let mut body = Document::try_from(request.body()).expect("a document");
    for every in ["find", "lsid", "$clusterTime"] {
        body.remove(every);
    }
    body
}

fn prepared(request: &mut Request, session: &mut ClientSession, facts: &Facts) -> Document {
    request
        .prepare(Some(session), facts, &defaults())
        .expect("a command");
    added(request)
}

#[test]
fn the_kind_decides_on_concerns_numbers_and_read_preferences() {
    let nearest = doc! { "mode": "nearest" };
    for (kind, is_router, expected) in [
        (OperationKind::Command, false, doc! {}),
        (
            OperationKind::Read,
            true,
            doc! { "readConcern": { "level": "majority" }, "$readPreference": nearest },
        ),
        (
            OperationKind::Write,
            false,
            doc! { "txnNumber": 1_i64, "writeConcern": { "w": "majority" } },
        ),
    ] {
        let facts = Facts {
            is_router,
            ..facts()
        };
        let added = prepared(
            &mut request(kind),
            &mut session(SessionOptions::default()),
            &facts,
        );
        assert_eq!(added, expected, "{kind:?}");
    }
}

#[test]
fn a_later_attempt_replaces_the_added_fields() {
    let (mut request, mut session) = (
        request(OperationKind::Write),
        session(SessionOptions::default()),
    );
    let first = prepared(&mut request, &mut session, &facts());
    assert_eq!(
        prepared(&mut request, &mut session, &facts()),
        first,
        "and keeps the number"
    );
    let limited = Facts {
        max_time: Some(50),
        ..facts()
    };
    let limited = prepared(&mut request, &mut session, &limited);
    assert_eq!(limited.get_i64("maxTimeMS").ok(), Some(50));
    assert_eq!(limited.get_i64("txnNumber").ok(), Some(1));
}

#[test]
fn fields_of_the_command_stay_as_they_are() {
    let own = doc! {
        "find": "c", "readConcern": { "level": "local" }, "writeConcern": { "w": 1 },
        "$readPreference": { "mode": "primary" }, "maxTimeMS": 7, "comment": 1,
    };
    for kind in [OperationKind::Read, OperationKind::Write] {
        let mut request = Request::new("db", &own).expect("a command");
        request.kind = kind;
        request.is_retryable = false;
        request.comment = Some(bson::raw::RawBson::Int32(2));
        let facts = Facts {
            max_time: Some(50),
            is_router: true,
            ..facts()
        };
        let mut expected = own.clone();
        expected.remove("find");
        let added = prepared(
            &mut request,
            &mut session(SessionOptions::default()),
            &facts,
        );
        assert_eq!(added, expected);
    }
}

#[test]
fn read_preferences_depend_on_the_server() {
    let mode = |is_direct, is_router, is_standalone, own: Option<ReadPreferenceMode>| {
        let mut request = request(OperationKind::Command);
        request.read_preference = own.map(ReadPreference::new);
        let facts = Facts {
            is_direct,
            is_router,
            is_standalone,
            ..facts()
        };
        let added = prepared(
            &mut request,
            &mut session(SessionOptions::default()),
            &facts,
        );
        let preference = added.get_document("$readPreference").ok()?;
        preference.get_str("mode").ok().map(str::to_owned)
    };
    let secondary = Some(ReadPreferenceMode::Secondary);
    for (is_direct, is_router, is_standalone, own, expected) in [
        (false, false, false, None, None),
        (false, true, false, None, None),
        (true, false, false, None, Some("primaryPreferred")),
        (true, true, false, None, None),
        (true, false, true, None, None),
        (false, false, false, secondary, Some("secondary")),
        (true, false, false, secondary, Some("secondary")),
        (true, false, true, secondary, None),
    ] {
        let mode = mode(is_direct, is_router, is_standalone, own);
        assert_eq!(mode.as_deref(), expected);
    }
}

#[test]
fn the_newer_cluster_time_is_sent() {
    for (own, expected) in [(3, 5), (9, 9)] {
        let mut session = session(SessionOptions::default());
        session.advance_cluster_time(cluster_time(own).document());
        let mut request = request(OperationKind::Command);
        prepared(&mut request, &mut session, &facts());
        let sent = request.body().get_document("$clusterTime").expect("a time");
        assert_eq!(sent.get_timestamp("clusterTime").ok(), Some(time(expected)));
    }
}

#[test]
fn a_causal_session_reads_after_its_last_operation() {
    let kinds = [
        OperationKind::Command,
        OperationKind::Read,
        OperationKind::Write,
    ];
    for (options, facts, expected) in [
        (SessionOptions::default(), facts(), [false, true, true]),
        (SessionOptions::default(), Facts::default(), [false; 3]),
        (
            SessionOptions::default().with_causal_consistency(false),
            facts(),
            [false; 3],
        ),
    ] {
        let mut session = session(options);
        session.advance_operation_time(time(4));
        for (kind, expected) in kinds.into_iter().zip(expected) {
            let added = prepared(&mut request(kind), &mut session, &facts);
            let concern = added.get_document("readConcern").ok();
            let after = concern.and_then(|own| own.get_timestamp("afterClusterTime").ok());
            assert_eq!(after, expected.then_some(time(4)), "{kind:?}");
        }
    }
}

#[test]
fn a_snapshot_session_reads_at_the_time_of_its_first_read() {
    let mut session = session(SessionOptions::default().with_snapshot(true));
    let first = prepared(&mut request(OperationKind::Command), &mut session, &facts());
    assert_eq!(first, doc! { "readConcern": { "level": "snapshot" } });
    for seconds in [6, 8] {
        let cursor = bson::rawdoc! { "atClusterTime": time(seconds) };
        session.observe(&bson::rawdoc! { "cursor": cursor });
    }
    let second = prepared(&mut request(OperationKind::Read), &mut session, &facts());
    let concern = doc! { "level": "snapshot", "atClusterTime": time(6) };
    assert_eq!(second.get_document("readConcern").ok(), Some(&concern));
    let old = Facts {
        max_wire_version: 12,
        ..facts()
    };
    let refused = request(OperationKind::Read).prepare(Some(&mut session), &old, &defaults());
    let refused = refused.expect_err("an old server");
    assert!(
        refused
            .to_string()
            .contains("Snapshot reads require MongoDB 5.0 or later")
    );
}

#[test]
fn a_transaction_s_commands_have_its_fields() {
    let mut session = session(SessionOptions::default());
    session.advance_operation_time(time(4));
    session
        .start_transaction(on_primary())
        .expect("a transaction");
    let concern = doc! { "level": "majority", "afterClusterTime": time(4) };
    let rest = doc! { "txnNumber": 1_i64, "autocommit": false };
    let mut first = rest.clone();
    first.extend([
        ("startTransaction".to_owned(), Bson::Boolean(true)),
        ("readConcern".to_owned(), concern.into()),
    ]);
    for (kind, expected) in [
        (OperationKind::Write, first),
        (OperationKind::Command, rest),
    ] {
        assert_eq!(
            prepared(&mut request(kind), &mut session, &facts()),
            expected
        );
    }
}

#[test]
fn the_newest_recovery_token_goes_with_the_commit() {
    let mut session = session(SessionOptions::default());
    session
        .start_transaction(TransactionOptions::default())
        .expect("a transaction");
    for number in [1, 2] {
        prepared(&mut request(OperationKind::Write), &mut session, &facts());
        session.observe(&bson::rawdoc! { "recoveryToken": { "n": number } });
    }
    for ending in [Ending::Abort, Ending::Commit] {
        let mut end = Request::end_transaction(ending);
        let added = prepared(&mut end, &mut session, &facts());
        assert_eq!(
            added.get_document("recoveryToken").ok(),
            Some(&doc! { "n": 2 })
        );
        assert_eq!(
            added.get_document("writeConcern").ok(),
            Some(&doc! { "w": "majority" })
        );
        assert_eq!(added.get_bool("autocommit").ok(), Some(false));
    }
    // The next transaction has none.
    session.transaction.end(Ending::Commit).expect("a commit");
    session
        .start_transaction(TransactionOptions::default())
        .expect("a transaction");
    prepared(&mut request(OperationKind::Write), &mut session, &facts());
    let mut end = Request::end_transaction(Ending::Commit);
    assert!(!prepared(&mut end, &mut session, &facts()).contains_key("recoveryToken"));
}

#[test]
fn a_command_of_a_cursor_has_only_its_session() {
    let command = bson::rawdoc! { "find": "c" };
    let mut more = Request::on_cursor("db", command);
    let mut causal = session(SessionOptions::default());
    causal.advance_operation_time(time(4));
    let direct = Facts {
        is_direct: true,
        ..facts()
    };
    assert_eq!(prepared(&mut more, &mut causal, &direct), doc! {});
    assert!(more.body().get("lsid").is_ok_and(|own| own.is_some()));
}

#[test]
fn the_session_completes_the_read_concern_of_a_command() {
    let own = |concern| {
        let own = Request::new("db", &doc! { "find": "c", "readConcern": concern });
        let mut own = own.expect("a command");
        own.kind = OperationKind::Read;
        own
    };
    let causal = || {
        let mut session = session(SessionOptions::default());
        session.advance_operation_time(time(4));
        session
    };
    let begun = || {
        let mut session = causal();
        let options = on_primary();
        session.start_transaction(options).expect("a transaction");
        session
    };
    let snapshot = || session(SessionOptions::default().with_snapshot(true));
    let after = |seconds| doc! { "level": "local", "afterClusterTime": time(seconds) };
    let local = doc! { "level": "local" };
    let at = doc! { "atClusterTime": time(3) };
    let at_snapshot = doc! { "level": "snapshot", "atClusterTime": time(3) };
    for (mut session, concern, expected) in [
        (causal(), local.clone(), Some(after(4))),
        (causal(), after(9), Some(after(9))),
        (causal(), at_snapshot.clone(), Some(at_snapshot.clone())),
        (begun(), local.clone(), Some(after(4))),
        (snapshot(), at, Some(at_snapshot.clone())),
        (snapshot(), at_snapshot.clone(), Some(at_snapshot)),
        (snapshot(), local, None),
    ] {
        let mut request = own(concern.clone());
        // The second attempt sends the same.
        for _ in 0..2 {
            let before = session.point();
            let outcome = request.prepare(Some(&mut session), &facts(), &defaults());
            assert_eq!(outcome.is_ok(), expected.is_some(), "{concern}");
            if outcome.is_ok() {
                let sent = added(&request).get_document("readConcern").cloned();
                assert_eq!(sent.ok(), expected);
            }
            session.rewind(before);
        }
    }
    // The server refuses what is no document.
    let mut other = Request::new("db", &doc! { "find": "c", "readConcern": 1 }).expect("a command");
    let sent = prepared(&mut other, &mut causal(), &facts());
    assert_eq!(sent.get_i32("readConcern").ok(), Some(1));
}

#[test]
fn a_command_without_a_kind_loses_options() {
    for (command, kind, expected) in [
        (
            doc! { "insert": "c" },
            OperationKind::Command,
            Some("w, journal, wTimeoutMS"),
        ),
        (doc! { "insert": "c" }, OperationKind::Write, None),
        (
            doc! { "find": "c" },
            OperationKind::Command,
            Some("readConcernLevel"),
        ),
        (doc! { "find": "c" }, OperationKind::Read, None),
        (
            doc! { "find": "c", "readConcern": { "level": "local" } },
            OperationKind::Command,
            Some("readPreference"),
        ),
        (doc! { "ping": 1 }, OperationKind::Command, None),
        (
            doc! { "insert": "c", "writeConcern": { "w": 1 } },
            OperationKind::Command,
            None,
        ),
    ] {
        let mut request = Request::new("db", &command).expect("a command");
        request.kind = kind;
        let lost = request.lost_option(&defaults());
        assert_eq!(
            lost.filter(|_| kind == OperationKind::Command),
            expected,
            "{command}"
        );
        assert_eq!(request.lost_option(&Defaults::default()), None);
    }
}
