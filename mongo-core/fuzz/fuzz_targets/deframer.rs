//! A server's bytes, in pieces, in answer to one request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mongo_core::wire::{Exchange, MsgFlags, OpMsgBuilder, Readiness, Taker};
use mongo_core_fuzz::{LIMITS, timed};

fn run(data: &[u8]) {
    let Some((&piece, mut data)) = data.split_first() else {
        return;
    };
    let mut exchange = Exchange::new(LIMITS);
    exchange.accept_compressed();
    let (buffer, id) = exchange.begin().expect("idle");
    let flags = match piece & 0x80 {
        0 => MsgFlags::NONE,
        _ => MsgFlags::EXHAUST_ALLOWED,
    };
    OpMsgBuilder::new(buffer, id, flags)
        .body(&bson::rawdoc! { "ping": 1 })
        .finish(1024)
        .expect("short");
    exchange.start_writing(Taker::Caller).expect("a request");
    exchange.handle_written();
    // Pieces of 1 to 128 bytes.
    let size = usize::from(piece & 0x7F) + 1;
    loop {
        match exchange.read_target(usize::MAX) {
            Ok(Some(_)) if data.is_empty() => break,
            Ok(Some(target)) => {
                let (next, rest) = data.split_at(size.min(data.len()));
                target.extend_from_slice(next);
                data = rest;
            }
            Ok(None) => match exchange.accept_reply() {
                Ok(()) => {
                    exchange.reply_body().expect("what was accepted");
                    if !exchange.is_streaming() {
                        assert_eq!(exchange.readiness(), Readiness::Idle);
                        break;
                    }
                }
                Err(_) => break,
            },
            Err(_) => break,
        }
    }
    exchange.release();
}

fuzz_target!(|data: &[u8]| timed(|| run(data)));
