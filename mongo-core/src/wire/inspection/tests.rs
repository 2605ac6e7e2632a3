use bson::{RawArrayBuf, RawDocumentBuf, rawdoc};

use super::super::{OpMsg, OpMsgBuilder};
use super::*;

/// The result, and the number of steps.
fn inspect(message: &[u8]) -> (Result<(), WireError>, usize) {
    let mut inspection = Inspection::begin(message, false, usize::MAX).expect("long");
    let limits = Limits::default();
    for steps in 1.. {
        match inspection.step(message, &limits) {
            Ok(false) => {}
            Ok(true) => {
                let parsed = OpMsg::parse_inspected(message, &limits, &inspection);
                return (parsed.map(drop), steps);
            }
            Err(error) => return (Err(error), steps),
        }
    }
    unreachable!()
}

fn long() -> RawDocumentBuf {
    let mut array = RawArrayBuf::new();
    for number in 0..60_000 {
        array.push(rawdoc! { "n": number, "of": { "a": true } });
    }
    rawdoc! { "ok": 1, "documents": array }
}

fn message(flags: MsgFlags, body: &RawDocumentBuf, sequence: usize) -> Vec<u8> {
    let mut message = Vec::new();
    let document = rawdoc! {};
    OpMsgBuilder::new(&mut message, 1, flags)
        .body(body)
        .sequence("documents", std::iter::repeat_n(&*document, sequence))
        .finish(usize::MAX)
        .expect("a message");
    message
}

#[test]
fn long_messages_take_steps() {
    for (flags, sum) in [(MsgFlags::NONE, 0), (MsgFlags::CHECKSUM_PRESENT, 1)] {
        let (outcome, steps) = inspect(&message(flags, &long(), 1));
        // Six elements each: two values, one container in it, its value, and two ends.
        assert_eq!((outcome, steps), (Ok(()), 60_000 * 6 / STEP + 1 + sum));
        let (outcome, steps) = inspect(&message(flags, &rawdoc! {}, 100_000));
        assert_eq!((outcome, steps), (Ok(()), 100_000 / STEP + 1 + sum));
    }
    let short = message(MsgFlags::NONE, &rawdoc! { "ok": 1 }, 1);
    assert!(Inspection::begin(&short, false, usize::MAX).is_none());
}

#[test]
fn a_stepwise_inspection_refuses_the_same_messages() {
    let good = message(MsgFlags::NONE, &long(), 70_000);
    let mut random = 1_usize;
    let mut refused = 0;
    for _ in 0..16 {
        let mut wrong = good.clone();
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let at = 16 + (random >> 20) % (good.len() - 16);
        wrong[at] = (random >> 8) as u8;
        let expected = OpMsg::parse(&wrong, &Limits::default()).map(drop);
        let found = inspect(&wrong).0;
        assert_eq!(
            found.is_ok(),
            expected.is_ok(),
            "{at}: {found:?} {expected:?}"
        );
        refused += usize::from(found.is_err());
    }
    assert!(refused > 4, "{refused}");
    let mut deep = rawdoc! { "text": "x".repeat(300_000) };
    for _ in 0..256 {
        deep = rawdoc! { "a": deep };
    }
    let (outcome, _) = inspect(&message(MsgFlags::NONE, &deep, 0));
    assert_eq!(outcome, Err(WireError::TooDeep(256)));
}

/// A body with this many nulls without a name between its first and its last fields.
fn among_nulls(nulls: usize, before: &RawDocumentBuf, after: &RawDocumentBuf) -> Vec<u8> {
    let elements = |document: &RawDocumentBuf| {
        let bytes = document.as_bytes();
        bytes[4..bytes.len() - 1].to_vec()
    };
    let mut body = vec![0; 4];
    body.extend(elements(before));
    body.extend([0x0A, 0].repeat(nulls));
    body.extend(elements(after));
    body.push(0);
    let length = (body.len() as i32).to_le_bytes();
    body[..4].copy_from_slice(&length);
    body
}

fn with_body(body: &[u8]) -> Vec<u8> {
    message(
        MsgFlags::NONE,
        &RawDocumentBuf::from_bytes(body.to_vec()).expect("a document"),
        0,
    )
}

fn walked(message: &[u8]) -> Box<Inspection> {
    let mut inspection = Inspection::begin(message, false, usize::MAX).expect("long");
    let limits = Limits::default();
    while !inspection.step(message, &limits).expect("sound") {}
    inspection
}

/// The fields that the walk found are read without another walk.
#[cfg(feature = "net")]
#[test]
fn the_fields_are_found_in_the_one_walk() {
    const NULLS: usize = 200_000;
    let version = rawdoc! { "processId": bson::oid::ObjectId::new(), "counter": 3_i64 };
    let after = rawdoc! {
        "errmsg": "not primary", "code": 10107, "codeName": "NotWritablePrimary",
        "errorLabels": ["RetryableWriteError"], "topologyVersion": version.clone(),
        "$clusterTime": { "clusterTime": 5 }, "writeConcernError": { "code": 91 },
        "writeErrors": [{ "code": 11000 }],
    };
    for ok in [0.0, 1.0] {
        let mut body = among_nulls(NULLS, &rawdoc! { "ok": ok }, &after);
        let inspection = walked(&with_body(&body));
        let fields = inspection.fields().expect("a long body");
        // A second walk would fail here.
        let start = 4 + 12;
        body[start..start + 2 * NULLS].fill(0xEE);
        let body = bson::RawDocument::from_bytes(&body).expect("its length is right");
        let glance = crate::reply::glance(body, Some(fields));
        let time = glance.cluster_time.expect("a time");
        assert_eq!(time, &*rawdoc! { "clusterTime": 5 });
        assert!(glance.has_write_concern_error);
        let failure = crate::reply::write_concern_failure(body, Some(fields));
        assert_eq!(failure.expect("an error").code(), Some(91));
        let written = crate::reply::check_write_of(body, Some(fields));
        assert_eq!(written.expect_err("refused").code(), Some(11000));
        if ok == 1.0 {
            assert!(glance.verdict.is_ok());
            continue;
        }
        let error = glance.verdict.expect_err("ok: 0");
        let command = error.command().expect("the server's answer");
        assert_eq!((command.code, &*command.message), (10107, "not primary"));
        assert_eq!(command.code_name, "NotWritablePrimary");
        assert!(error.has_label("RetryableWriteError"));
    }
}

#[test]
fn a_long_reply_costs_an_error_no_copy() {
    let after = rawdoc! { "errmsg": "x".repeat(3_000_000), "code": 10107, "ok": 0 };
    let body = among_nulls(600_000, &rawdoc! {}, &after);
    let body = bson::RawDocument::from_bytes(&body).expect("a document");
    let error = crate::reply::check_ok(body).expect_err("ok: 0");
    let command = error.command().expect("the server's answer");
    assert_eq!((command.code, command.message.len()), (10107, 1024));
    assert!(command.reply.as_bytes().len() < 4096);
    assert_eq!(command.reply.get_i32("code").ok(), Some(10107));
    // In a document within a reply the first 1,024 elements are read, and of the labels 16.
    let inner = among_nulls(2000, &rawdoc! { "code": 1 }, &rawdoc! { "code": 2 });
    let inner = RawDocumentBuf::from_bytes(inner).expect("a document");
    let mut labels = RawArrayBuf::new();
    (0..5000).for_each(|number| labels.push(format!("{number:0200}")));
    let reply = rawdoc! { "ok": 1, "writeConcernError": inner, "errorLabels": labels };
    let error = crate::reply::write_concern_error(&reply).expect("an error");
    assert_eq!((error.code, error.labels.len()), (1, 16));
    assert!(error.labels.iter().all(|label| label.len() == 128));
}

#[test]
fn no_reply_in_a_handshake_has_elements_without_number() {
    const MOST: usize = 16 * 1024;
    let outcome = |message: &[u8], is_legacy| {
        let mut inspection = Inspection::begin(message, is_legacy, MOST).expect("long");
        loop {
            match inspection.step(message, &Limits::default()) {
                Ok(false) => {}
                end => return end,
            }
        }
    };
    let too_many = Err(WireError::TooManyElements(MOST));
    let body = |nulls| among_nulls(nulls, &rawdoc! { "ok": 1 }, &rawdoc! {});
    // `ok`, the document and its end, and two sections count as well.
    assert_eq!(outcome(&with_body(&body(MOST - 5)), false), Ok(true));
    assert_eq!(outcome(&with_body(&body(MOST - 4)), false), too_many);
    // In any document of the message.
    let inner = RawDocumentBuf::from_bytes(body(MOST)).expect("a document");
    let nested = message(MsgFlags::NONE, &rawdoc! { "tags": inner }, 0);
    assert_eq!(outcome(&nested, false), too_many);
    let mut sections = with_body(rawdoc! { "ok": 1 }.as_bytes());
    sections.extend([1, 5, 0, 0, 0, 0].repeat(MOST));
    assert_eq!(outcome(&sections, false), too_many);
    assert_eq!(
        outcome(&message(MsgFlags::NONE, &rawdoc! {}, MOST), false),
        too_many
    );
    let mut legacy = vec![0; REPLY_BODY];
    legacy.extend(body(MOST));
    assert_eq!(outcome(&legacy, true), too_many);
    assert!(Inspection::is_short(&[0; MOST], MOST));
}

#[test]
fn long_names_and_regular_expressions_take_steps_too() {
    const LENGTH: usize = 9_000_000;
    let text = |length: usize| [vec![b'x'; length], vec![0]].concat();
    let name = [vec![0x0A], text(LENGTH)].concat();
    let regex = |pattern, options| [vec![0x0B, b'a', 0], text(pattern), text(options)].concat();
    let many = regex(2000, 2000).repeat(LENGTH / 4000);
    for elements in [name, regex(LENGTH, 0), regex(0, LENGTH), many] {
        let length = (elements.len() as i32 + 5).to_le_bytes();
        let mut body = [&length, &*elements, &[0]].concat();
        let (outcome, steps) = inspect(&with_body(&body));
        assert_eq!(outcome, Ok(()));
        let least = LENGTH / (STEP * 64);
        assert!((least..least + 3).contains(&steps), "{steps}");
        // Without its end it is refused, and so it is at once.
        let end = body.len() - 1;
        body[end - 4001..end].fill(b'x');
        let message = with_body(&body);
        assert!(inspect(&message).0.is_err());
        assert!(OpMsg::parse(&message, &Limits::default()).is_err());
    }
}

#[test]
fn sections_and_checksums_take_steps_too() {
    let mut sections = with_body(rawdoc! { "ok": 1 }.as_bytes());
    sections.extend([1, 5, 0, 0, 0, 0].repeat(100_000));
    let length = (sections.len() as i32).to_le_bytes();
    sections[..4].copy_from_slice(&length);
    assert_eq!(inspect(&sections), (Ok(()), 100_000 / STEP + 1));
    // The body is found without another walk of the sections.
    let inspection = walked(&sections);
    sections[60..].fill(0xEE);
    let parsed = OpMsg::parse_inspected(&sections, &Limits::default(), &inspection);
    assert_eq!(parsed.expect("its body").body(), &*rawdoc! { "ok": 1 });

    let mut summed = message(
        MsgFlags::CHECKSUM_PRESENT,
        &rawdoc! { "text": "x".repeat(9_000_000) },
        0,
    );
    assert_eq!(inspect(&summed), (Ok(()), 4));
    *summed.last_mut().expect("a checksum") ^= 1;
    let (outcome, _) = inspect(&summed);
    assert!(
        matches!(outcome, Err(WireError::Checksum { .. })),
        "{outcome:?}"
    );

    let mut endless = with_body(rawdoc! { "ok": 1 }.as_bytes());
    endless.push(1);
    endless.extend(300_000_i32.to_le_bytes());
    endless.extend([b'a'; 300_000 - 4]);
    assert_eq!(inspect(&endless), (Err(WireError::Sequence), 1));
}
