use std::sync::mpsc;

use bson::rawdoc;
use bson::spec::BinarySubtype;

use super::super::defaults::Defaults;
use super::*;

fn time(seconds: u32) -> Timestamp {
    Timestamp {
        time: seconds,
        increment: 0,
    }
}

fn start(context: &Arc<ClientContext>, options: SessionOptions) -> Result<ClientSession> {
    let server =
        |context: &ClientContext| context.take_session(Instant::now(), Some(30), || [255; 16]);
    ClientSession::start(context.clone(), options, server)
}

fn context() -> Arc<ClientContext> {
    Arc::new(ClientContext::new(Defaults::default()))
}

#[test]
fn an_id_is_a_uuid_of_version_4() {
    let session = start(&context(), SessionOptions::default()).expect("a session");
    let id = session.id().get_binary("id").expect("a UUID");
    assert_eq!((id.subtype, id.bytes.len()), (BinarySubtype::Uuid, 16));
    assert_eq!((id.bytes[6] >> 4, id.bytes[8] >> 6), (4, 2));
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let options = SessionOptions::default;
    for (options, is_good) in [
        (options(), true),
        (options().with_snapshot(true), true),
        (
            options().with_snapshot(true).with_snapshot_time(time(5)),
            true,
        ),
        (
            options().with_snapshot(true).with_causal_consistency(false),
            true,
        ),
        (
            options().with_snapshot(true).with_causal_consistency(true),
            false,
        ),
        (options().with_snapshot_time(time(5)), false),
    ] {
        let session = start(&context(), options.clone());
        assert_eq!(session.is_ok(), is_good, "{options:?}");
        if let Ok(session) = session {
            assert_eq!(session.snapshot_time(), options.snapshot_time);
        }
    }
}

#[test]
fn times_only_go_forward() {
    let mut session = start(&context(), SessionOptions::default()).expect("a session");
    assert_eq!(
        (session.operation_time(), session.cluster_time()),
        (None, None)
    );
    for (seconds, newest) in [(5, 5), (3, 5), (6, 6)] {
        session.observe(&rawdoc! {
            "ok": 1, "operationTime": time(seconds), "$clusterTime": { "clusterTime": time(seconds) },
        });
        assert_eq!(session.operation_time(), Some(time(newest)));
        let cluster_time = session.cluster_time().map(ClusterTime::timestamp);
        assert_eq!(cluster_time, Some(time(newest)));
    }
}

#[test]
fn a_session_goes_back_when_it_is_dropped_unless_it_is_dirty() {
    for (is_lost, is_answered, goes_back) in [
        (false, true, true),
        (true, true, false),
        (false, false, false),
    ] {
        let context = context();
        let mut session = start(&context, SessionOptions::default()).expect("a session");
        session.sending(Instant::now(), None);
        if is_answered {
            session.failed(is_lost);
        }
        assert_eq!(session.is_dirty(), !goes_back);
        drop(session);
        assert_eq!(context.take_all_sessions().len(), usize::from(goes_back));
    }
    // A later success does not make it clean again.
    let context = context();
    let mut session = start(&context, SessionOptions::default()).expect("a session");
    for is_lost in [true, false] {
        session.sending(Instant::now(), None);
        session.failed(is_lost);
    }
    assert!(session.is_dirty());
    // Neither does one after a command that was cancelled.
    let mut session = start(&context, SessionOptions::default()).expect("a session");
    session.sending(Instant::now(), None);
    session.sending(Instant::now(), None);
    session.failed(false);
    assert!(session.is_dirty());
}

/// A session with a transaction whose first command was sent.
fn begun(context: &Arc<ClientContext>) -> ClientSession {
    let mut session = start(context, SessionOptions::default()).expect("a session");
    let options = TransactionOptions::default();
    session.start_transaction(options).expect("a transaction");
    let mut insert = Request::new("db", &rawdoc! { "insert": "c" }).expect("a command");
    let facts = super::super::fields::Facts::default();
    insert
        .prepare(Some(&mut session), &facts, &Defaults::default())
        .expect("fields");
    session
}

#[test]
fn a_transaction_that_may_be_open_is_left_to_be_aborted_once() {
    let context = context();
    let (sent, received) = mpsc::channel();
    context.set_background(Arc::new(move |leftover| {
        let _ = sent.send(leftover);
    }));
    let session = begun(&context);
    let id = session.id().to_owned();
    drop(session);
    let mut leftover = received.try_recv().expect("an abort");
    let facts = super::super::fields::Facts::default();
    let abort = &mut leftover.request;
    let own = leftover.session.as_deref_mut();
    abort
        .prepare(own, &facts, &Defaults::default())
        .expect("fields");
    assert_eq!(abort.body().get_document("lsid").ok(), Some(&*id));
    assert_eq!(abort.body().get_i64("txnNumber").ok(), Some(1));
    drop(leftover);
    assert!(received.try_recv().is_err(), "it is not left again");
    assert!(context.take_all_sessions().is_empty(), "it may be open");
    // One that was aborted gives its session back.
    drop(begun(&context));
    let mut leftover = received.try_recv().expect("an abort");
    let session = leftover.session.as_mut().expect("a session");
    session.received(&rawdoc! { "ok": 1 }, Some(Ending::Abort));
    drop(leftover);
    assert_eq!(context.take_all_sessions().len(), 1);
}

#[test]
fn transactions_that_may_be_open_on_the_server() {
    let ok = rawdoc! { "ok": 1 };
    type Step<'a> = &'a dyn Fn(&mut ClientSession);
    let now = Instant::now();
    let commit: Step<'_> = &|own| own.sending(now, Some(Ending::Commit));
    let refused: Step<'_> = &|own| {
        let before = own.point();
        own.sending(now, Some(Ending::Commit));
        own.rewind(before);
    };
    let abort: Step<'_> = &|own| own.sending(now, Some(Ending::Abort));
    let aborted: Step<'_> = &|own| own.received(&ok, Some(Ending::Abort));
    let forgotten: Step<'_> = &|own| {
        own.transaction.end(Ending::Abort).expect("its end");
        own.transaction.enter();
    };
    let second: Step<'_> = &|own| {
        own.transaction.end(Ending::Abort).expect("its end");
        let options = TransactionOptions::default();
        own.start_transaction(options).expect("a second one");
    };
    for (name, steps, is_open) in [
        ("a command was sent", vec![], true),
        ("a commit was sent", vec![commit], false),
        ("a second commit was not sent", vec![commit, refused], false),
        ("a commit had no effect", vec![refused], true),
        ("an abort was not answered", vec![abort], true),
        ("an abort was answered", vec![abort, aborted], false),
        (
            "an abort was not sent, and another operation began",
            vec![forgotten],
            true,
        ),
        (
            "an abort was not sent, and another one began",
            vec![second],
            true,
        ),
    ] {
        let mut session = begun(&context());
        steps.into_iter().for_each(|step| step(&mut session));
        let left = session.leave();
        assert_eq!(left.is_some(), is_open, "{name}");
    }
}
