//! Bounds on the data of a reply that the client allocates, keeps and reads.

use super::*;

#[test]
fn a_claimed_length_is_not_allocated() {
    // Limits that a server may set in its hello.
    let limits = Limits {
        max_message_size: i32::MAX as usize,
        ..Limits::default()
    };
    let mut exchange = Exchange::new(limits);
    let id = request(&mut exchange, Taker::Caller);
    let mut head = reply(id);
    head.truncate(HEADER_LEN);
    head[..4].copy_from_slice(&i32::MAX.to_le_bytes());
    feed(&mut exchange, &head);
    let mut received = head.len();
    while received < 4 * READ_AHEAD {
        let target = exchange.read_target(ANY).expect("good").expect("room");
        assert!(target.capacity() > target.len());
        assert!(
            target.capacity() <= 2 * received.max(READ_AHEAD),
            "{} for {received}",
            target.capacity()
        );
        target.resize(target.capacity(), 0);
        received = target.len();
    }
    // With the usual limits it is refused by its header, and nothing is allocated.
    let mut exchange = new();
    request(&mut exchange, Taker::Caller);
    feed(&mut exchange, &head);
    let refused = exchange.read_target(ANY).expect_err("too long");
    assert!(matches!(refused, WireError::TooLong { .. }));
    assert_eq!(exchange.readiness(), closed(ClosedReason::Protocol));
    assert_eq!(exchange.buf.capacity(), 0);
}

#[test]
fn the_buffer_grows_with_a_reply_and_is_given_back() {
    let mut exchange = new();
    let id = request(&mut exchange, Taker::Caller);
    let small = exchange.buf.capacity();
    assert!(small <= KEEP, "{small}");
    let text = "x".repeat(3_000_000);
    let long = reply_with(9, id, MsgFlags::NONE, &text);
    let mut sent = 0;
    while let Some(target) = exchange.read_target(ANY).expect("good") {
        let room = (target.capacity() - target.len()).min(long.len() - sent);
        assert!(room > 0);
        target.extend_from_slice(&long[sent..sent + room]);
        sent += room;
    }
    exchange.accept_reply().expect("own");
    assert_eq!(exchange.reply(), long);
    exchange.release();
    assert_eq!(exchange.buf.capacity(), 0);
    assert_eq!(exchange.reply(), b"");
    // A small buffer is kept.
    let id = request(&mut exchange, Taker::Caller);
    feed(&mut exchange, &reply(id));
    exchange.accept_reply().expect("own");
    exchange.release();
    assert!((1..=KEEP).contains(&exchange.buf.capacity()));
}

#[test]
fn a_release_keeps_the_needed_bytes() {
    let mut exchange = new();
    let id = request(&mut exchange, Taker::Caller);
    let reply = reply(id);
    feed(&mut exchange, &reply[..30]);
    exchange.release();
    assert_eq!(exchange.readiness(), Readiness::Owed);
    feed(&mut exchange, &reply[30..]);
    assert!(is_whole(&mut exchange));
    exchange.accept_reply().expect("own");
}

#[test]
fn a_reply_too_long_to_drain_is_known_by_its_header() {
    let mut exchange = new();
    let id = request(&mut exchange, Taker::Caller);
    let reply = reply(id);
    let length = reply.len();
    feed(&mut exchange, &reply[..HEADER_LEN - 1]);
    assert!(!exchange.owes_more_than(length - 1), "not known yet");
    feed(&mut exchange, &reply[HEADER_LEN - 1..HEADER_LEN]);
    assert!(exchange.owes_more_than(length - 1));
    assert!(!exchange.owes_more_than(length));
    let max = length - 1;
    let refused = exchange.read_target(max).expect_err("too long");
    assert_eq!(refused, WireError::TooLong { length, max });
    assert_eq!(exchange.readiness(), closed(ClosedReason::LongReply));
    assert!(!exchange.owes_more_than(max), "nothing is owed any more");

    let mut exchange = new();
    let id = request(&mut exchange, Taker::Caller);
    feed(&mut exchange, &super::reply(id));
    exchange.accept_reply().expect("own");
    assert!(!exchange.owes_more_than(1), "a reply that came is not owed");
}

#[test]
fn a_handshake_is_held_to_1_mib_until_it_is_over() {
    let mut exchange = new();
    let before = exchange.narrow();
    let mut head = reply(request(&mut exchange, Taker::Caller));
    head.truncate(HEADER_LEN);
    head[..4].copy_from_slice(&(1024 * 1024 + 1_i32).to_le_bytes());
    feed(&mut exchange, &head);
    let refused = exchange.read_target(ANY).expect_err("too long");
    let (length, max) = (1024 * 1024 + 1, 1024 * 1024);
    assert_eq!(refused, WireError::TooLong { length, max });

    let many = "x\0".repeat(9000);
    let mut exchange = new();
    exchange.narrow();
    let id = request(&mut exchange, Taker::Caller);
    feed(&mut exchange, &reply_with(9, id, MsgFlags::NONE, &many));
    assert!(is_whole(&mut exchange));
    exchange.accept_reply().expect("one element of 18 KB");
    exchange.widen(before);
    let id = request(&mut exchange, Taker::Caller);
    let long = reply_with(9, id, MsgFlags::NONE, &"x".repeat(2_000_000));
    feed(&mut exchange, &long);
    assert!(is_whole(&mut exchange));
    exchange.accept_reply().expect("as long as any");
    assert_eq!(exchange.reply(), long);
}

/// Memory is what has come, and what has come twice while a buffer that grows is copied.
#[test]
fn a_message_takes_no_more_room_than_its_own_and_is_hardly_copied() {
    for size in [300_000, 3_000_000, 9_000_000, 47_000_000] {
        let mut exchange = new();
        let id = request(&mut exchange, Taker::Caller);
        let long = reply_with(9, id, MsgFlags::NONE, &"x".repeat(size));
        let (mut sent, mut copied, mut capacity) = (0, 0, 0);
        while let Some(target) = exchange.read_target(ANY).expect("good") {
            if target.capacity() != capacity {
                (copied, capacity) = (copied + sent, target.capacity());
            }
            assert!(capacity <= long.len(), "{capacity} for {}", long.len());
            let room = (target.capacity() - target.len()).min(long.len() - sent);
            target.extend_from_slice(&long[sent..sent + room]);
            sent += room;
        }
        assert_eq!(exchange.buf.capacity(), long.len());
        assert!(copied <= 2 * 1024 * 1024, "{copied} of {}", long.len());
    }
}
