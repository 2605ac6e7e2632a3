//! Commands that are no well-formed documents, or too long.

use mongo_core::bson::{RawDocumentBuf, doc, rawdoc};
use mongo_core::operation::OperationKind;
use mongo_core::pools::Backend;
use mongo_core::{ErrorKind, Result};

use crate::support::{World, insert};
use crate::transactions::begin;

on_both! {
    malformed_commands_lose_nothing,
    a_command_that_is_too_long_loses_nothing,
    what_is_no_document_is_refused,
}

/// A document of these elements, which need not be well-formed.
fn garbage(elements: &[&[u8]]) -> RawDocumentBuf {
    let mut bytes = vec![0; 4];
    elements.iter().for_each(|own| bytes.extend_from_slice(own));
    bytes.push(0);
    let length = i32::try_from(bytes.len()).expect("short");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    RawDocumentBuf::from_bytes(bytes).expect("its length and its end are right")
}

const PING: &[u8] = b"\x10ping\0\x01\0\0\0";

/// Their elements do not add up: refused before they are sent.
fn broken() -> Vec<RawDocumentBuf> {
    vec![
        garbage(&[PING, b"\x03readConcern\0\xff\xff\xff\x7f"]),
        garbage(&[PING, b"\x03readConcern\0\x0b\0\0\0\x10\xff\0\x01\0\0\0"]),
        garbage(&[PING, b"\x02a\0\xff\xff\xff\xff"]),
        garbage(&[PING, b"\x03a\0\xff\xff\xff\x7f"]),
        garbage(&[PING, b"\x03a\0\x04\0\0\0"]),
        garbage(&[PING, b"\x20a\0"]),
        garbage(&[PING, b"\0\0\0"]),
        garbage(&[b"\0", PING]),
        garbage(&[PING, b"\x10a"]),
        garbage(&[PING, b"\x0fa\0\x0e\0\0\0\xff\xff\xff\x7f"]),
        garbage(&[PING, b"\x05a\0\xff\xff\xff\xff\0"]),
        garbage(&[PING, b"\x0ba\0aaaa"]),
        garbage(&[
            PING,
            b"\x03readConcern\0\x05\0\0\0\0",
            b"\x10\xff\0\x01\0\0\0",
        ]),
    ]
}

/// Their names and values are wrong: left to the server.
fn odd() -> Vec<RawDocumentBuf> {
    vec![
        garbage(&[b"\x10\xff\xfe\0\x01\0\0\0"]),
        garbage(&[PING, b"\x10\xff\0\x01\0\0\0"]),
        garbage(&[PING, b"\x02a\0\0\0\0\0"]),
        garbage(&[PING, b"\x02a\0\x02\0\0\0\xff\0"]),
        garbage(&[PING, b"\x02a\0\x02\0\0\0zz"]),
        garbage(&[PING, b"\x03a\0\x08\0\0\0zzzz"]),
        garbage(&[PING, b"\x10lsid\xff\0\x01\0\0\0"]),
        garbage(&[b"\x02\0\x01\0\0\0\0"]),
    ]
}

async fn malformed_commands_lose_nothing<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("w=majority&readConcernLevel=majority").await;
    world.ping().await.expect("a reply");
    let mut session = world.session();
    let cases = broken().into_iter().map(|case| (case, true));
    let cases = cases.chain(odd().into_iter().map(|case| (case, false)));
    for (number, (case, is_refused)) in cases.enumerate() {
        let check = |outcome: Result<()>| {
            let error = outcome.err();
            let kind = error.as_ref().map(mongo_core::Error::kind);
            let is_serialization = matches!(kind, Some(ErrorKind::Serialization(_)));
            assert!(is_serialization || !is_refused, "{number}: {error:?}");
        };
        for kind in [
            OperationKind::Command,
            OperationKind::Read,
            OperationKind::Write,
        ] {
            check(world.pools.command("db", &case).kind(kind).await.map(drop));
            let own = world.pools.command("db", &case).kind(kind);
            check(own.session(&mut session).await.map(drop));
            let own = world.pools.command("db", &case).kind(kind);
            check(own.cursor().await.map(drop));
            let connection = world.pools.get().await;
            let mut connection = connection.unwrap_or_else(|error| panic!("{number}: {error}"));
            check(connection.command("db", &case).kind(kind).await.map(drop));
            let _ = connection.run_command("db", &case).await.map(drop);
        }
        begin(&mut session);
        let own = world.pools.command("db", &case);
        check(own.session(&mut session).await.map(drop));
        let _ = session.abort_transaction().await;
        world.ping().await.expect("the pools still work");
        assert_eq!(world.in_use(), 0, "{number}");
    }
    drop(session);
    world.pools.close().await;
}

async fn a_command_that_is_too_long_loses_nothing<B: Backend<Config: Default>>() {
    for options in ["", "w=0", "compressors=zlib"] {
        let world = World::<B>::replica_set(options).await;
        world.ping().await.expect("a reply");
        let long = rawdoc! { "insert": "c", "documents": [{ "x": "x".repeat(48_000_100) }] };
        let write = world.pools.command("db", &long).kind(OperationKind::Write);
        let error = write.await.map(drop).expect_err("too long");
        let text = error.to_string();
        assert!(text.len() < 500 && text.contains("48000"), "{text}");
        assert!(
            !error.is_transient() && !error.is_retryable_write(),
            "{error:?}"
        );
        let mut connection = world.pools.get().await.expect("a connection");
        let write = connection.command("db", &long).kind(OperationKind::Write);
        write.await.map(drop).expect_err("too long");
        assert!(!connection.is_closed());
        drop(connection);
        assert!(world.commands.of("insert").is_empty());
        if options != "w=0" {
            let mut session = world.session();
            begin(&mut session);
            let write = world.pools.command("db", &long).kind(OperationKind::Write);
            let error = write.session(&mut session).await.map(drop);
            let error = error.expect_err("too long");
            assert!(!error.has_label("TransientTransactionError"), "{error:?}");
            insert(&world.pools, &mut session).await.expect("a write");
            let first = &world.commands.of("insert")[0];
            assert!(first.contains_key("startTransaction"), "{first}");
            session.commit_transaction().await.expect("a commit");
            assert!(!session.is_dirty());
        }
        world.ping().await.expect("the pools still work");
        assert_eq!(world.in_use(), 0);
        world.pools.close().await;
    }
}

async fn what_is_no_document_is_refused<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let pools = &world.pools;
    let outcomes = [
        pools.command("db", &5).await.map(drop),
        pools.command("db", "ping").await.map(drop),
        pools.command("db", &()).await.map(drop),
        pools.command("db", &None::<i32>).await.map(drop),
        pools.command("db", &[1, 2]).await.map(drop),
        pools
            .command("db", &vec![doc! { "ping": 1 }])
            .await
            .map(drop),
    ];
    for (number, outcome) in outcomes.into_iter().enumerate() {
        let error = outcome.expect_err("no document");
        assert!(
            matches!(
                error.kind(),
                ErrorKind::Serialization(_) | ErrorKind::Configuration(_)
            ),
            "{number}: {error:?}"
        );
    }
    assert_eq!(world.in_use(), 0);
    world.pools.close().await;
}
