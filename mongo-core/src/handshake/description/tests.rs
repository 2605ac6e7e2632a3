//! Valid and invalid replies to a hello.

use bson::{RawDocumentBuf, rawdoc};

use super::*;

/// A reply of a primary, with more fields than are read.
fn primary() -> RawDocumentBuf {
    rawdoc! {
        "helloOk": true,
        "topologyVersion": { "processId": ObjectId::from_bytes([1; 12]), "counter": 6_i64 },
        "hosts": ["a:27017", "b:27017"],
        "setName": "rs0",
        "isWritablePrimary": true,
        "secondary": false,
        "maxBsonObjectSize": 16_777_216,
        "maxMessageSizeBytes": 48_000_000,
        "maxWriteBatchSize": 100_000,
        "localTime": bson::DateTime::from_millis(0),
        "logicalSessionTimeoutMinutes": 30,
        "connectionId": 17,
        "minWireVersion": 0,
        "maxWireVersion": 25,
        "readOnly": false,
        "ok": 1.0,
    }
}

/// The reply with one field replaced, or added.
fn with(field: &RawDocument) -> RawDocumentBuf {
    let replaced: Vec<&str> = field
        .iter_elements()
        .map(|element| element.expect("valid").key().as_str())
        .collect();
    let mut reply = RawDocumentBuf::new();
    for pair in primary().iter() {
        let (key, value) = pair.expect("valid");
        if !replaced.contains(&key.as_str()) {
            reply.append(key, value);
        }
    }
    for pair in field {
        let (key, value) = pair.expect("valid");
        reply.append(key, value);
    }
    reply
}

fn read(reply: &RawDocument) -> Result<ConnectionDescription, HelloFailure> {
    HelloReply::read(reply, false).map(|read| read.description)
}

fn error(field: &RawDocument) -> HandshakeError {
    match read(&with(field)) {
        Err(HelloFailure::Invalid(error)) => error,
        other => panic!("{field:?}: {other:?}"),
    }
}

#[test]
fn the_hello_of_a_primary_is_read() {
    let description = read(&primary()).expect("valid");
    let expected = ConnectionDescription {
        min_wire_version: 0,
        max_wire_version: 25,
        max_bson_object_size: 16_777_216,
        max_message_size_bytes: 48_000_000,
        max_write_batch_size: 100_000,
        logical_session_timeout_minutes: Some(30),
        hello_ok: true,
        is_writable_primary: true,
        secondary: false,
        arbiter: false,
        mongos: false,
        set_name: Some("rs0".to_owned()),
        read_only: false,
        connection_id: Some(17),
        service_id: None,
        topology_version: Some(TopologyVersion {
            process_id: ObjectId::from_bytes([1; 12]),
            counter: 6,
        }),
        compression: Vec::new(),
        compressor: None,
        authenticated: None,
    };
    assert_eq!(description, expected);
}

#[test]
fn a_server_that_says_little_has_the_defaults() {
    let description = read(&rawdoc! { "ok": 1, "maxWireVersion": 8 }).expect("valid");
    assert_eq!(description.max_bson_object_size, 16 * 1024 * 1024);
    assert_eq!(description.max_message_size_bytes, 48_000_000);
    assert_eq!(description.max_write_batch_size, 100_000);
    assert!(!description.hello_ok && !description.is_writable_primary);
    let legacy = rawdoc! { "ok": true, "maxWireVersion": 8_i64, "ismaster": true };
    assert!(read(&legacy).expect("valid").is_writable_primary);
    let router = rawdoc! { "ok": 1, "maxWireVersion": 25.0, "msg": "isdbgrid" };
    assert!(read(&router).expect("valid").mongos);
}

#[test]
fn numbers_are_bounded() {
    let size = |value: i64| read(&with(&rawdoc! { "maxMessageSizeBytes": value }));
    let large = size(i64::MAX).expect("taken for the maximum");
    assert_eq!(large.max_message_size_bytes, 48_000_000);
    assert_eq!(
        size(4096).expect("just enough").max_message_size_bytes,
        4096
    );
    for (field, value, minimum) in [
        ("maxMessageSizeBytes", 4095, 4096),
        ("maxMessageSizeBytes", -1, 4096),
        ("maxMessageSizeBytes", i64::MIN, 4096),
        ("maxBsonObjectSize", 1023, 1024),
        ("maxWriteBatchSize", 0, 1),
    ] {
        let mut document = RawDocumentBuf::new();
        document.append(bson::raw::CString::try_from(field).expect("no NUL"), value);
        let expected = HandshakeError::TooSmall {
            field,
            value,
            minimum,
        };
        assert_eq!(error(&document), expected);
    }
    let huge = with(&rawdoc! { "maxBsonObjectSize": i32::MAX, "maxWriteBatchSize": i64::MAX });
    let huge = read(&huge).expect("taken for the maximum");
    assert_eq!(huge.max_bson_object_size, 64 * 1024 * 1024);
    assert_eq!(huge.max_write_batch_size, 10_000_000);
}

#[test]
fn wrong_types_name_their_field() {
    let long = "x".repeat(1025);
    for (field, name) in [
        (rawdoc! { "ok": "1" }, "ok"),
        (rawdoc! { "maxWireVersion": "25" }, "maxWireVersion"),
        (rawdoc! { "maxWireVersion": -1 }, "maxWireVersion"),
        (
            rawdoc! { "minWireVersion": 4_294_967_296_i64 },
            "minWireVersion",
        ),
        (rawdoc! { "maxBsonObjectSize": 1e300 }, "maxBsonObjectSize"),
        (rawdoc! { "maxWriteBatchSize": 1.5 }, "maxWriteBatchSize"),
        (rawdoc! { "isWritablePrimary": [] }, "isWritablePrimary"),
        (rawdoc! { "setName": 1 }, "setName"),
        (rawdoc! { "setName": long }, "setName"),
    ] {
        match error(&field) {
            HandshakeError::Field { field, .. } => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let none = HandshakeError::Field {
        field: "ok",
        expected: "a number",
    };
    assert_eq!(read(&rawdoc! {}), Err(none.into()));
    // The length is right, but the number has only two of its four bytes before the end.
    let torn = RawDocument::from_bytes(b"\x0b\0\0\0\x10ok\0\x01\0\0").expect("not looked into");
    assert_eq!(read(torn), Err(HandshakeError::Malformed.into()));
}

#[test]
fn a_field_that_only_informs_is_taken_for_absent_where_it_cannot_be_read() {
    let odd = read(&with(&rawdoc! {
        "logicalSessionTimeoutMinutes": -1, "helloOk": "yes", "readOnly": [], "connectionId": "x",
        "serviceId": 1, "topologyVersion": { "counter": 1 }, "compression": "zlib",
    }));
    let odd = odd.expect("informs less");
    assert_eq!(odd.logical_session_timeout_minutes, None);
    assert!(!odd.hello_ok && !odd.read_only);
    assert_eq!((odd.connection_id, odd.service_id), (None, None));
    assert_eq!((odd.topology_version, odd.compression), (None, Vec::new()));
    let mixed = read(&with(&rawdoc! { "compression": [1, "zlib"] }));
    assert_eq!(mixed.expect("informs").compression, ["zlib"]);
    // Behind a load balancer `serviceId` is required.
    let reply = with(&rawdoc! { "serviceId": 1 });
    let error = HelloFailure::Invalid(HandshakeError::NotLoadBalanced);
    assert_eq!(
        HelloReply::read(&reply, true).map(|read| read.description),
        Err(error)
    );
}

#[test]
fn wire_versions_must_overlap() {
    let versions = |min: i32, max: i32| {
        read(&with(
            &rawdoc! { "minWireVersion": min, "maxWireVersion": max },
        ))
    };
    for (min, max) in [(0, 8), (8, 8), (0, 99), (27, 99)] {
        assert!(versions(min, max).is_ok(), "{min} to {max}");
    }
    for max in [0, 1, 7] {
        let error = HandshakeError::ServerTooOld { reported: max };
        assert_eq!(versions(0, max), Err(error.into()));
    }
    let error = HandshakeError::ServerTooNew { required: 28 };
    assert_eq!(versions(28, 30), Err(error.into()));
    // A server that does not report its wire versions counts as the oldest.
    let error = HandshakeError::ServerTooOld { reported: 0 };
    assert_eq!(read(&rawdoc! { "ok": 1 }), Err(error.into()));
}

#[test]
fn a_load_balancer_must_name_its_service() {
    let id = ObjectId::from_bytes([7; 12]);
    let reply = with(&rawdoc! { "serviceId": id });
    let balanced =
        |reply: &RawDocument| HelloReply::read(reply, true).map(|read| read.description.service_id);
    assert_eq!(balanced(&reply), Ok(Some(id)));
    let error = HandshakeError::NotLoadBalanced;
    assert_eq!(balanced(&primary()), Err(error.into()));
}

#[test]
fn an_arbiter_needs_a_set() {
    let arbiter = with(&rawdoc! { "arbiterOnly": true, "isWritablePrimary": false });
    assert!(read(&arbiter).expect("valid").arbiter);
    let alone = rawdoc! { "ok": 1, "maxWireVersion": 25, "arbiterOnly": true };
    assert!(!read(&alone).expect("valid").arbiter);
}

#[test]
fn the_mechanisms_are_not_validated() {
    let negotiated = |list: &RawDocument| {
        let reply = with(list);
        HelloReply::read(&reply, false).map(|read| read.negotiated)
    };
    let sha_1 = Ok(Some(ScramMechanism::Sha1));
    let sha_256 = Ok(Some(ScramMechanism::Sha256));
    let both = rawdoc! { "saslSupportedMechs": ["SCRAM-SHA-1", "SCRAM-SHA-256"] };
    assert_eq!(negotiated(&both), sha_256);
    let odd = rawdoc! { "saslSupportedMechs": [1, "NEW", { "a": 1 }, "SCRAM-SHA-256"] };
    assert_eq!(negotiated(&odd), sha_256);
    assert_eq!(
        negotiated(&rawdoc! { "saslSupportedMechs": ["PLAIN"] }),
        sha_1
    );
    assert_eq!(negotiated(&rawdoc! { "saslSupportedMechs": [] }), sha_1);
    assert_eq!(
        negotiated(&rawdoc! { "saslSupportedMechs": "SCRAM-SHA-256" }),
        Ok(None)
    );
    assert_eq!(
        negotiated(&rawdoc! { "saslSupportedMechs": null }),
        Ok(None)
    );
    assert_eq!(negotiated(&rawdoc! {}), Ok(None));
}

#[test]
fn a_refused_hello_keeps_the_servers_words() {
    let reply = rawdoc! {
        "ok": 0.0, "errmsg": "shutting down", "code": 91, "codeName": "ShutdownInProgress",
        "errorLabels": ["SystemOverloadedError"],
    };
    let expected = ServerError {
        code: 91,
        code_name: "ShutdownInProgress".to_owned(),
        message: "shutting down".to_owned(),
        labels: vec!["SystemOverloadedError".to_owned()],
    };
    assert_eq!(read(&reply), Err(HelloFailure::Refused(expected)));
}

#[test]
fn a_field_that_decides_is_named_by_its_own_name() {
    for (field, name) in [
        (rawdoc! { "ismaster": "yes" }, "ismaster"),
        (rawdoc! { "isWritablePrimary": "yes" }, "isWritablePrimary"),
    ] {
        let text = error(&field).to_string();
        assert!(text.contains(name), "{name}: {text}");
    }
}

/// The monitor's description goes by the modern field where both are there.
#[test]
fn the_modern_field_counts_where_a_reply_has_both() {
    let reply = with(&rawdoc! { "isWritablePrimary": false, "ismaster": true });
    let read = read(&reply).expect("a description");
    assert!(!read.is_writable_primary);
}
