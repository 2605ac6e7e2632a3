//! The contents of an OP_MSG, or of an OP_REPLY.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use mongo_core::reply::{check_ok, write_concern_error};
use mongo_core::wire::{OpCode, OpMsg, check_depth, parse_reply};
use mongo_core_fuzz::{LIMITS, message, timed};

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn run(data: &[u8], buffer: &mut Vec<u8>) {
    let _ = check_depth(data, LIMITS.max_depth);
    message(buffer, OpCode::Msg.code(), data);
    if let Ok(parsed) = OpMsg::parse(buffer, &LIMITS) {
        let _ = check_ok(parsed.body());
        let _ = write_concern_error(parsed.body());
        for sequence in parsed.sequences() {
            for document in sequence.documents() {
                assert!(document.as_bytes().len() <= data.len());
            }
        }
    }
    message(buffer, OpCode::Reply.code(), data);
    if let Ok((_, body)) = parse_reply(buffer, &LIMITS) {
        let _ = check_ok(body);
    }
}

fuzz_target!(|data: &[u8]| BUFFER.with_borrow_mut(|buffer| {
    let buffer = RefCell::new(buffer);
    timed(|| run(data, &mut buffer.borrow_mut()));
}));
