use std::time::Duration;

use bson::{RawDocumentBuf, rawdoc};

use super::*;
use crate::wire::{MsgFlags, OpMsg, OpMsgBuilder};

const ALL: [Compressor; 3] = [Compressor::Snappy, Compressor::Zlib, Compressor::Zstd];
const MAX: usize = 48_000_000;

fn message(command: &RawDocumentBuf) -> Vec<u8> {
    let mut message = Vec::new();
    OpMsgBuilder::new(&mut message, 77, MsgFlags::NONE)
        .body(command)
        .finish(MAX)
        .expect("small");
    message[8..12].copy_from_slice(&42_i32.to_le_bytes());
    message
}

/// Texts that compress well, a bit, and not at all.
fn messages() -> Vec<Vec<u8>> {
    let mut random = 1_u32;
    let noise: String = std::iter::repeat_with(|| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b' ' + (random >> 24) as u8 % 95)
    })
    .take(300_000)
    .collect();
    let texts = [String::new(), "x".repeat(2_000_000), noise];
    let texts = texts
        .iter()
        .map(|text| rawdoc! { "ping": 1, "text": &**text });
    texts.map(|command| message(&command)).collect()
}

fn compressed(message: &[u8], compressor: Compressor) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(compress(message, compressor, -1, MAX, &mut out));
    out
}

fn read(message: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    decompress(message, &Limits::default(), &mut out)?;
    Ok(out)
}

/// An OP_COMPRESSED of an OP_MSG with the given fields and content.
fn made_up(id: u8, size: i32, content: &[u8]) -> Vec<u8> {
    let mut made = Vec::new();
    for number in [(PREFIX + content.len()) as i32, 1, 2, 2012, 2013, size] {
        made.extend_from_slice(&number.to_le_bytes());
    }
    made.push(id);
    made.extend_from_slice(content);
    made
}

#[test]
fn compressed_messages_are_read_unchanged() {
    for plain in messages() {
        for compressor in ALL {
            let made = compressed(&plain, compressor);
            let header = Header::parse(&made, &Limits::default()).expect("a header");
            assert_eq!((header.request_id, header.response_to), (77, 42));
            assert_eq!(
                (header.op_code, header.length),
                (OpCode::Compressed, made.len())
            );
            assert_eq!(read(&made).as_ref(), Ok(&plain), "{compressor}");
        }
    }
    // Long enough to shrink.
    let long = &messages()[1];
    assert!(
        ALL.iter()
            .all(|own| compressed(long, *own).len() < long.len() / 10)
    );
}

#[test]
fn zlib_heeds_its_level() {
    let plain = &messages()[1];
    let lengths = [-1, 0, 1, 9].map(|level| {
        let mut out = Vec::new();
        assert!(compress(plain, Compressor::Zlib, level, MAX, &mut out));
        assert_eq!(read(&out).as_ref(), Ok(plain));
        out.len()
    });
    assert!(lengths[1] > plain.len(), "level 0 only wraps");
    assert!(
        lengths[2] > lengths[3] && lengths[0] < lengths[1],
        "{lengths:?}"
    );
}

#[test]
fn authentication_commands_are_never_compressed() {
    let names = [
        "hello",
        "isMaster",
        "ismaster",
        "saslStart",
        "saslContinue",
        "getnonce",
        "authenticate",
        "createUser",
        "updateUser",
        "copydbSaslStart",
        "copydbgetnonce",
        "copydb",
        "SASLSTART",
    ];
    for name in names {
        let mut command = RawDocumentBuf::new();
        command.append(bson::raw::CString::try_from(name).expect("no NUL"), 1);
        let mut out = b"before".to_vec();
        let done = compress(&message(&command), Compressor::Snappy, -1, MAX, &mut out);
        assert!(!done && out == b"before", "{name}");
    }
    // Also where the body comes after a sequence.
    let document = rawdoc! { "x": 1 };
    for (name, expected) in [("saslStart", false), ("insert", true)] {
        let mut made = Vec::new();
        let mut command = RawDocumentBuf::new();
        command.append(bson::raw::CString::try_from(name).expect("no NUL"), 1);
        OpMsgBuilder::new(&mut made, 1, MsgFlags::NONE)
            .sequence("documents", [&*document])
            .body(&command)
            .finish(MAX)
            .expect("small");
        let done = compress(&made, Compressor::Snappy, -1, MAX, &mut Vec::new());
        assert_eq!(done, expected, "{name}");
    }
}

#[test]
fn other_messages_and_those_that_would_grow_are_not_compressed() {
    let plain = message(&rawdoc! { "ping": 1 });
    for (op_code, max) in [(2004, MAX), (2012, MAX), (1, MAX), (2013, plain.len())] {
        let mut other = plain.clone();
        other[12..16].copy_from_slice(&i32::to_le_bytes(op_code));
        let mut out = Vec::new();
        let done = compress(&other, Compressor::Zlib, 0, max, &mut out);
        assert!(!done && out.is_empty(), "{op_code} {max}");
    }
    for cut in 0..plain.len().min(24) {
        assert!(!compress(
            &plain[..cut],
            Compressor::Zlib,
            0,
            MAX,
            &mut Vec::new()
        ));
    }
}

#[test]
fn a_size_that_lies_is_refused() {
    for compressor in ALL {
        let plain = &messages()[1];
        let content = compressed(plain, compressor)[PREFIX..].to_vec();
        let size = (plain.len() - HEADER_LEN) as i32;
        let id = compressor.id();
        assert_eq!(
            read(&made_up(id, size, &content)).map(|out| out.len()),
            Ok(plain.len())
        );
        for lie in [0, 1, 70_000, size - 1, size + 1, 40_000_000] {
            let refused = read(&made_up(id, lie, &content));
            assert_eq!(
                refused,
                Err(WireError::UncompressedSize(lie)),
                "{compressor}"
            );
        }
        for lie in [-1, i32::MIN] {
            assert_eq!(
                read(&made_up(id, lie, &content)),
                Err(WireError::UncompressedSize(lie))
            );
        }
        for lie in [i32::MAX, MAX as i32 - 15] {
            let refused = read(&made_up(id, lie, &content));
            assert!(
                matches!(refused, Err(WireError::TooLong { .. })),
                "{refused:?}"
            );
        }
    }
}

#[test]
fn a_declared_size_allocates_no_memory() {
    for compressor in ALL {
        let content = &compressed(&messages()[0], compressor)[PREFIX..];
        let mut out = Vec::new();
        let made = made_up(compressor.id(), 40_000_000, content);
        assert!(decompress(&made, &Limits::default(), &mut out).is_err());
        assert!(
            out.capacity() <= 2 * STEP,
            "{compressor}: {}",
            out.capacity()
        );
    }
    // A snappy stream that itself declares 40 MB.
    let mut content = vec![0x80, 0xb4, 0x89, 0x13];
    content.extend_from_slice(&[0xfe; 64]);
    let mut out = Vec::new();
    let refused = decompress(
        &made_up(1, 40_000_000, &content),
        &Limits::default(),
        &mut out,
    );
    assert_eq!(refused, Err(WireError::Compressed(Compressor::Snappy)));
    assert!(out.capacity() < 1024);
}

#[test]
fn bytes_after_the_end_are_refused() {
    for compressor in ALL {
        let plain = &messages()[0];
        let size = (plain.len() - HEADER_LEN) as i32;
        let content = compressed(plain, compressor)[PREFIX..].to_vec();
        for extra in [&content[..], b"\0", b"garbage"] {
            let refused = read(&made_up(compressor.id(), size, &[&content, extra].concat()));
            assert!(refused.is_err(), "{compressor}");
        }
    }
}

#[test]
fn every_cut_and_every_wrong_byte_is_answered() {
    for compressor in ALL {
        let plain =
            message(&rawdoc! { "find": "things", "filter": { "a": "aaaaaaaaaaaaaaaaaaaaa" } });
        let made = compressed(&plain, compressor);
        for cut in 0..made.len() {
            let mut short = made[..cut].to_vec();
            if let Some(length) = short.first_chunk_mut::<4>() {
                *length = (cut as i32).to_le_bytes();
            }
            assert!(read(&short).is_err(), "{compressor} {cut}");
        }
        for at in 16..made.len() {
            for value in [0, 1, 0x7F, 0x80, 0xFF] {
                let mut wrong = made.clone();
                wrong[at] = value;
                // The only guarantees: the output is bounded and has its own length.
                if let Ok(out) = read(&wrong) {
                    assert_eq!(out.len(), plain.len());
                    let _ = OpMsg::parse(&out, &Limits::default());
                }
            }
        }
    }
}

#[test]
fn a_wrapped_message_must_be_known_and_not_wrapped_again() {
    let made = compressed(&messages()[0], Compressor::Snappy);
    let with = |original: i32| {
        let mut made = made.clone();
        made[16..20].copy_from_slice(&original.to_le_bytes());
        read(&made)
    };
    assert_eq!(
        with(2012),
        Err(WireError::UnexpectedOpCode(OpCode::Compressed))
    );
    assert_eq!(with(9999), Err(WireError::UnknownOpCode(9999)));
    // Any other is for who asked to judge.
    assert!(with(1).is_ok());
    for id in [0, 4, 255] {
        let mut made = made.clone();
        made[24] = id;
        assert_eq!(read(&made), Err(WireError::Compressor(id)));
    }
}

#[test]
fn a_zstd_frame_may_not_ask_for_a_large_window() {
    // Magic number; no single segment, no size; a window of 32 MB; one empty last block.
    let content = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 15 << 3, 0x01, 0x00, 0x00];
    let refused = read(&made_up(3, 100, &content));
    assert_eq!(refused, Err(WireError::Compressed(Compressor::Zstd)));
}

#[test]
fn an_error_of_zstd_before_the_last_piece_ends_it() {
    let (tell, told) = std::sync::mpsc::channel();
    // On a separate thread, in case one loops forever.
    std::thread::spawn(move || {
        let mut encoder = zstd::Encoder::new(0, 10).expect("a context");
        let longer_than_pledged = vec![7; STEP];
        let mut out = Vec::new();
        let mut steps = (0..8).map(|_| encoder.step(&longer_than_pledged, false, &mut out));
        let _ = tell.send(steps.any(|step| step.is_none()));
    });
    assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(true));
}
