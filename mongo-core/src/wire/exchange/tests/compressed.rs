use super::*;
use crate::wire::{compress, decompress};

fn wrapped(message: &[u8], compressor: Compressor) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(compress(message, compressor, -1, ANY, &mut out));
    out
}

/// A reply whose body begins with `ok`, in snappy.
fn packed_reply(response_to: i32) -> Vec<u8> {
    wrapped(&reply(response_to), Compressor::Snappy)
}

fn op_code(message: &[u8]) -> OpCode {
    let header = Header::parse(message, &Limits::default());
    header.expect("a header").op_code
}

#[test]
fn requests_are_compressed_once_that_is_agreed() {
    let mut exchange = new();
    let id = mark(&mut exchange, MsgFlags::NONE, Taker::Caller);
    assert_eq!(
        (op_code(exchange.request()), exchange.packed()),
        (OpCode::Msg, None)
    );
    exchange.handle_written();
    feed(&mut exchange, &reply(id));
    exchange.accept_reply().expect("own");

    exchange.compress_with(Compressor::Zlib, 9);
    let id = mark(&mut exchange, MsgFlags::NONE, Taker::Caller);
    assert_eq!(op_code(exchange.request()), OpCode::Compressed);
    assert_eq!(exchange.readiness(), closed(ClosedReason::CancelledWrite));
    let mut sent = Vec::new();
    decompress(exchange.request(), &Limits::default(), &mut sent).expect("readable");
    assert_eq!(sent, message(id, MsgFlags::NONE, &rawdoc! { "ping": 1 }));
    exchange.handle_written();
    assert!(exchange.request().is_empty());
    assert_eq!(exchange.readiness(), Readiness::Owed);
    feed(&mut exchange, &reply(id));
    exchange.accept_reply().expect("it may come plain");

    // In between, a command that must not be compressed.
    let (buf, id) = exchange.begin().expect("idle");
    *buf = message(id, MsgFlags::NONE, &rawdoc! { "saslStart": 1 });
    exchange.start_writing(Taker::Caller).expect("a request");
    assert_eq!(op_code(exchange.request()), OpCode::Msg);
}

#[test]
fn a_message_of_the_callers_own_is_compressed_too() {
    let mut exchange = new();
    exchange.compress_with(Compressor::Snappy, -1);
    let foreign = message(-77, MsgFlags::EXHAUST_ALLOWED, &rawdoc! { "find": "x" });
    exchange
        .start_writing_foreign(&foreign, Taker::Anyone)
        .expect("a request");
    let packed = exchange.packed().expect("compressed").to_vec();
    assert_eq!(packed, wrapped(&foreign, Compressor::Snappy));
    exchange.handle_written();
    // The flags of the compressed message count: the reply may be a stream.
    feed(
        &mut exchange,
        &reply_with(500, -77, MsgFlags::MORE_TO_COME, ""),
    );
    exchange.accept_reply().expect("own");
    assert!(exchange.is_streaming());
}

#[test]
fn a_reply_is_read_by_its_own_compressor() {
    for compressor in [Compressor::Snappy, Compressor::Zlib] {
        let mut exchange = new();
        exchange.accept_compressed();
        exchange.compress_with(Compressor::Snappy, -1);
        let id = request(&mut exchange, Taker::Anyone);
        let plain = reply(id);
        let packed = wrapped(&plain, compressor);
        for byte in &packed {
            assert!(!is_whole(&mut exchange));
            feed(&mut exchange, &[*byte]);
        }
        assert!(is_whole(&mut exchange));
        exchange.accept_reply().expect("own");
        assert_eq!(exchange.reply(), plain);
        let body = exchange.reply_body().expect("a document");
        assert_eq!(body.get_str("text").expect("a text"), "own");
        assert_eq!(exchange.readiness(), Readiness::Idle);
        // The next one is uncompressed, and no data of the last one is left.
        let id = request(&mut exchange, Taker::Caller);
        assert_eq!(exchange.reply(), b"");
        feed(&mut exchange, &reply(id));
        exchange.accept_reply().expect("own");
        assert_eq!(exchange.reply(), reply(id));
    }
}

#[test]
fn a_stream_may_be_compressed_in_part() {
    let mut exchange = new();
    exchange.accept_compressed();
    let id = mark(&mut exchange, MsgFlags::EXHAUST_ALLOWED, Taker::Anyone);
    exchange.handle_written();
    let more = MsgFlags::MORE_TO_COME;
    let first = reply_with(500, id, more, "first");
    let second = reply_with(501, 500, more, "second");
    let third = reply_with(502, 501, MsgFlags::NONE, "third");
    let sent = [
        wrapped(&first, Compressor::Zlib),
        second.clone(),
        wrapped(&third, Compressor::Snappy),
    ];
    feed(&mut exchange, &sent.concat());
    for expected in [first, second, third] {
        assert!(is_whole(&mut exchange));
        exchange.accept_reply().expect("in the stream");
        assert_eq!(exchange.reply(), expected);
    }
    assert_eq!(exchange.readiness(), Readiness::Idle);
}

#[test]
fn unsolicited_compression_is_refused() {
    let mut exchange = new();
    let id = request(&mut exchange, Taker::Caller);
    feed(&mut exchange, &packed_reply(id));
    let refused = exchange.accept_reply();
    assert_eq!(
        refused,
        Err(WireError::UnexpectedOpCode(OpCode::Compressed))
    );
    assert_eq!(exchange.readiness(), closed(ClosedReason::Protocol));

    // A compressed reply to another request is refused too.
    let mut exchange = new();
    exchange.accept_compressed();
    let id = request(&mut exchange, Taker::Caller);
    feed(&mut exchange, &packed_reply(id + 1));
    assert!(matches!(
        exchange.accept_reply(),
        Err(WireError::ResponseTo { .. })
    ));
    assert_eq!(exchange.reply(), b"");

    let mut exchange = new();
    exchange.accept_compressed();
    let id = request(&mut exchange, Taker::Caller);
    feed(&mut exchange, &[packed_reply(id), vec![0]].concat());
    assert_eq!(exchange.accept_reply(), Err(WireError::Unsolicited(1)));

    // An OP_REPLY in an OP_COMPRESSED does not answer an OP_MSG.
    let mut exchange = new();
    exchange.accept_compressed();
    let id = request(&mut exchange, Taker::Caller);
    let mut other = packed_reply(id);
    other[16..20].copy_from_slice(&OpCode::Reply.code().to_le_bytes());
    feed(&mut exchange, &other);
    assert_eq!(
        exchange.accept_reply(),
        Err(WireError::UnexpectedOpCode(OpCode::Reply))
    );
}

#[test]
fn buffers_are_given_back() {
    let mut exchange = new();
    exchange.accept_compressed();
    exchange.compress_with(Compressor::Zlib, 0);
    let text = "x".repeat(1_000_000);
    let (buf, id) = exchange.begin().expect("idle");
    *buf = message(id, MsgFlags::NONE, &rawdoc! { "echo": &*text });
    exchange.start_writing(Taker::Caller).expect("a request");
    exchange.handle_written();
    let long = reply_with(9, id, MsgFlags::NONE, &text);
    feed(&mut exchange, &wrapped(&long, Compressor::Snappy));
    exchange.accept_reply().expect("own");
    assert_eq!(exchange.reply(), long);
    exchange.release();
    assert_eq!(exchange.reply(), b"");
    let compression = exchange.compression.as_ref().expect("agreed");
    assert_eq!(
        compression.packed.capacity() + compression.unpacked.capacity(),
        0
    );
    exchange.close(ClosedReason::Closed);
    assert!(exchange.compression.is_none());
}

/// A text that takes more than one step to compress or decompress.
fn long_text() -> String {
    "0123456789".repeat(200_000)
}

#[test]
fn a_long_reply_is_outstanding_until_its_last_step() {
    for compressor in [Compressor::Snappy, Compressor::Zlib, Compressor::Zstd] {
        let mut exchange = new();
        exchange.accept_compressed();
        let id = request(&mut exchange, Taker::Caller);
        let long = reply_with(9, id, MsgFlags::NONE, &long_text());
        feed(&mut exchange, &wrapped(&long, compressor));
        let mut steps = 1;
        while !exchange.prepare_reply().expect("readable") {
            assert_eq!(exchange.readiness(), Readiness::Owed);
            assert_eq!(exchange.reply(), b"");
            // The next caller, after a drop, finds the same message.
            assert!(is_whole(&mut exchange));
            steps += 1;
        }
        assert!((8..24).contains(&steps), "{compressor}: {steps}");
        assert_eq!(exchange.readiness(), Readiness::Owed);
        exchange.accept_reply().expect("own");
        assert_eq!(exchange.reply(), long);

        // An abandoned request is not mixed up with the next one.
        let id = request(&mut exchange, Taker::Caller);
        let long = reply_with(9, id, MsgFlags::NONE, &long_text());
        feed(&mut exchange, &wrapped(&long, compressor));
        assert!(!exchange.prepare_reply().expect("readable"));
        assert_eq!(exchange.begin().err(), Some(Readiness::Owed));
        exchange.accept_reply().expect("own");
        let id = request(&mut exchange, Taker::Caller);
        feed(&mut exchange, &wrapped(&reply(id), compressor));
        assert!(exchange.prepare_reply().expect("readable"), "short");
        exchange.accept_reply().expect("own");
        assert_eq!(exchange.reply(), reply(id));
    }
}

#[test]
fn a_fault_shows_in_its_step() {
    let mut exchange = new();
    exchange.accept_compressed();
    let id = request(&mut exchange, Taker::Caller);
    let long = reply_with(9, id, MsgFlags::NONE, &long_text());
    let mut cut = wrapped(&long, Compressor::Zlib);
    cut.truncate(cut.len() - 9);
    let length = (cut.len() as i32).to_le_bytes();
    cut[..4].copy_from_slice(&length);
    feed(&mut exchange, &cut);
    let error = loop {
        match exchange.prepare_reply() {
            Ok(is_over) => assert!(!is_over),
            Err(error) => break error,
        }
    };
    assert_eq!(error, WireError::Compressed(Compressor::Zlib));
    assert_eq!(exchange.readiness(), closed(ClosedReason::Protocol));
}

#[test]
fn a_long_request_can_be_given_up_while_it_is_packed() {
    for compressor in [Compressor::Snappy, Compressor::Zlib, Compressor::Zstd] {
        let mut exchange = new();
        exchange.compress_with(compressor, -1);
        let long = rawdoc! { "echo": long_text() };
        let (buf, id) = exchange.begin().expect("idle");
        *buf = message(id, MsgFlags::NONE, &long);
        let mut steps = 1;
        while !exchange.pack(None) {
            assert_eq!(exchange.packed(), None);
            assert_eq!(exchange.readiness(), Readiness::Idle);
            steps += 1;
        }
        assert_eq!(steps, 8, "{compressor}");
        let packed = exchange.packed().expect("compressed").to_vec();
        assert!(packed.len() < 200_000);
        assert_eq!(read(&packed), message(id, MsgFlags::NONE, &long));

        // The same again, but abandoned: the next one is not affected.
        let (buf, id) = exchange.begin().expect("idle");
        *buf = message(id, MsgFlags::NONE, &long);
        assert!(!exchange.pack(None));
        let id = mark(&mut exchange, MsgFlags::NONE, Taker::Caller);
        let expected = message(id, MsgFlags::NONE, &rawdoc! { "ping": 1 });
        assert_eq!(read(exchange.request()), expected);
    }
}

fn read(packed: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    decompress(packed, &Limits::default(), &mut out).expect("readable");
    out
}

#[test]
fn a_reply_and_its_wrapper_are_bounded_together() {
    // Nothing of it can be made shorter.
    let mut random = 1_u64;
    let text: String = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6_364_136_223_846_793_005) + 1;
        char::from(b'!' + ((random >> 33) % 90) as u8)
    })
    .take(1_000_000)
    .collect();
    for compressor in [Compressor::Snappy, Compressor::Zlib, Compressor::Zstd] {
        let mut outcomes = Vec::new();
        for less in [0, 1] {
            let mut exchange = new();
            exchange.accept_compressed();
            let id = request(&mut exchange, Taker::Caller);
            let reply = reply_with(9, id, MsgFlags::NONE, &text);
            let packed = wrapped(&reply, compressor);
            let together = packed.len() + reply.len();
            exchange.set_limits(Limits {
                max_message_size: together - less,
                ..Limits::default()
            });
            feed(&mut exchange, &packed);
            let is_read = exchange.accept_reply().map(|()| exchange.reply() == reply);
            outcomes.push((is_read, together));
        }
        let (read, length) = outcomes[0].clone();
        assert_eq!(read, Ok(true), "{compressor:?}");
        let max = length - 1;
        assert_eq!(outcomes[1].0, Err(WireError::TooLong { length, max }));
    }
}
