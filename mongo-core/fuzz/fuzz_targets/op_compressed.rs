//! An OP_COMPRESSED: after the wrapped operation's code, all is the input's. And any message, packed
//! and unpacked again.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use mongo_core::uri::Compressor;
use mongo_core::wire::{OpCode, OpMsg, compress, decompress};
use mongo_core_fuzz::{LIMITS, message, timed};

#[derive(Default)]
struct Buffers {
    message: Vec<u8>,
    packed: Vec<u8>,
    unpacked: Vec<u8>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

fn run(data: &[u8], buffers: &mut Buffers) {
    let Buffers {
        message: made,
        packed,
        unpacked,
    } = buffers;
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    // Packing costs more than unpacking, and finds less.
    if choice >= 0xF0 {
        let compressor = match choice % 3 {
            0 => Compressor::Snappy,
            1 => Compressor::Zlib,
            _ => Compressor::Zstd,
        };
        message(made, OpCode::Msg.code(), data);
        packed.clear();
        if compress(made, compressor, 1, usize::MAX, packed) {
            decompress(packed, &LIMITS, unpacked).expect("our own");
            assert_eq!(made, unpacked);
        }
        return;
    }
    message(
        made,
        OpCode::Compressed.code(),
        &OpCode::Msg.code().to_le_bytes(),
    );
    made.extend_from_slice(data);
    let length = (made.len() as i32).to_le_bytes();
    made[..4].copy_from_slice(&length);
    if decompress(made, &LIMITS, unpacked).is_ok() {
        let _ = OpMsg::parse(unpacked, &LIMITS);
    }
    assert!(unpacked.len() <= LIMITS.max_message_size + 1);
    // What was allocated is kept: to give it back each time would only tear up the heap.
    unpacked.clear();
}

fuzz_target!(|data: &[u8]| BUFFERS.with_borrow_mut(|buffers| {
    let buffers = RefCell::new(buffers);
    timed(|| run(data, &mut buffers.borrow_mut()));
}));
