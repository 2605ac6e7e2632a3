use bson::{RawDocumentBuf, rawdoc};

use super::*;
use crate::wire::{HEADER_LEN, Header, MsgFlags, OpCode, OpMsgBuilder, append_query};

mod bounds;
#[cfg(all(feature = "snappy", feature = "zlib"))]
mod compressed;

const ANY: usize = usize::MAX;

fn message(id: i32, flags: MsgFlags, command: &RawDocumentBuf) -> Vec<u8> {
    let mut message = Vec::new();
    OpMsgBuilder::new(&mut message, id, flags)
        .body(command)
        .finish(48_000_000)
        .expect("small");
    message
}

fn reply_with(id: i32, response_to: i32, flags: MsgFlags, text: &str) -> Vec<u8> {
    let mut message = message(id, flags, &rawdoc! { "ok": 1, "text": text });
    message[8..12].copy_from_slice(&response_to.to_le_bytes());
    message
}

fn reply(response_to: i32) -> Vec<u8> {
    reply_with(1000, response_to, MsgFlags::NONE, "own")
}

/// Encodes a request and marks it as about to be written.
fn mark(exchange: &mut Exchange, flags: MsgFlags, taker: Taker) -> i32 {
    let (buf, id) = exchange.begin().expect("idle");
    OpMsgBuilder::new(buf, id, flags)
        .body(&rawdoc! { "ping": 1 })
        .finish(48_000_000)
        .expect("small");
    exchange.start_writing(taker).expect("a request");
    id
}

fn request(exchange: &mut Exchange, taker: Taker) -> i32 {
    let id = mark(exchange, MsgFlags::NONE, taker);
    exchange.handle_written();
    id
}

/// Feeds bytes to an exchange as a socket would, regardless of its bounds.
fn feed(exchange: &mut Exchange, bytes: &[u8]) {
    let target = exchange.read_target(ANY).expect("a good header");
    target.expect("room").extend_from_slice(bytes);
}

fn is_whole(exchange: &mut Exchange) -> bool {
    exchange.read_target(ANY).expect("a good header").is_none()
}

fn new() -> Exchange {
    Exchange::new(Limits::default())
}

fn closed(reason: ClosedReason) -> Readiness {
    Readiness::Closed(reason)
}

#[test]
fn each_step_sets_the_state_of_a_drop() {
    let mut exchange = new();
    assert_eq!(exchange.readiness(), Readiness::Idle);
    let (buf, id) = exchange.begin().expect("idle");
    *buf = message(id, MsgFlags::NONE, &rawdoc! { "ping": 1 });
    // Nothing is being written yet.
    assert_eq!(exchange.readiness(), Readiness::Idle);
    exchange.start_writing(Taker::Caller).expect("a request");
    assert_eq!(
        exchange.readiness(),
        closed(ClosedReason::CancelledWrite),
        "before the first byte"
    );
    assert_eq!(Header::parse(exchange.request(), exchange.limits()), {
        let request = message(id, MsgFlags::NONE, &rawdoc! { "ping": 1 });
        Header::parse(&request, &Limits::default())
    });
    exchange.handle_written();
    assert_eq!(exchange.readiness(), Readiness::Owed);
    assert!(exchange.request().is_empty());
    let reply = reply(id);
    for byte in &reply {
        assert!(!is_whole(&mut exchange));
        feed(&mut exchange, &[*byte]);
        assert_eq!(exchange.readiness(), Readiness::Owed);
        assert_eq!(exchange.reply(), b"", "not before it is checked");
    }
    assert!(is_whole(&mut exchange));
    exchange.accept_reply().expect("own");
    assert_eq!(exchange.readiness(), Readiness::Idle);
    assert_eq!(exchange.reply(), reply);
    let body = exchange.reply_body().expect("a document");
    assert_eq!(body.get_str("text").expect("a text"), "own");
}

#[test]
fn no_request_begins_before_the_last_one_is_over() {
    let mut exchange = new();
    mark(&mut exchange, MsgFlags::NONE, Taker::Caller);
    let writing = closed(ClosedReason::CancelledWrite);
    assert_eq!(exchange.begin().expect_err("writing"), writing);
    exchange.handle_written();
    assert_eq!(exchange.begin().expect_err("owed"), Readiness::Owed);
    feed(&mut exchange, &reply(1)[..20]);
    assert_eq!(exchange.begin().expect_err("owed"), Readiness::Owed);
    exchange.close(ClosedReason::Network);
    let closed = closed(ClosedReason::Network);
    assert_eq!(exchange.begin().expect_err("closed"), closed);
}

#[test]
fn a_request_without_a_reply_is_over_when_it_is_written() {
    let mut exchange = new();
    mark(&mut exchange, MsgFlags::MORE_TO_COME, Taker::Anyone);
    assert_eq!(
        exchange.readiness(),
        closed(ClosedReason::CancelledWrite),
        "it still has to be written whole"
    );
    exchange.handle_written();
    assert_eq!(exchange.readiness(), Readiness::Idle);
    assert!(!exchange.is_receivable());
    // A reply that comes nevertheless is unsolicited.
    feed(&mut exchange, &reply(1));
    assert!(is_whole(&mut exchange));
    let length = reply(1).len();
    let refused = exchange.accept_reply();
    assert_eq!(refused, Err(WireError::Unsolicited(length)));
    assert_eq!(exchange.readiness(), closed(ClosedReason::Protocol));
}

#[test]
fn only_a_reply_for_anyone_is_receivable() {
    let mut exchange = new();
    assert!(!exchange.is_receivable());
    let id = request(&mut exchange, Taker::Caller);
    assert!(!exchange.is_receivable());
    feed(&mut exchange, &reply(id));
    exchange.accept_reply().expect("own");
    mark(&mut exchange, MsgFlags::NONE, Taker::Anyone);
    assert!(!exchange.is_receivable(), "not before it is written");
    exchange.handle_written();
    assert!(exchange.is_receivable());
    exchange.close(ClosedReason::Closed);
    assert!(!exchange.is_receivable());
}

#[test]
fn a_reply_to_another_request_is_refused() {
    for wrong in [0, 1, 3, -2, i32::MAX] {
        let mut exchange = new();
        let first = request(&mut exchange, Taker::Caller);
        feed(&mut exchange, &reply(first));
        exchange.accept_reply().expect("own");
        let second = request(&mut exchange, Taker::Caller);
        assert_eq!((first, second), (1, 2));
        feed(&mut exchange, &reply(wrong));
        let refused = exchange.accept_reply();
        let expected = WireError::ResponseTo {
            expected: second,
            got: wrong,
        };
        assert_eq!(refused, Err(expected));
        assert_eq!(exchange.readiness(), closed(ClosedReason::Protocol));
        assert_eq!(exchange.reply(), b"");
        assert!(exchange.reply_body().is_err());
    }
}

#[test]
fn a_second_reply_is_refused_whenever_it_comes() {
    let mut exchange = new();
    let id = request(&mut exchange, Taker::Caller);
    let twice = [reply(id), reply(id)].concat();
    feed(&mut exchange, &twice);
    let refused = exchange.accept_reply();
    assert_eq!(refused, Err(WireError::Unsolicited(reply(id).len())));
    assert_eq!(exchange.readiness(), closed(ClosedReason::Protocol));

    let mut exchange = new();
    let id = request(&mut exchange, Taker::Caller);
    feed(&mut exchange, &[&*reply(id), &[0]].concat());
    assert_eq!(exchange.accept_reply(), Err(WireError::Unsolicited(1)));

    // A later one arrives during the next request.
    let mut exchange = new();
    let first = request(&mut exchange, Taker::Caller);
    feed(&mut exchange, &reply(first));
    exchange.accept_reply().expect("own");
    request(&mut exchange, Taker::Caller);
    feed(&mut exchange, &reply(first));
    let refused = exchange.accept_reply();
    assert!(matches!(refused, Err(WireError::ResponseTo { .. })));
}

#[test]
fn a_stream_names_the_request_or_the_reply_before() {
    for chained in [false, true] {
        let mut exchange = new();
        let id = mark(&mut exchange, MsgFlags::EXHAUST_ALLOWED, Taker::Anyone);
        exchange.handle_written();
        assert_eq!(exchange.readiness(), Readiness::Owed);
        let more = MsgFlags::MORE_TO_COME;
        let to = |previous: i32| if chained { previous } else { id };
        let first = reply_with(500, id, more, "first");
        let second = reply_with(501, to(500), more, "second");
        let third = reply_with(502, to(501), MsgFlags::NONE, "third");
        // The second comes in one read with the first, and part of the third too.
        feed(&mut exchange, &[&*first, &second, &third[..9]].concat());
        exchange.accept_reply().expect("the first");
        assert_eq!(exchange.reply(), first);
        let left = closed(ClosedReason::CancelledStream);
        assert_eq!(exchange.readiness(), left);
        assert!(exchange.is_receivable());
        assert!(is_whole(&mut exchange));
        exchange.accept_reply().expect("the second");
        assert_eq!(exchange.reply(), second);
        assert_eq!(exchange.readiness(), left);
        feed(&mut exchange, &third[9..]);
        assert!(is_whole(&mut exchange));
        exchange.accept_reply().expect("the third");
        assert_eq!(exchange.reply(), third);
        assert_eq!(exchange.readiness(), Readiness::Idle);
        assert!(!exchange.is_receivable());
    }
}

#[test]
fn a_stream_that_no_request_allowed_is_refused() {
    let mut exchange = new();
    let id = request(&mut exchange, Taker::Caller);
    feed(
        &mut exchange,
        &reply_with(500, id, MsgFlags::MORE_TO_COME, "own"),
    );
    assert!(is_whole(&mut exchange));
    assert_eq!(exchange.accept_reply(), Err(WireError::MoreToCome));
    assert_eq!(exchange.readiness(), closed(ClosedReason::Protocol));
}

#[test]
fn a_stream_names_no_reply_but_the_last() {
    for wrong in [0, 500, 502, 2] {
        let mut exchange = new();
        let id = mark(&mut exchange, MsgFlags::EXHAUST_ALLOWED, Taker::Anyone);
        exchange.handle_written();
        for (reply, to) in [(500, id), (501, 500)] {
            let more = MsgFlags::MORE_TO_COME;
            feed(&mut exchange, &reply_with(reply, to, more, ""));
            exchange.accept_reply().expect("in the stream");
            assert!(!is_whole(&mut exchange));
        }
        feed(&mut exchange, &reply(wrong));
        let refused = exchange.accept_reply();
        assert!(matches!(refused, Err(WireError::ResponseTo { .. })));
        assert_eq!(exchange.readiness(), closed(ClosedReason::Protocol));
    }
}

#[test]
fn an_invalid_request_is_refused_and_leaves_the_state() {
    let good = message(7, MsgFlags::NONE, &rawdoc! { "ping": 1 });
    let mut longer = good.clone();
    longer.push(0);
    let mut answer = good.clone();
    answer[12..16].copy_from_slice(&OpCode::Reply.code().to_le_bytes());
    let mut compressed = good.clone();
    compressed[12..16].copy_from_slice(&OpCode::Compressed.code().to_le_bytes());
    let bad = [
        &good[..15],
        &good[..good.len() - 1],
        &longer,
        &answer,
        &compressed,
        b"",
    ];
    for bad in bad {
        let mut exchange = new();
        assert!(exchange.start_writing_foreign(bad, Taker::Anyone).is_err());
        assert_eq!(exchange.readiness(), Readiness::Idle);
        let (buf, _) = exchange.begin().expect("idle");
        buf.extend_from_slice(bad);
        assert!(exchange.start_writing(Taker::Caller).is_err());
        assert_eq!(exchange.readiness(), Readiness::Idle);
        assert_eq!(request(&mut exchange, Taker::Caller), 2);
    }
}

#[test]
fn a_message_of_the_callers_own_keeps_its_id() {
    let mut exchange = new();
    let foreign = message(-77, MsgFlags::NONE, &rawdoc! { "ping": 1 });
    exchange
        .start_writing_foreign(&foreign, Taker::Anyone)
        .expect("a request");
    assert_eq!(exchange.readiness(), closed(ClosedReason::CancelledWrite));
    exchange.handle_written();
    assert_eq!(exchange.readiness(), Readiness::Owed);
    feed(&mut exchange, &reply(-77));
    exchange.accept_reply().expect("own");
    assert_eq!(exchange.readiness(), Readiness::Idle);
    // The exchange's own ids continue.
    assert_eq!(request(&mut exchange, Taker::Caller), 1);
}

#[test]
fn the_legacy_request_is_answered_in_kind() {
    let legacy_reply = |response_to: i32| {
        let document = rawdoc! { "ok": 1 };
        let mut bytes = vec![0; 4];
        for number in [9, response_to, OpCode::Reply.code(), 0, 0, 0, 0, 1] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(document.as_bytes());
        let length = bytes.len() as i32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    let begin = || {
        let mut exchange = new();
        let (buf, id) = exchange.begin().expect("idle");
        append_query(buf, id, "admin", &rawdoc! { "isMaster": 1 }, ANY).expect("small");
        exchange.start_writing(Taker::Caller).expect("a request");
        exchange.handle_written();
        (exchange, id)
    };
    let (mut exchange, id) = begin();
    feed(&mut exchange, &legacy_reply(id));
    exchange.accept_reply().expect("own");
    assert_eq!(exchange.reply_body(), Ok(&*rawdoc! { "ok": 1 }));
    assert_eq!(exchange.readiness(), Readiness::Idle);

    let (mut exchange, id) = begin();
    feed(&mut exchange, &legacy_reply(id + 1));
    assert!(exchange.accept_reply().is_err());
    // An OP_MSG does not answer an OP_QUERY, nor the other way round.
    let (mut exchange, id) = begin();
    feed(&mut exchange, &reply(id));
    let refused = exchange.accept_reply();
    assert_eq!(refused, Err(WireError::UnexpectedOpCode(OpCode::Msg)));
    let mut exchange = new();
    let id = request(&mut exchange, Taker::Caller);
    feed(&mut exchange, &legacy_reply(id));
    let refused = exchange.accept_reply();
    assert_eq!(refused, Err(WireError::UnexpectedOpCode(OpCode::Reply)));
}

#[test]
fn request_ids_wrap_to_one() {
    let mut exchange = new();
    exchange.next_request_id = i32::MAX;
    for expected in [i32::MAX, 1, 2] {
        let id = request(&mut exchange, Taker::Caller);
        assert_eq!(id, expected);
        feed(&mut exchange, &reply(id));
        exchange.accept_reply().expect("own");
    }
}

#[test]
fn debug_shows_nothing_of_the_buffer() {
    let mut exchange = new();
    let id = request(&mut exchange, Taker::Caller);
    let message = reply_with(500, id, MsgFlags::NONE, "private");
    feed(&mut exchange, &message);
    let shown = format!("{exchange:?}");
    assert!(shown.contains(&format!("buffered: {}", message.len())));
    let bytes = format!("{:?}", b"private");
    assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
}

#[test]
fn the_first_reason_for_an_end_stays() {
    let mut exchange = new();
    let id = request(&mut exchange, Taker::Caller);
    feed(&mut exchange, &reply(id)[..20]);
    exchange.close(ClosedReason::CancelledReply);
    exchange.close(ClosedReason::Network);
    assert_eq!(exchange.readiness(), closed(ClosedReason::CancelledReply));
    assert_eq!(exchange.buf.capacity(), 0);
    // No late step brings it back.
    exchange.handle_written();
    exchange.release();
    assert!(exchange.accept_reply().is_err());
    assert_eq!(exchange.readiness(), closed(ClosedReason::CancelledReply));
}

#[test]
fn a_reply_that_is_not_whole_is_not_accepted() {
    let whole = reply(1);
    for cut in 0..whole.len() {
        let mut exchange = new();
        request(&mut exchange, Taker::Caller);
        feed(&mut exchange, &whole[..cut]);
        assert!(exchange.accept_reply().is_err(), "{cut}");
        assert_eq!(exchange.readiness(), closed(ClosedReason::Protocol));
    }
}
