use bson::{RawDocumentBuf, doc, rawdoc};

use super::*;

const MAX: usize = 48_000_000;

fn message(flags: MsgFlags, sections: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(&[9, 0, 0, 0, 7, 0, 0, 0]);
    bytes.extend_from_slice(&2013_i32.to_le_bytes());
    let bits: u32 = [
        (MsgFlags::CHECKSUM_PRESENT, 1_u32),
        (MsgFlags::MORE_TO_COME, 2),
        (MsgFlags::EXHAUST_ALLOWED, 1 << 16),
    ]
    .iter()
    .filter(|(flag, _)| flags.contains(*flag))
    .map(|(_, bit)| bit)
    .sum();
    bytes.extend_from_slice(&bits.to_le_bytes());
    bytes.extend_from_slice(sections);
    with_length(bytes)
}

fn with_length(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = (bytes.len() as i32).to_le_bytes();
    bytes[..4].copy_from_slice(&length);
    bytes
}

fn body(document: &RawDocumentBuf) -> Vec<u8> {
    [&[0], document.as_bytes()].concat()
}

fn refusal(bytes: &[u8]) -> WireError {
    match OpMsg::parse(bytes, &Limits::default()) {
        Ok(_) => panic!("was taken"),
        Err(error) => error,
    }
}

#[test]
fn a_command_is_written_once_with_its_database() {
    for command in [
        bson::serialize_to_raw_document_buf(&doc! { "ping": 1 }).expect("BSON"),
        rawdoc! { "ping": 1_i32 },
    ] {
        let mut buf = b"before".to_vec();
        OpMsgBuilder::new(&mut buf, 5, MsgFlags::NONE)
            .command("admin", &command)
            .expect("BSON")
            .finish(MAX)
            .expect("small");
        let parsed = OpMsg::parse(&buf[6..], &Limits::default()).expect("a message");
        assert_eq!(parsed.header().request_id, 5);
        assert_eq!(parsed.header().response_to, 0);
        assert_eq!(
            parsed.body().to_owned(),
            rawdoc! { "ping": 1_i32, "$db": "admin" }
        );
    }
}

#[test]
fn a_checksum_covers_every_byte() {
    let mut buf = Vec::new();
    OpMsgBuilder::new(&mut buf, 1, MsgFlags::CHECKSUM_PRESENT)
        .command("admin", &doc! { "ping": 1 })
        .expect("BSON")
        .finish(MAX)
        .expect("small");
    assert!(OpMsg::parse(&buf, &Limits::default()).is_ok());
    // Beyond the length, the operation and the flags, the checksum detects any flipped bit.
    for at in (4..12).chain(20..buf.len()) {
        let mut wrong = buf.clone();
        wrong[at] ^= 1;
        assert!(
            matches!(refusal(&wrong), WireError::Checksum { .. }),
            "byte {at}"
        );
    }
}

#[test]
fn sequences_are_read_in_their_order() {
    let first = rawdoc! { "a": 1 };
    let second = rawdoc! { "a": 2 };
    let mut buf = Vec::new();
    OpMsgBuilder::new(&mut buf, 1, MsgFlags::NONE)
        .command("app", &doc! { "insert": "things" })
        .expect("BSON")
        .sequence("documents", [&*first, &*second])
        .sequence("empty", [])
        .finish(MAX)
        .expect("small");
    let parsed = OpMsg::parse(&buf, &Limits::default()).expect("a message");
    let seen: Vec<_> = parsed
        .sequences()
        .map(|sequence| (sequence.identifier(), sequence.documents().count()))
        .collect();
    assert_eq!(seen, [("documents", 2), ("empty", 0)]);
}

#[test]
fn a_failed_encoding_leaves_the_buffer_as_it_was() {
    let mut buf = b"kept".to_vec();
    let empty = OpMsgBuilder::new(&mut buf, 1, MsgFlags::NONE).command("app", &doc! {});
    assert!(empty.is_err());
    assert_eq!(buf, b"kept");
    let not_a_document = OpMsgBuilder::new(&mut buf, 1, MsgFlags::NONE).command("app", &3);
    assert!(not_a_document.is_err());
    assert_eq!(buf, b"kept");
    let too_long = OpMsgBuilder::new(&mut buf, 1, MsgFlags::NONE)
        .command("app", &doc! { "ping": 1 })
        .expect("BSON")
        .finish(40);
    assert!(matches!(too_long, Err(WireError::TooLong { max: 40, .. })));
    assert_eq!(buf, b"kept");
}

#[test]
fn lengths_out_of_bounds_are_refused_by_the_header_alone() {
    let mut header = message(MsgFlags::NONE, &[])[..16].to_vec();
    let mut refused = |length: i32| {
        header[..4].copy_from_slice(&length.to_le_bytes());
        deframe(&header, &Limits::default())
    };
    for short in [i32::MIN, -1, 0, 15] {
        assert_eq!(refused(short), Err(WireError::TooShort(short)));
    }
    assert_eq!(
        refused(i32::MAX),
        Err(WireError::TooLong {
            length: i32::MAX as usize,
            max: MAX
        })
    );
    assert!(refused(48_000_000).is_ok());
    assert_eq!(deframe(&header[..15], &Limits::default()), Ok(None));
}

#[test]
fn malformed_messages_are_refused_by_name() {
    let ok = rawdoc! { "ok": 1 };
    let mut unknown_op = message(MsgFlags::NONE, &body(&ok));
    unknown_op[12] = 99;
    assert_eq!(
        refusal(&unknown_op),
        WireError::UnknownOpCode(2013 - 0xDD + 99)
    );
    let mut legacy = message(MsgFlags::NONE, &body(&ok));
    legacy[12..16].copy_from_slice(&1_i32.to_le_bytes());
    assert_eq!(refusal(&legacy), WireError::UnexpectedOpCode(OpCode::Reply));

    assert_eq!(refusal(&message(MsgFlags::NONE, &[])), WireError::NoBody);
    assert_eq!(
        refusal(&message(MsgFlags::NONE, &[body(&ok), body(&ok)].concat())),
        WireError::SeveralBodies
    );
    assert_eq!(
        refusal(&message(MsgFlags::NONE, &[2, 0, 0])),
        WireError::SectionKind(2)
    );
    assert_eq!(
        refusal(&message(MsgFlags::NONE, &[0, 4, 0, 0, 0])),
        WireError::Document(0)
    );
    assert!(matches!(
        refusal(&message(MsgFlags::NONE, &[0, 99, 0, 0, 0, 0])),
        WireError::Truncated { needed: 99, .. }
    ));
    assert_eq!(
        refusal(&message(MsgFlags::NONE, &[1, 6, 0, 0, 0, b'a', b'b'])),
        WireError::Sequence
    );

    let mut flagged = message(MsgFlags::NONE, &body(&ok));
    flagged[16] = 0b1000;
    assert_eq!(refusal(&flagged), WireError::RequiredFlags(8));
    flagged[16] = 0;
    // Bits 16 to 31 may be ignored.
    flagged[19] = 0x80;
    assert!(OpMsg::parse(&flagged, &Limits::default()).is_ok());
}

#[test]
fn no_truncation_or_byte_makes_it_panic() {
    let mut buf = Vec::new();
    OpMsgBuilder::new(&mut buf, 1, MsgFlags::NONE)
        .command(
            "app",
            &doc! { "insert": "things", "nested": { "a": [1, 2] } },
        )
        .expect("BSON")
        .sequence("documents", [&*rawdoc! { "a": 1 }])
        .finish(MAX)
        .expect("small");
    let whole = OpMsg::parse(&buf, &Limits::default()).expect("a message");
    // Header, flags, kind, document: a valid message if it is cut there.
    let end_of_body = HEADER_LEN + 4 + 1 + whole.body().as_bytes().len();
    for cut in 0..buf.len() {
        assert!(OpMsg::parse(&buf[..cut], &Limits::default()).is_err());
        let relabelled = OpMsg::parse(&with_length_of(&buf[..cut]), &Limits::default()).is_ok();
        assert_eq!(relabelled, cut == end_of_body, "cut at {cut}");
    }
    for at in 0..buf.len() {
        for value in 0..=255 {
            let mut wrong = buf.clone();
            wrong[at] = value;
            if let Ok(parsed) = OpMsg::parse(&wrong, &Limits::default()) {
                parsed.sequences().for_each(|sequence| {
                    sequence.documents().count();
                });
                let _ = crate::reply::check_ok(parsed.body());
            }
        }
    }
}

/// A prefix whose header has its actual length, so that the contents are truncated.
fn with_length_of(bytes: &[u8]) -> Vec<u8> {
    match bytes.len() {
        short if short < 4 => bytes.to_vec(),
        _ => with_length(bytes.to_vec()),
    }
}

#[test]
fn the_legacy_pair() {
    let mut buf = Vec::new();
    append_query(&mut buf, 3, "admin", &rawdoc! { "isMaster": 1 }, MAX).expect("small");
    let header = Header::parse(&buf, &Limits::default()).expect("a header");
    assert_eq!((header.op_code, header.request_id), (OpCode::Query, 3));
    assert_eq!(header.length, buf.len());
    assert_eq!(&buf[20..31], b"admin.$cmd\0");

    let reply = |count: i32, documents: &[u8]| {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&[9, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0]);
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(documents);
        with_length(bytes)
    };
    let ok = rawdoc! { "ok": 1 };
    let good = reply(1, ok.as_bytes());
    let (header, document) = parse_reply(&good, &Limits::default()).expect("a reply");
    assert_eq!(header.response_to, 3);
    assert_eq!(document, &*ok);
    let limits = Limits::default();
    assert_eq!(
        parse_reply(&reply(0, &[]), &limits),
        Err(WireError::ReplyDocuments(0))
    );
    assert_eq!(
        parse_reply(&reply(1, &[ok.as_bytes(), &[0]].concat()), &limits),
        Err(WireError::Unsolicited(1))
    );
    for cut in 0..good.len() {
        assert!(parse_reply(&with_length_of(&good[..cut]), &limits).is_err());
    }
}
