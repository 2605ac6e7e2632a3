use bson::raw::cstr;
use bson::{DateTime, RawArrayBuf, rawdoc};

use super::*;

fn server_type(reply: &RawDocumentBuf) -> ServerType {
    checked("a", reply).server_type
}

fn error(reply: &RawDocumentBuf) -> String {
    let description = checked("a", reply);
    assert_eq!(description.server_type, ServerType::Unknown);
    assert!(description.last_update_time.is_some());
    description.error.as_ref().expect("an error").to_string()
}

#[test]
fn every_field_of_a_hello_is_read() {
    let reply = rawdoc! {
        "isWritablePrimary": true, "me": "A:1", "hosts": ["C", "b:2", "b:2"], "passives": ["D"],
        "arbiters": ["[::1]:3"], "primary": "A:1", "passive": true, "hidden": false,
        "tags": { "dc": "ny" }, "setName": "rs", "setVersion": 3, "electionId": id(7),
        "lastWrite": { "opTime": { "t": 1_i64 }, "lastWriteDate": DateTime::from_millis(5) },
        "topologyVersion": { "processId": id(1), "counter": 9_i64 }, "maxBsonObjectSize": 2048,
        "maxMessageSizeBytes": 8192, "maxWriteBatchSize": 10, "minWireVersion": 1,
        "maxWireVersion": 25, "logicalSessionTimeoutMinutes": 30, "compression": ["zstd"],
        "helloOk": true, "readOnly": true, "iscryptd": true, "serviceId": id(8), "ok": 1.0,
    };
    let found = checked("x", &reply);
    assert_eq!(found.server_type, ServerType::RsPrimary);
    assert_eq!(found.me, Some(address("a:1")));
    assert_eq!(*found.canonical_address(), address("a:1"));
    assert_eq!(found.hosts, [address("b:2"), address("c")]);
    assert_eq!(found.passives, [address("d")]);
    assert_eq!(found.arbiters, [address("[::1]:3")]);
    assert_eq!(found.members().count(), 4);
    assert_eq!(found.primary, Some(address("a:1")));
    assert!(found.passive && !found.hidden);
    assert_eq!(found.tags.get("dc").map(String::as_str), Some("ny"));
    assert_eq!(found.set_name.as_deref(), Some("rs"));
    assert_eq!(
        (found.set_version, found.election_id),
        (Some(3), Some(id(7)))
    );
    assert_eq!(found.last_write_date, Some(DateTime::from_millis(5)));
    assert_eq!(found.topology_version.map(|own| own.counter), Some(9));
    assert_eq!(found.max_bson_object_size, 2048);
    assert_eq!(found.max_message_size_bytes, 8192);
    assert_eq!(found.max_write_batch_size, 10);
    assert_eq!((found.min_wire_version, found.max_wire_version), (1, 25));
    assert_eq!(found.logical_session_timeout_minutes, Some(30));
    assert_eq!(found.compression, ["zstd"]);
    assert!(found.hello_ok && found.read_only && found.iscryptd);
    assert_eq!(found.service_id, Some(id(8)));
    assert!(found.error.is_none() && found.last_update_time.is_some());
}

#[test]
fn types_by_the_first_symptom() {
    let cases = [
        (rawdoc! { "ok": 1 }, ServerType::Standalone),
        (
            rawdoc! { "ok": 1, "isWritablePrimary": true },
            ServerType::Standalone,
        ),
        (
            rawdoc! { "ok": 1, "msg": "isdbgrid", "setName": "rs" },
            ServerType::Mongos,
        ),
        (
            rawdoc! { "ok": 1, "isreplicaset": true, "msg": "isdbgrid", "setName": "rs" },
            ServerType::RsGhost,
        ),
        (
            rawdoc! { "ok": 1, "setName": "rs", "ismaster": true },
            ServerType::RsPrimary,
        ),
        (
            rawdoc! { "ok": 1, "setName": "rs", "isWritablePrimary": false, "ismaster": true },
            ServerType::RsOther,
        ),
        (
            rawdoc! { "ok": 1, "setName": "rs", "hidden": true, "secondary": true },
            ServerType::RsOther,
        ),
        (
            rawdoc! { "ok": 1, "setName": "rs", "secondary": true },
            ServerType::RsSecondary,
        ),
        (
            rawdoc! { "ok": 1, "setName": "rs", "arbiterOnly": true },
            ServerType::RsArbiter,
        ),
        (rawdoc! { "ok": 1, "setName": "rs" }, ServerType::RsOther),
        (
            rawdoc! { "ok": 1, "setName": null, "secondary": true },
            ServerType::Standalone,
        ),
    ];
    for (reply, expected) in cases {
        assert_eq!(server_type(&reply), expected, "{reply:?}");
    }
}

#[test]
fn a_malformed_hello_names_its_field() {
    let cases = [
        (rawdoc! {}, "no valid ok"),
        (rawdoc! { "ok": "1" }, "no valid ok"),
        (
            rawdoc! { "ok": 0, "errmsg": "busy", "code": 462 },
            "busy (code 462)",
        ),
        (rawdoc! { "ok": 1, "hosts": "a" }, "no valid hosts"),
        (rawdoc! { "ok": 1, "hosts": ["a", 1] }, "no valid hosts"),
        (rawdoc! { "ok": 1, "hosts": ["a:0"] }, "no valid hosts"),
        (
            rawdoc! { "ok": 1, "passives": ["/tmp/mongodb.sock"] },
            "no valid passives",
        ),
        (
            rawdoc! { "ok": 1, "electionId": "1" },
            "no valid electionId",
        ),
        (
            rawdoc! { "ok": 1, "setVersion": 1.5 },
            "no valid setVersion",
        ),
        (
            rawdoc! { "ok": 1, "maxWireVersion": -1 },
            "no valid maxWireVersion",
        ),
        (
            rawdoc! { "ok": 1, "secondary": "yes" },
            "no valid secondary",
        ),
    ];
    for (reply, expected) in cases {
        let found = error(&reply);
        assert!(found.contains(expected), "{found}, not {expected}");
        assert!(found.contains("a:27017"), "{found}");
    }
}

/// The description that a pool's connection reads from a reply.
fn on_connection(reply: &RawDocumentBuf) -> crate::handshake::ConnectionDescription {
    use crate::auth::Nonces;
    use crate::handshake::{Handshake, HandshakeContext, Step};
    let nonces = Nonces::from_random([0; Nonces::RANDOM_BYTES]);
    let mut handshake = Handshake::new(HandshakeContext::new(rawdoc! {}, nonces));
    handshake.start().expect("a hello");
    match handshake.handle_reply(reply) {
        Ok(Step::Done(description)) => description,
        other => panic!("{other:?}"),
    }
}

#[test]
fn null_is_absent_for_both_readers() {
    let plain = rawdoc! { "ok": 1, "maxWireVersion": 25 };
    for field in [
        "connectionId",
        "setName",
        "compression",
        "topologyVersion",
        "serviceId",
        "readOnly",
        "helloOk",
        "secondary",
        "arbiterOnly",
        "isWritablePrimary",
        "ismaster",
        "msg",
        "minWireVersion",
        "maxBsonObjectSize",
        "maxMessageSizeBytes",
        "maxWriteBatchSize",
        "logicalSessionTimeoutMinutes",
        "me",
        "hosts",
        "tags",
        "primary",
        "lastWrite",
        "electionId",
        "setVersion",
        "code",
        "errmsg",
        "saslSupportedMechs",
        "speculativeAuthenticate",
    ] {
        let mut reply = plain.clone();
        let name = bson::raw::CString::try_from(field).expect("no NUL");
        reply.append(name, bson::raw::RawBsonRef::Null);
        assert_eq!(on_connection(&reply), on_connection(&plain), "{field}");
        let (monitored, bare) = (checked("a", &reply), checked("a", &plain));
        assert_eq!(monitored, bare, "{field}");
        assert_eq!(monitored.error, None, "{field}");
    }
}

#[test]
fn informational_fields_never_make_a_server_unknown() {
    let odd = rawdoc! {
        "ok": 1, "maxWireVersion": 25, "setName": "rs", "secondary": true, "hosts": ["a"],
        "me": "", "primary": "", "tags": { "a": 1, "rack": "east" }, "passive": "no",
        "lastWrite": { "lastWriteDate": 1_700_000_000_000_i64 }, "topologyVersion": {},
        "readOnly": "no", "helloOk": [], "compression": [1], "connectionId": "x", "serviceId": 1,
        "logicalSessionTimeoutMinutes": "30", "iscryptd": {},
    };
    let monitored = checked("a", &odd);
    assert_eq!(monitored.error, None);
    assert_eq!(monitored.server_type, ServerType::RsSecondary);
    assert_eq!((&monitored.me, &monitored.primary), (&None, &None));
    assert_eq!(monitored.tags.len(), 1);
    assert_eq!(monitored.tags.get("rack").map(|rack| &**rack), Some("east"));
    assert_eq!(monitored.last_write_date, None);
    let connection = on_connection(&odd);
    assert!(connection.secondary && !connection.hello_ok);
}

#[test]
fn a_refused_hello_keeps_its_labels() {
    let reply = rawdoc! { "ok": 0, "errorLabels": ["SystemOverloadedError"] };
    let description = checked("a", &reply);
    let Some(SdamError::Failed(error)) = &description.error else {
        panic!("{description:?}");
    };
    assert!(error.has_label(SYSTEM_OVERLOADED_ERROR));
}

#[test]
fn lists_tags_and_names_are_bounded() {
    let mut hosts = RawArrayBuf::new();
    for number in 0..100_000 {
        hosts.push(format!("host{number}:27017"));
    }
    let many = rawdoc! { "ok": 1, "setName": "rs", "hosts": hosts };
    assert!(error(&many).contains("at most 1000"));
    let mut tags = RawDocumentBuf::new();
    for number in 0..129 {
        tags.append(
            bson::raw::CString::try_from(format!("t{number}")).expect("no NUL"),
            "v",
        );
    }
    let tagged = checked("a", &rawdoc! { "ok": 1, "tags": tags });
    assert_eq!(tagged.tags.len(), 128);
    let long = "x".repeat(2000);
    assert!(error(&rawdoc! { "ok": 1, "setName": &*long }).contains("no valid setName"));
    assert_eq!(checked("a", &rawdoc! { "ok": 1, "me": &*long }).me, None);
}

#[test]
fn survives_every_cut_and_every_flipped_byte() {
    let whole = member("primary");
    let bytes = whole.as_bytes();
    for index in 0..bytes.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = bytes.to_vec();
            bytes[index] ^= change;
            if let Ok(reply) = bson::RawDocument::from_bytes(&bytes) {
                ServerDescription::from_hello(address("a"), reply, Instant::now());
            }
        }
    }
}

#[test]
fn descriptions_compare_by_the_fields_of_the_specification() {
    let first = checked("a", &member("primary"));
    let mut other = (*first).clone();
    other.last_update_time = None;
    other.round_trip_time = Some(std::time::Duration::from_secs(1));
    other.last_write_date = Some(DateTime::from_millis(1));
    other.hello_ok = false;
    assert_eq!(*first, other);
    let changes: [fn(&mut ServerDescription); 8] = [
        |own| own.address = address("z"),
        |own| own.error = Some(SdamError::NewerPrimary),
        |own| own.max_wire_version += 1,
        |own| own.hosts.clear(),
        |own| own.set_version = None,
        |own| own.election_id = None,
        |own| {
            own.topology_version = Some(TopologyVersion {
                process_id: id(1),
                counter: 1,
            })
        },
        |own| own.iscryptd = true,
    ];
    for change in changes {
        let mut other = (*first).clone();
        change(&mut other);
        assert_ne!(*first, other);
    }
    let failed = |error: Error| ServerDescription::failed(address("a"), error, Instant::now());
    assert_eq!(failed(network_error()), failed(network_error()));
    assert_ne!(
        failed(network_error()),
        failed(Error::configuration("other"))
    );
}

#[test]
fn unwanted_fields_are_not_read() {
    let mut reply = member("secondary");
    reply.append(cstr!("$clusterTime"), rawdoc! { "clusterTime": "nonsense" });
    assert_eq!(server_type(&reply), ServerType::RsSecondary);
}

/// A reply in which a text that has a mark in it is no UTF-8.
fn not_utf8(reply: &RawDocumentBuf) -> RawDocumentBuf {
    let mut bytes = reply.as_bytes().to_vec();
    let at = bytes.windows(6).position(|own| own == b"m4rked");
    bytes[at.expect("a mark")] = 0xFF;
    RawDocumentBuf::from_bytes(bytes).expect("a document")
}

#[test]
fn texts_that_only_inform_cost_no_server_where_they_are_no_utf8() {
    let mut lost = Vec::new();
    for reply in [
        rawdoc! { "ok": 1, "setName": "rs", "secondary": true, "maxWireVersion": 25, "tags": { "dc": "m4rked" } },
        rawdoc! { "ok": 1, "setName": "rs", "secondary": true, "maxWireVersion": 25, "tags": { "m4rked": "a" } },
        rawdoc! { "ok": 1, "setName": "rs", "secondary": true, "maxWireVersion": 25, "compression": ["m4rked"] },
        rawdoc! { "ok": 1, "setName": "rs", "secondary": true, "maxWireVersion": 25, "errmsg": "m4rked" },
        rawdoc! { "ok": 1, "setName": "rs", "secondary": true, "maxWireVersion": 25, "me": "m4rked:1" },
        rawdoc! { "ok": 1, "setName": "rs", "secondary": true, "maxWireVersion": 25, "primary": "m4rked:1" },
        rawdoc! { "ok": 1, "setName": "rs", "secondary": true, "maxWireVersion": 25, "other": "m4rked" },
    ] {
        let reply = not_utf8(&reply);
        let found = checked("a", &reply);
        if found.server_type != ServerType::RsSecondary {
            lost.push(reply);
        }
    }
    assert!(lost.is_empty(), "{lost:?}");
}
