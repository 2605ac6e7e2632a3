//! Attacks: nameless credentials, read preferences in transactions, calls of cursors that were
//! cancelled, commits without any server, malformed commands.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::auth::{AuthMechanism, Credential};
use mongo_core::bson::spec::BinarySubtype;
use mongo_core::bson::{Binary, RawDocumentBuf, doc, rawdoc};
use mongo_core::net::{AccessToken, OidcCallback, OidcRequest};
use mongo_core::operation::{CursorType, OperationKind, SessionOptions, TransactionOptions};
use mongo_core::pools::{Backend, Cursor, Pools, PoolsBuilder};
use mongo_core::select::{ReadPreference, ReadPreferenceMode};
use mongo_core::{ClientOptions, ErrorKind, Result};
use mongo_testkit::{Action, Deployment, Matcher, SimNetwork};
use tokio::time::{sleep, timeout};

use crate::support::{Commands, OverSim, World, begun_by, eventually, insert, with_orders};

on_both! {
    a_retryable_write_is_not_repeated_as_another_nameless_user,
    a_transaction_has_its_own_read_preference_in_a_sharded_cluster,
    a_cancelled_call_leaves_the_next_one_its_time,
    malformed_commands_lose_nothing,
    a_command_that_is_too_long_loses_nothing,
    what_is_no_document_is_refused,
    a_cursor_of_a_transaction_behind_a_balancer_is_closed,
    a_command_that_could_not_be_prepared_does_not_start_the_transaction,
    a_transaction_of_a_nameless_user_is_not_continued_by_another,
}

struct Tokens(AtomicUsize);

#[async_trait]
impl OidcCallback for Tokens {
    async fn token(&self, _: OidcRequest<'_>) -> Result<AccessToken> {
        let call = self.0.fetch_add(1, Ordering::SeqCst);
        Ok(AccessToken::new(format!("token-{call}")))
    }
}

pub(crate) fn nameless(hosts: &[&str]) -> Credential {
    let credential = Credential::from_mechanism(AuthMechanism::MongoDbOidc);
    credential.with_allowed_hosts(hosts.iter().copied())
}

/// A member that accepts any access token, and pools without a credential.
pub(crate) async fn with_tokens<B: Backend<Config: Default>>() -> (World<B>, String) {
    let network = SimNetwork::new(5);
    let set = Deployment::replica_set("rs").members(1).network(&network);
    let set = set.start().await;
    let payload = Binary {
        subtype: BinarySubtype::Generic,
        bytes: Vec::new(),
    };
    let accepted = doc! { "ok": 1, "conversationId": 1, "done": true, "payload": payload };
    let start = Matcher::command("saslStart");
    set.server(0)
        .script()
        .add(start.then(Action::Reply(accepted)));
    let commands = Commands::default();
    let mut options = ClientOptions::parse(&set.uri()).expect("a connection string");
    options.allow_plain_without_tls = true;
    let builder: PoolsBuilder<B> = Pools::builder(options);
    let pools = builder
        .connector(Arc::new(OverSim(network.clone())))
        .event_handlers(commands.handlers())
        .oidc_callback(Arc::new(Tokens(AtomicUsize::new(0))))
        .build()
        .expect("pools");
    set.insert("db.c", [doc! { "x": 0 }]);
    let address = set.address(0);
    let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host);
    let host = host.to_owned();
    let world = World {
        set,
        pools,
        commands,
        network,
    };
    (world, host)
}

/// Claim 2: "Credentials without a user name never count as one user at a rotation".
async fn a_retryable_write_is_not_repeated_as_another_nameless_user<B: Backend<Config: Default>>() {
    for in_session in [false, true] {
        let (world, host) = with_tokens::<B>().await;
        let one = world.pools.with_credential(nameless(&[&host]));
        let one = one.expect("a handle");
        let lost = Matcher::command("insert").times(1);
        let lost = lost.then(Action::Delay(Duration::from_secs(1)));
        let lost = lost.then(Action::NoReply).then(Action::Close);
        world.set.server(0).script().add(lost);
        let session = one.start_session(SessionOptions::default());
        let mut session = session.expect("a session");
        let write = async {
            let write = doc! { "insert": "c", "documents": [{ "x": 1 }] };
            let write = one.command("db", &write).kind(OperationKind::Write);
            match in_session {
                true => write.session(&mut session).await.map(drop),
                false => write.await.map(drop),
            }
        };
        let rotates = async {
            let count = || world.set.server(0).look(|seen| seen.count("insert"));
            eventually("an insert", || count() == 1).await;
            one.rotate(nameless(&[&host, "other.example.net"]))
                .expect("another credential");
        };
        let (outcome, ()) = tokio::join!(write, rotates);
        let inserts = world.commands.of("insert");
        assert_eq!(inserts.len(), 1, "{inserts:?}: {outcome:?}");
        drop(session);
        // The next write is the new user's.
        let write = doc! { "insert": "c", "documents": [{ "x": 2 }] };
        let write = one.command("db", &write).kind(OperationKind::Write);
        write.await.map(drop).expect("a write");
        world.pools.close().await;
    }
}

async fn a_transaction_of_a_nameless_user_is_not_continued_by_another<
    B: Backend<Config: Default>,
>() {
    let (world, host) = with_tokens::<B>().await;
    let one = world.pools.with_credential(nameless(&[&host]));
    let one = one.expect("a handle");
    let mut session = begun_by(&one).await;
    one.rotate(nameless(&[&host, "other.example.net"]))
        .expect("another credential");
    let error = insert(&one, &mut session).await.expect_err("another user");
    assert!(error.has_label("TransientTransactionError"), "{error:?}");
    assert_eq!(world.commands.of("insert").len(), 1);
    drop(session);
    world.pools.close().await;
}

/// Claim 5: the read preference of the connection string does not apply within a transaction that
/// has another one. A mongos refuses one other than primary.
async fn a_transaction_has_its_own_read_preference_in_a_sharded_cluster<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::sharded(1, "readPreference=secondaryPreferred").await;
    let mut session = world.session();
    let primary = ReadPreference::new(ReadPreferenceMode::Primary);
    let options = TransactionOptions::default().with_read_preference(primary);
    session.start_transaction(options).expect("a transaction");
    let find = world.pools.command("db", &doc! { "find": "c" });
    let find = find.kind(OperationKind::Read).session(&mut session);
    find.await.map(drop).expect("a reply");
    let find = &world.commands.of("find")[0];
    assert!(find.contains_key("startTransaction"));
    assert!(!find.contains_key("$readPreference"), "{find}");
    session.abort_transaction().await.expect("an abort");
    drop(session);
    world.pools.close().await;
}

/// A tailable cursor whose calls have 3 s each, on a server that waits for a second and then sends an
/// empty batch, and after that one with a document.
pub(crate) async fn tailed<B: Backend>(world: &World<B>) -> Cursor<'_, B> {
    let second = Duration::from_secs(1);
    let cursor = doc! { "firstBatch": [], "id": 7_i64, "ns": "shop.orders" };
    let opened = Action::Reply(doc! { "ok": 1, "cursor": cursor });
    let cursor = doc! { "nextBatch": [], "id": 7_i64, "ns": "shop.orders" };
    let empty = Action::Reply(doc! { "ok": 1, "cursor": cursor });
    let cursor = doc! { "nextBatch": [{ "_id": 77 }], "id": 7_i64, "ns": "shop.orders" };
    let full = Action::Reply(doc! { "ok": 1, "cursor": cursor });
    let script = world.set.server(0).script();
    script.add(Matcher::command("find").then(opened));
    let waits = |matcher: Matcher| matcher.then(Action::Delay(second));
    script.add(waits(Matcher::command("getMore").times(1)).then(empty));
    script.add(waits(Matcher::command("getMore")).then(full));
    let find = doc! { "find": "orders", "tailable": true, "awaitData": true };
    let find = world.pools.command("shop", &find).kind(OperationKind::Read);
    let find = find
        .cursor_type(CursorType::TailableAwait)
        .max_await_time(second)
        .timeout(second * 3);
    find.cursor().await.expect("a cursor")
}

/// Claim 3: each call of a tailable cursor has its own time, also after a call that was cancelled.
async fn a_cancelled_call_leaves_the_next_one_its_time<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let second = Duration::from_secs(1);
    let mut orders = tailed(&world).await;
    let first = timeout(second / 2, orders.next_document()).await;
    assert!(first.is_err(), "the server waits");
    // The caller is busy for longer than the limit of one call.
    sleep(second * 5).await;
    let next = orders.next_document().await;
    let next = next.expect("each call has 3 s").map(|own| own.to_owned());
    assert_eq!(next.expect("a document").get_i32("_id").ok(), Some(77));
    drop(orders);
    world.pools.close().await;
}

/// A document of these elements, which need not be well-formed.
pub(crate) fn garbage(elements: &[&[u8]]) -> RawDocumentBuf {
    let mut bytes = vec![0; 4];
    elements.iter().for_each(|own| bytes.extend_from_slice(own));
    bytes.push(0);
    let length = i32::try_from(bytes.len()).expect("short");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    RawDocumentBuf::from_bytes(bytes).expect("its length and its end are right")
}

pub(crate) const PING: &[u8] = b"\x10ping\0\x01\0\0\0";

async fn malformed_commands_lose_nothing<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("w=majority&readConcernLevel=majority").await;
    world.ping().await.expect("a reply");
    let cases: Vec<RawDocumentBuf> = vec![
        garbage(&[b"\x10\xff\xfe\0\x01\0\0\0"]),
        garbage(&[PING, b"\x10\xff\0\x01\0\0\0"]),
        garbage(&[
            PING,
            b"\x03readConcern\0\x05\0\0\0\0",
            b"\x10\xff\0\x01\0\0\0",
        ]),
        garbage(&[PING, b"\x03readConcern\0\x0b\0\0\0\x10\xff\0\x01\0\0\0"]),
        garbage(&[PING, b"\x03readConcern\0\xff\xff\xff\x7f"]),
        garbage(&[PING, b"\x02a\0\0\0\0\0"]),
        garbage(&[PING, b"\x02a\0\xff\xff\xff\xff"]),
        garbage(&[PING, b"\x02a\0\x02\0\0\0\xff\0"]),
        garbage(&[PING, b"\x02a\0\x02\0\0\0zz"]),
        garbage(&[PING, b"\x03a\0\xff\xff\xff\x7f"]),
        garbage(&[PING, b"\x03a\0\x04\0\0\0"]),
        garbage(&[PING, b"\x03a\0\x08\0\0\0zzzz"]),
        garbage(&[PING, b"\x20a\0"]),
        garbage(&[PING, b"\0\0\0"]),
        garbage(&[b"\0", PING]),
        garbage(&[PING, b"\x10a"]),
        garbage(&[PING, b"\x0fa\0\x0e\0\0\0\xff\xff\xff\x7f"]),
        garbage(&[PING, b"\x05a\0\xff\xff\xff\xff\0"]),
        garbage(&[PING, b"\x0ba\0aaaa"]),
        garbage(&[PING, b"\x10lsid\xff\0\x01\0\0\0"]),
        garbage(&[b"\x02\0\x01\0\0\0\0"]),
    ];
    let mut session = world.session();
    for (number, case) in cases.iter().enumerate() {
        for kind in [
            OperationKind::Command,
            OperationKind::Read,
            OperationKind::Write,
        ] {
            let _ = world.pools.command("db", case).kind(kind).await.map(drop);
            let own = world.pools.command("db", case).kind(kind);
            let _ = own.session(&mut session).await.map(drop);
            let own = world.pools.command("db", case).kind(kind);
            let _ = own.cursor().await.map(drop);
            let connection = world.pools.get().await;
            let mut connection = connection.unwrap_or_else(|error| panic!("{number}: {error}"));
            let _ = connection.command("db", case).kind(kind).await.map(drop);
            let _ = connection.run_command("db", case).await.map(drop);
        }
        session
            .start_transaction(TransactionOptions::default())
            .expect("a transaction");
        let own = world.pools.command("db", case);
        let _ = own.session(&mut session).await.map(drop);
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
            session
                .start_transaction(TransactionOptions::default())
                .expect("a transaction");
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

/// Claim 3: every cursor that the client knows of is closed on the server.
async fn a_cursor_of_a_transaction_behind_a_balancer_is_closed<B: Backend<Config: Default>>() {
    let world = crate::support::behind_a_balancer::<B>("").await;
    let mut session = world.session();
    session
        .start_transaction(TransactionOptions::default())
        .expect("a transaction");
    let find = world.pools.command("shop", &crate::support::find());
    let find = find.kind(OperationKind::Read).session(&mut session);
    let cursor = find.cursor().await.expect("a cursor");
    assert!(cursor.id() != 0);
    drop(cursor);
    session.commit_transaction().await.expect("a commit");
    drop(session);
    sleep(Duration::from_secs(15)).await;
    assert_eq!(world.set.server(0).open_cursors(), 0);
    world.pools.close().await;
}

/// `Request::prepare`: "The options contradict the session. Its state has not changed then."
async fn a_command_that_could_not_be_prepared_does_not_start_the_transaction<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    session
        .start_transaction(TransactionOptions::default())
        .expect("a transaction");
    let mut odd = ReadPreference::new(ReadPreferenceMode::Secondary);
    odd.tag_sets = vec![[("a\0b".to_owned(), "c".to_owned())].into()];
    let write = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let write = world.pools.command("db", &write).kind(OperationKind::Write);
    let write = write.read_preference(odd).session(&mut session);
    write.await.map(drop).expect_err("a NUL in a name");
    assert!(world.commands.of("insert").is_empty());
    insert(&world.pools, &mut session).await.expect("a write");
    let first = &world.commands.of("insert")[0];
    assert!(first.contains_key("startTransaction"), "{first}");
    session.commit_transaction().await.expect("a commit");
    drop(session);
    world.pools.close().await;
}

/// Claim 4: `with_transaction` ends within its limit, and does not keep its thread busy.
#[test]
fn a_commit_without_compatible_servers_yields() {
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let world = World::<mongo_deadpool::Pool>::replica_set("").await;
            let mut session = world.session();
            let (world, second) = (&world, Duration::from_secs(1));
            let committed = session
                .with_transaction(TransactionOptions::default(), async |session| {
                    insert(&world.pools, session).await?;
                    (0..3).for_each(|server| world.set.upgrade(server, 1000, 1001));
                    sleep(second * 30).await;
                    Ok(())
                })
                .await;
            drop(sender.send(format!("{committed:?}")));
        });
    });
    let ended = ended.recv_timeout(Duration::from_secs(20));
    let ended = ended.expect("it loops without a pause, and never gives its thread away");
    eprintln!("{ended}");
}
