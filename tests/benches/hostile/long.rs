//! Replies as long as a message may be: in a handshake, which are not read, and compressed.

use std::io::Write;

use bson::rawdoc;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use mongo_core::ErrorKind;
use mongo_core::wire::WireError;
use mongo_testkit::{Action, Compressed, Compressor, Matcher, codec};

use crate::attacks::{Attack, Expected, Moment, attack, kind};
use crate::floods::{container, document, elements, nulls, text};

/// Each is made when it is needed.
pub(crate) const LONG_HANDSHAKES: [fn(usize) -> Attack; 4] = [
    |length| long_hello("47 MB of nulls", nulls(length / 2)),
    |length| {
        let tags = text("a", b"b").repeat(length / 9);
        long_hello("47 MB of one tag", container(3, "tags", &[tags]))
    },
    |length| {
        let host = text("", b"h:1");
        let hosts = host.repeat(length / host.len());
        long_hello("47 MB of hosts", container(4, "hosts", &[hosts]))
    },
    |length| {
        let done = elements(rawdoc! { "ok": 1, "conversationId": 1, "done": true });
        let reply = Action::Body(document(&[done, nulls(length / 2)]));
        attack(
            "47 MB for the proof",
            Moment::Authentication,
            Matcher::command("saslContinue").then(reply),
            kind!(ErrorKind::Protocol(WireError::TooLong { .. })),
        )
    },
];

fn long_hello(name: &'static str, field: Vec<u8>) -> Attack {
    let ok = elements(rawdoc! { "ok": 1, "maxWireVersion": 21, "setName": "rs" });
    let rule = Matcher::hello().then(Action::Body(document(&[ok, field])));
    let too_long: Expected = kind!(ErrorKind::Protocol(WireError::TooLong { .. }));
    attack(name, Moment::Hello, rule, too_long)
}

/// A reply of a command that comes in an OP_COMPRESSED.
pub(crate) struct Packed {
    pub(crate) name: &'static str,
    /// Bytes of a text in it.
    length: usize,
    /// Whether it becomes much shorter by it.
    is_packed: bool,
    /// Whether both messages together are as long as one may be.
    pub(crate) fits: bool,
}

pub(crate) const PACKED: [Packed; 3] = [
    Packed {
        name: "47 MB in a few KB, compressed",
        length: 47_000_000,
        is_packed: true,
        fits: true,
    },
    Packed {
        name: "23 MB in as many, compressed",
        length: 23_000_000,
        is_packed: false,
        fits: true,
    },
    Packed {
        name: "47 MB in as many, compressed",
        length: 47_000_000,
        is_packed: false,
        fits: false,
    },
];

impl Packed {
    pub(crate) fn reply(&self) -> Action {
        let filling = text("text", &vec![b'x'; self.length]);
        let body = document(&[elements(rawdoc! { "ok": 1 }), filling]);
        // Flags, and the kind of the section.
        let content = [vec![0; 5], body].concat();
        let level = match self.is_packed {
            true => Compression::fast(),
            false => Compression::none(),
        };
        let mut encoder = ZlibEncoder::new(Vec::new(), level);
        encoder.write_all(&content).expect("memory");
        let message = Compressed {
            request_id: 1,
            // Ours says one hello before.
            response_to: 2,
            original: codec::OP_MSG,
            size: content.len() as i32,
            compressor: Compressor::Zlib.id(),
            content: encoder.finish().expect("memory"),
        };
        Action::Raw(message.encode())
    }
}
