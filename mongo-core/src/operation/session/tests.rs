use bson::rawdoc;

use super::super::client::Defaults;
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
        session.sending(Instant::now());
        if is_answered {
            session.received(is_lost);
        }
        assert_eq!(session.is_dirty(), !goes_back);
        drop(session);
        assert_eq!(context.take_all_sessions().len(), usize::from(goes_back));
    }
    // A later success does not make it clean again.
    let context = context();
    let mut session = start(&context, SessionOptions::default()).expect("a session");
    for is_lost in [true, false] {
        session.sending(Instant::now());
        session.received(is_lost);
    }
    assert!(session.is_dirty());
    // Neither does one after a command that was cancelled.
    let mut session = start(&context, SessionOptions::default()).expect("a session");
    session.sending(Instant::now());
    session.sending(Instant::now());
    session.received(false);
    assert!(session.is_dirty());
}

#[test]
fn a_session_that_was_moved_out_goes_back_once() {
    let context = context();
    let mut session = start(&context, SessionOptions::default()).expect("a session");
    let id = session.id().to_owned();
    let moved = session.take();
    drop(session);
    assert!(context.take_all_sessions().is_empty());
    assert_eq!(moved.id(), &*id);
    drop(moved);
    assert_eq!(context.take_all_sessions(), vec![id]);
}
