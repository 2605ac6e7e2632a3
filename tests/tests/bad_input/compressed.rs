//! Compressed replies with wrong sizes, contents or wrappers.

use mongo_core::ErrorKind;
use mongo_core::wire::{OpCode, WireError};
use mongo_testkit::{Action, Compressed, Compressor, Matcher, codec};

use crate::attacks::{Attack, Expected, Moment, attack, kind};

/// The option of a client that negotiates compression.
const OPTION: &str = "&compressors=zstd,snappy,zlib";

/// The decompressed size of a bomb.
const BOMB: usize = 16 * 1024 * 1024;

pub(crate) fn all(moment: Moment, matcher: fn() -> Matcher) -> Vec<Attack> {
    let mut attacks = sizes(moment);
    attacks.extend(contents());
    attacks.extend(wrappers());
    let made = attacks.into_iter().map(|(name, message, expected)| {
        let rule = matcher().then(Action::Raw(message));
        let attack = attack(name, moment, rule.then(Action::Hang), expected);
        Attack {
            option: OPTION,
            ..attack
        }
    });
    made.collect()
}

type Made = (&'static str, Vec<u8>, Expected);

fn message(compressor: Compressor, size: i32, content: Vec<u8>) -> Compressed {
    Compressed {
        request_id: 1,
        response_to: 1,
        original: codec::OP_MSG,
        size,
        compressor: compressor.id(),
        content,
    }
}

/// Sizes that do not match the content.
fn sizes(moment: Moment) -> Vec<Made> {
    let zeros = vec![0; BOMB];
    let bomb = |compressor: Compressor, size| {
        message(compressor, size, compressor.compress(&zeros)).encode()
    };
    let small = |size| message(Compressor::Zlib, size, Compressor::Zlib.compress(b"x")).encode();
    let lie: Expected = kind!(ErrorKind::Protocol(WireError::UncompressedSize(_)));
    let too_long: Expected = kind!(ErrorKind::Protocol(WireError::TooLong { .. }));
    vec![
        (
            "snappy bomb that declares 100 bytes",
            // Snappy expands a byte to at most 21 bytes.
            message(
                Compressor::Snappy,
                100,
                Compressor::Snappy.compress(&zeros[..BOMB / 16]),
            )
            .encode(),
            lie,
        ),
        (
            "zlib bomb that declares 100 bytes",
            bomb(Compressor::Zlib, 100),
            lie,
        ),
        (
            "zstd bomb that declares 100 bytes",
            bomb(Compressor::Zstd, 100),
            lie,
        ),
        (
            "bomb that declares 2 GB",
            bomb(Compressor::Zlib, i32::MAX),
            too_long,
        ),
        (
            "bomb over the limit by one",
            bomb(Compressor::Zstd, 48_000_001 - 16),
            too_long,
        ),
        (
            "1 byte that declares 40 MB",
            small(40_000_000),
            match moment {
                Moment::Hello | Moment::Authentication => too_long,
                Moment::Command => lie,
            },
        ),
        ("negative uncompressed size", small(-1), lie),
    ]
}

/// Content that no compressor produces.
fn contents() -> Vec<Made> {
    let body = codec::encode_command(1, 0, &bson::doc! { "ok": 1 });
    let body = &body[codec::HEADER_LENGTH..];
    let size = body.len() as i32;
    let garbled = |compressor: Compressor, garble: fn(&mut Vec<u8>)| {
        let mut content = compressor.compress(body);
        garble(&mut content);
        message(compressor, size, content).encode()
    };
    let more = |content: &mut Vec<u8>| content.extend_from_slice(b"garbage");
    let less = |content: &mut Vec<u8>| content.truncate(content.len() - 2);
    let malformed: Expected = kind!(ErrorKind::Protocol(WireError::Compressed(_)));
    vec![
        (
            "zlib with garbage at its end",
            garbled(Compressor::Zlib, more),
            malformed,
        ),
        (
            "zstd with garbage at its end",
            garbled(Compressor::Zstd, more),
            malformed,
        ),
        (
            "snappy with garbage at its end",
            garbled(Compressor::Snappy, more),
            malformed,
        ),
        (
            "zlib without its end",
            garbled(Compressor::Zlib, less),
            malformed,
        ),
        (
            "zstd without its end",
            garbled(Compressor::Zstd, less),
            malformed,
        ),
        (
            "snappy without its end",
            garbled(Compressor::Snappy, less),
            malformed,
        ),
        (
            "zlib that is not zlib",
            garbled(Compressor::Zlib, |content| content.fill(7)),
            malformed,
        ),
    ]
}

/// Wrappers with invalid headers or contents.
fn wrappers() -> Vec<Made> {
    let body = codec::encode_command(1, 0, &bson::doc! { "ok": 1 });
    let body = &body[codec::HEADER_LENGTH..];
    let good = || {
        message(
            Compressor::Zlib,
            body.len() as i32,
            Compressor::Zlib.compress(body),
        )
    };
    let with = |change: fn(&mut Compressed)| {
        let mut message = good();
        change(&mut message);
        message.encode()
    };
    let nested = good().encode();
    let nested = &nested[codec::HEADER_LENGTH..];
    let twice = Compressed {
        original: codec::OP_COMPRESSED,
        ..message(
            Compressor::Zlib,
            nested.len() as i32,
            Compressor::Zlib.compress(nested),
        )
    };
    let mut headless = good().encode();
    headless.truncate(20);
    headless[0] = 20;
    vec![
        (
            "compressed twice",
            twice.encode(),
            kind!(ErrorKind::Protocol(WireError::UnexpectedOpCode(
                OpCode::Compressed
            ))),
        ),
        (
            "a wrapper that names another operation",
            with(|message| message.original = codec::OP_REPLY),
            kind!(ErrorKind::Protocol(WireError::UnexpectedOpCode(
                OpCode::Reply
            ))),
        ),
        (
            "a wrapper that names an unknown operation",
            with(|message| message.original = 9999),
            kind!(ErrorKind::Protocol(WireError::UnknownOpCode(9999))),
        ),
        (
            "an unknown compressor",
            with(|message| message.compressor = 9),
            kind!(ErrorKind::Protocol(WireError::Compressor(9))),
        ),
        (
            "the noop compressor",
            with(|message| message.compressor = 0),
            kind!(ErrorKind::Protocol(WireError::Compressor(0))),
        ),
        (
            "a truncated wrapper",
            headless,
            kind!(ErrorKind::Protocol(WireError::Truncated { .. })),
        ),
    ]
}
