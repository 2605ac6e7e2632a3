use bson::{Bson, doc, rawdoc};

use super::*;

fn nested_documents(levels: usize) -> Vec<u8> {
    let mut bytes = vec![5, 0, 0, 0, 0];
    for _ in 1..levels {
        let mut outer = ((bytes.len() + 8) as i32).to_le_bytes().to_vec();
        outer.extend_from_slice(&[3, b'a', 0]);
        outer.extend_from_slice(&bytes);
        outer.push(0);
        bytes = outer;
    }
    bytes
}

#[test]
fn depth_is_counted_exactly() {
    assert_eq!(check_depth(&nested_documents(256), 256), Ok(()));
    assert_eq!(
        check_depth(&nested_documents(257), 256),
        Err(WireError::TooDeep(256))
    );
    assert_eq!(
        check_depth(&nested_documents(20_000), 256),
        Err(WireError::TooDeep(256))
    );
}

#[test]
fn a_document_too_short_for_the_walk_is_too_short_to_be_too_deep() {
    let mut empty_names = vec![5, 0, 0, 0, 0];
    for _ in 1..257 {
        let mut outer = ((empty_names.len() + 7) as i32).to_le_bytes().to_vec();
        outer.extend_from_slice(&[3, 0]);
        outer.extend_from_slice(&empty_names);
        outer.push(0);
        empty_names = outer;
    }
    assert!(matches!(
        split_document(&empty_names, 256),
        Err(WireError::TooDeep(256))
    ));
}

#[test]
fn every_type_is_walked() {
    let document = doc! {
        "double": 1.5, "string": "text", "document": { "a": [1, { "b": 2 }] }, "array": [[[]]],
        "binary": Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2, 3] }),
        "undefined": Bson::Undefined, "id": bson::oid::ObjectId::new(), "bool": true,
        "date": bson::DateTime::from_millis(1), "null": Bson::Null,
        "regex": Bson::RegularExpression(bson::Regex {
            pattern: bson::raw::cstr!("a").into(), options: bson::raw::cstr!("i").into() }),
        "code": Bson::JavaScriptCode("f".into()), "symbol": Bson::Symbol("s".into()),
        "scoped": Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
            code: "g".into(), scope: doc! { "x": { "y": 1 } } }),
        "int": 1_i32, "timestamp": Bson::Timestamp(bson::Timestamp { time: 1, increment: 2 }),
        "long": 1_i64, "decimal": Bson::Decimal128("1.5".parse().expect("a decimal")),
        "min": Bson::MinKey, "max": Bson::MaxKey,
    };
    let bytes = document.to_vec().expect("BSON");
    assert_eq!(check_depth(&bytes, 8), Ok(()));
    assert_eq!(check_depth(&bytes, 3), Err(WireError::TooDeep(3)));
    // No truncation and no single wrong byte causes a panic.
    for cut in 0..bytes.len() {
        let _ = check_depth(&bytes[..cut], 8);
    }
    let mut wrong = bytes.clone();
    for at in 0..bytes.len() {
        for value in [0, 1, 3, 0x0F, 0x7F, 0x80, 0xFF] {
            wrong[at] = value;
            let _ = check_depth(&wrong, 8);
        }
        wrong[at] = bytes[at];
    }
}

#[test]
fn an_element_is_found_among_any_others() {
    let document = rawdoc! {
        "o": 1, "text": "ok", "nested": { "ok": 7 }, "list": ["ok"], "ok": 0, "okay": 2, "ok": 5_i64,
    };
    let bytes = document.as_bytes();
    let (kind, at) = find_element(bytes, b"ok").expect("sound").expect("found");
    assert_eq!((kind, bytes[at]), (0x12, 5));
    assert_eq!(find_element(bytes, b"k"), Ok(None));
    for cut in 0..bytes.len() {
        assert!(find_element(&bytes[..cut], b"ok").is_err(), "{cut}");
    }
    let mut wrong = bytes.to_vec();
    for at in 0..bytes.len() {
        for value in [0, 2, 3, 0x0F, 0x7F, 0x80, 0xFF] {
            wrong[at] = value;
            let _ = find_element(&wrong, b"ok");
        }
        wrong[at] = bytes[at];
    }
}

#[test]
fn a_child_may_not_reach_past_its_parent() {
    let mut bytes = rawdoc! { "a": { "b": 1 }, "c": 1 }.into_bytes();
    // The inner document's length.
    bytes[7] += 4;
    assert!(matches!(
        check_depth(&bytes, 8),
        Err(WireError::Document(_))
    ));
}
