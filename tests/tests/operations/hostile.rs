//! Attempts to break what cursors on connections, rotations and waiters promise.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::Result;
use mongo_core::auth::Credential;
use mongo_core::bson::{Document, doc};
use mongo_core::net::CredentialProvider;
use mongo_core::operation::{OperationKind, SessionOptions, TimeoutMode, TransactionOptions};
use mongo_core::pools::{Backend, Pools, PoolsConfig, Session};
use mongo_testkit::{Action, Deployment, ErrorReply, Matcher, User};
use tokio::time::{sleep, timeout};

use crate::support::{World, begun_by, credential, eventually, insert, with_orders, with_users_of};

on_both! {
    a_cursor_closed_after_its_connection_broke_is_closed_on_the_server,
    an_exhaust_cursor_closed_after_its_connection_broke_is_closed_on_the_server,
    an_exhaust_cursor_closed_after_a_time_out_is_closed_on_the_server,
    a_cursor_closed_after_a_time_out_is_closed_on_the_server,
    an_exhaust_getmore_reauthenticates,
    a_stream_that_goes_on_after_its_cursor_ended_is_not_read,
    a_transaction_does_not_mix_users_of_one_name,
    a_retryable_write_is_not_repeated_as_another_user,
    a_retryable_write_in_a_session_is_not_repeated_as_another_user,
    a_retryable_write_is_not_repeated_as_another_user_of_a_provider,
    commits_of_unknown_result_end,
    a_first_document_of_another_type_closes_its_cursor,
    a_compressed_stream_is_read,
    any_number_may_be_the_code_of_a_duplicate_key,
    a_time_out_in_a_stream_closes_its_connection,
    a_retried_write_follows_no_user_of_one_name,
    a_committed_transaction_is_not_run_again_as_another_user_of_one_name,
    a_stream_in_a_transaction_that_breaks_is_labelled,
    a_cleared_pool_ends_a_stream,
    a_closing_of_pools_ends_a_stream,
}

async fn kills<B: Backend>(world: &World<B>) {
    let kills = || world.set.server(0).look(|seen| seen.count("killCursors"));
    eventually("killCursors", || kills() == 1).await;
}

async fn closed_after_a_break<B: Backend<Config: Default>>(exhaust: bool) {
    let world = with_orders::<B>().await;
    let broken = Matcher::command("getMore").times(1).drop_connection();
    world.set.server(0).script().add(broken);
    let mut connection = world.pools.get().await.expect("a connection");
    let find = connection.command("shop", &doc! { "find": "orders", "batchSize": 2 });
    let find = if exhaust { find.exhaust() } else { find };
    let mut cursor = find.cursor().await.expect("a cursor");
    for _ in 0..2 {
        cursor.next::<Document>().await.expect("a batch");
    }
    cursor.next::<Document>().await.expect_err("broken");
    cursor.close().await;
    drop(connection);
    kills(&world).await;
    assert_eq!(world.set.server(0).open_cursors(), 0);
    world.pools.close().await;
}

async fn a_cursor_closed_after_its_connection_broke_is_closed_on_the_server<
    B: Backend<Config: Default>,
>() {
    closed_after_a_break::<B>(false).await;
}

async fn an_exhaust_cursor_closed_after_its_connection_broke_is_closed_on_the_server<
    B: Backend<Config: Default>,
>() {
    closed_after_a_break::<B>(true).await;
}

async fn closed_after_a_time_out<B: Backend<Config: Default>>(exhaust: bool) {
    let world = with_orders::<B>().await;
    let late = Matcher::command("getMore").times(1);
    let late = late.then(Action::Delay(Duration::from_secs(5)));
    world.set.server(0).script().add(late);
    let mut connection = world.pools.get().await.expect("a connection");
    let find = connection.command("shop", &doc! { "find": "orders", "batchSize": 2 });
    let find = find.timeout(Duration::from_secs(1));
    let find = find.timeout_mode(TimeoutMode::Iteration);
    let find = if exhaust { find.exhaust() } else { find };
    let mut cursor = find.cursor().await.expect("a cursor");
    for _ in 0..2 {
        cursor.next::<Document>().await.expect("a batch");
    }
    cursor.next::<Document>().await.expect_err("late");
    cursor.close().await;
    drop(connection);
    kills(&world).await;
    world.pools.close().await;
}

async fn an_exhaust_cursor_closed_after_a_time_out_is_closed_on_the_server<
    B: Backend<Config: Default>,
>() {
    closed_after_a_time_out::<B>(true).await;
}

async fn a_cursor_closed_after_a_time_out_is_closed_on_the_server<B: Backend<Config: Default>>() {
    closed_after_a_time_out::<B>(false).await;
}

async fn an_exhaust_getmore_reauthenticates<B: Backend<Config: Default>>() {
    for exhaust in [false, true] {
        let one = Deployment::replica_set("rs").members(1);
        let (world, pools) = with_users_of::<B>(one, "", PoolsConfig::default()).await;
        let orders = (0..4).map(|id| doc! { "_id": id });
        world.set.insert("shop.orders", orders);
        let required = ErrorReply::new(391, "ReauthenticationRequired", "expired");
        let refused = Matcher::command("getMore").times(1);
        let refused = refused.then(Action::Error(required));
        world.set.server(0).script().add(refused);
        let mut connection = pools.get().await.expect("a connection");
        let find = connection.command("shop", &doc! { "find": "orders", "batchSize": 2 });
        let find = if exhaust { find.exhaust() } else { find };
        let mut cursor = find.cursor().await.expect("a cursor");
        for _ in 0..4 {
            let next = cursor.next::<Document>().await;
            next.unwrap_or_else(|error| panic!("exhaust {exhaust}: {error}"));
        }
        drop(cursor);
        drop(connection);
        world.pools.close().await;
    }
}

async fn a_stream_that_goes_on_after_its_cursor_ended_is_not_read<B: Backend<Config: Default>>() {
    let batch = |id: i64| {
        let cursor = doc! { "nextBatch": [{ "_id": 5 }], "id": id, "ns": "shop.orders" };
        doc! { "ok": 1, "cursor": cursor }
    };
    let not_found = doc! { "ok": 0, "code": 43, "codeName": "CursorNotFound", "errmsg": "gone" };
    let other = doc! { "ok": 0, "code": 50, "codeName": "MaxTimeMSExpired", "errmsg": "late" };
    for middle in [
        batch(0),
        not_found,
        other,
        batch(77),
        doc! { "ok": 1 },
        doc! {},
    ] {
        let world = with_orders::<B>().await;
        let replies = vec![batch(1), middle.clone(), batch(1), batch(0)];
        let stream = Action::Stream(replies, Duration::from_millis(20));
        let rule = Matcher::command("getMore").times(1).then(stream);
        world.set.server(0).script().add(rule);
        let mut connection = world.pools.get().await.expect("a connection");
        let id = connection.id();
        let find = connection.command("shop", &doc! { "find": "orders", "batchSize": 2 });
        let mut cursor = find.exhaust().cursor().await.expect("a cursor");
        for _ in 0..3 {
            let next = cursor.next::<Document>().await.expect("a document");
            assert!(next.is_some());
        }
        let _ = cursor.next::<Document>().await;
        drop(cursor);
        // In the middle of the stream.
        let ping = connection.run_command("db", &doc! { "ping": 1 }).await;
        assert!(ping.is_err(), "{middle}");
        assert!(connection.is_closed(), "{middle}");
        drop(connection);
        let mut connection = world.pools.get().await.expect("a connection");
        assert_ne!(connection.id(), id);
        let ping = connection.run_command("db", &doc! { "ping": 1 }).await;
        assert!(
            ping.expect("a reply")
                .get("cursor")
                .ok()
                .flatten()
                .is_none()
        );
        drop(connection);
        eventually("none in use", || world.in_use() == 0).await;
        world.pools.close().await;
    }
}

/// Gives the user that is set.
struct Vault(Mutex<Credential>);

#[async_trait]
impl CredentialProvider for Vault {
    async fn credential(&self) -> Result<Arc<Credential>> {
        Ok(Arc::new(self.0.lock().expect("no panic").clone()))
    }
}

async fn with_vault<B: Backend<Config: Default>>() -> (World<B>, Arc<Vault>, Pools<B>) {
    let one = Deployment::replica_set("rs").members(1);
    let one = one.user(User::new("one", "first").database("tenants"));
    let (world, _) = with_users_of::<B>(one, "", PoolsConfig::default()).await;
    world.set.insert("db.c", [doc! { "x": 0 }]);
    let vault = Arc::new(Vault(Mutex::new(credential("one", "first"))));
    let pools = world.pools.with_credential_provider(vault.clone());
    let pools = pools.expect("a handle");
    (world, vault, pools)
}

async fn a_transaction_does_not_mix_users_of_one_name<B: Backend<Config: Default>>() {
    let (world, vault, pools) = with_vault::<B>().await;
    let mut session = begun_by(&pools).await;
    let held = pools.get().await.expect("the first connection");
    *vault.0.lock().expect("no panic") = Credential::new("one", "first").with_source("tenants");
    let outcome = insert(&pools, &mut session).await;
    let inserts = world.commands.of("insert").len();
    assert!(
        outcome.is_err() && inserts == 1,
        "{inserts} inserts, {:?}: {outcome:?}",
        self::inserts(&world)
    );
    drop((held, session));
    world.pools.close().await;
}

/// The users of the connections that the inserts came over, with their sessions and numbers.
fn inserts<B: Backend>(world: &World<B>) -> Vec<(Option<String>, Option<Document>, Option<i64>)> {
    world.set.server(0).look(|seen| {
        let inserts = seen.commands("insert").map(|own| {
            let user = seen.connections[&own.connection].user.clone();
            let lsid = own.command.get_document("lsid").ok().cloned();
            (user, lsid, own.command.get_i64("txnNumber").ok())
        });
        inserts.collect()
    })
}

fn lost<B: Backend>(world: &World<B>, command: &str) {
    let lost = Matcher::command(command).times(1);
    let lost = lost.then(Action::Delay(Duration::from_secs(1)));
    let lost = lost.then(Action::NoReply).then(Action::Close);
    world.set.server(0).script().add(lost);
}

async fn repeated_as_another<B: Backend<Config: Default>>(in_session: bool) {
    let one = Deployment::replica_set("rs").members(1);
    let (world, pools) = with_users_of::<B>(one, "", PoolsConfig::default()).await;
    world.set.insert("db.c", [doc! { "x": 0 }]);
    lost(&world, "insert");
    let mut session = pools
        .start_session(SessionOptions::default())
        .expect("a session");
    let write = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let write = pools.command("db", &write).kind(OperationKind::Write);
    let write = async {
        match in_session {
            true => write.session(&mut session).await.map(drop),
            false => write.await.map(drop),
        }
    };
    let rotates = async {
        sleep(Duration::from_millis(500)).await;
        pools.rotate(credential("two", "second")).expect("a user");
    };
    let (written, ()) = tokio::join!(write, rotates);
    let inserts = inserts(&world);
    let documents = world.set.documents("db.c").len() - 1;
    assert_eq!(
        inserts.len(),
        1,
        "{inserts:?}, {documents} documents: {written:?}"
    );
    drop(session);
    world.pools.close().await;
}

async fn a_retryable_write_is_not_repeated_as_another_user<B: Backend<Config: Default>>() {
    repeated_as_another::<B>(false).await;
}

async fn a_retryable_write_in_a_session_is_not_repeated_as_another_user<
    B: Backend<Config: Default>,
>() {
    repeated_as_another::<B>(true).await;
}

async fn a_retryable_write_is_not_repeated_as_another_user_of_a_provider<
    B: Backend<Config: Default>,
>() {
    let (world, vault, pools) = with_vault::<B>().await;
    lost(&world, "insert");
    let write = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let write = async {
        pools
            .command("db", &write)
            .kind(OperationKind::Write)
            .await
            .map(drop)
    };
    let changes = async {
        sleep(Duration::from_millis(500)).await;
        *vault.0.lock().expect("no panic") = credential("two", "second");
    };
    let (written, ()) = tokio::join!(write, changes);
    let inserts = inserts(&world);
    let documents = world.set.documents("db.c").len() - 1;
    assert_eq!(
        inserts.len(),
        1,
        "{inserts:?}, {documents} documents: {written:?}"
    );
    world.pools.close().await;
}

async fn commits_of_unknown_result_end<B: Backend<Config: Default>>() {
    let limit = Duration::from_secs(3);
    let world = World::<B>::replica_set("").await;
    world.set.insert("db.c", [doc! { "x": 0 }]);
    let unknown = Action::write_concern_error(64, "WriteConcernTimeout", "late");
    let rule = Matcher::command("commitTransaction").then(unknown);
    world.set.server(0).script().add(rule);
    let mut session = world.session();
    let pools = &world.pools;
    let run = async |session: &mut Session<B>| insert(pools, session).await;
    let begun = tokio::time::Instant::now();
    let options = TransactionOptions::default();
    let done = session.with_transaction_by(limit, options, run).await;
    done.expect_err("unknown");
    let bound = limit + Duration::from_secs(1);
    assert!(begun.elapsed() <= bound, "{:?}", begun.elapsed());
    drop(session);
    world.pools.close().await;
}

async fn a_first_document_of_another_type_closes_its_cursor<B: Backend<Config: Default>>() {
    #[derive(Debug, serde::Deserialize)]
    struct Other {
        #[expect(dead_code, reason = "only its absence counts")]
        missing: String,
    }
    let world = with_orders::<B>().await;
    let find = doc! { "find": "orders", "batchSize": 2 };
    let first = world.pools.command("shop", &find).first::<Other>().await;
    first.expect_err("another type");
    let mut connection = world.pools.get().await.expect("a connection");
    let first = connection
        .command("shop", &find)
        .exhaust()
        .first::<Other>()
        .await;
    first.expect_err("another type");
    drop(connection);
    let open = || world.set.server(0).open_cursors();
    eventually("no cursor", || open() == 0).await;
    let empty = doc! { "find": "orders", "batchSize": 0 };
    let first = world
        .pools
        .command("shop", &empty)
        .first::<Document>()
        .await;
    assert!(first.expect("a document").is_some());
    assert_eq!(open(), 0);
    let mut connection = world.pools.get().await.expect("a connection");
    let first = connection
        .command("shop", &empty)
        .exhaust()
        .first::<Document>();
    assert!(first.await.expect("a document").is_some());
    assert_eq!(open(), 0);
    drop(connection);
    world.pools.close().await;
}

async fn a_compressed_stream_is_read<B: Backend<Config: Default>>() {
    for compressor in ["zlib", "snappy", "zstd"] {
        let world = World::<B>::replica_set(&format!("compressors={compressor}")).await;
        let orders = (0..10).map(|id| doc! { "_id": id });
        world.set.insert("shop.orders", orders);
        let batch = |id: i64, number: i32| {
            let text = "x".repeat(300_000);
            let cursor = doc! { "nextBatch": [{ "_id": number, "t": text }], "id": id };
            doc! { "ok": 1, "cursor": cursor }
        };
        let replies = (2..40).map(|own| batch(i64::from(own < 39), own)).collect();
        let rule = Matcher::command("getMore").then(Action::Stream(replies, Duration::ZERO));
        world.set.server(0).script().add(rule);
        let mut connection = world.pools.get().await.expect("a connection");
        let find = doc! { "find": "orders", "batchSize": 2, "sort": { "_id": 1 } };
        let find = connection.command("shop", &find).exhaust();
        let mut cursor = find.cursor().await.expect("a cursor");
        for expected in 0..40 {
            let next = cursor.next::<Document>().await.expect("a batch");
            let next = next.expect("a document");
            assert_eq!(next.get_i32("_id").ok(), Some(expected));
        }
        assert!(cursor.next::<Document>().await.expect("an end").is_none());
        drop(cursor);
        assert!(!connection.is_closed());
        drop(connection);
        world.pools.close().await;
    }
}

async fn any_number_may_be_the_code_of_a_duplicate_key<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let codes = [
        mongo_core::bson::Bson::Int32(11000),
        mongo_core::bson::Bson::Int64(11000),
        mongo_core::bson::Bson::Double(11000.0),
    ];
    for code in codes {
        for is_second in [false, true] {
            let mut errors = vec![doc! { "index": 1, "code": code.clone(), "errmsg": "dup" }];
            if is_second {
                errors.insert(0, doc! { "index": 0, "code": 121, "errmsg": "invalid" });
            }
            let reply = doc! { "ok": 1, "n": 0, "writeErrors": errors };
            let rule = Matcher::command("insert")
                .times(1)
                .then(Action::Reply(reply));
            world.set.server(0).script().add(rule);
            let mut session = world.session();
            let error = insert(&world.pools, &mut session)
                .await
                .expect_err("refused");
            assert!(
                error.is_duplicate_key(),
                "{code:?}, second {is_second}: {error:?}"
            );
        }
    }
    world.pools.close().await;
}

async fn a_time_out_in_a_stream_closes_its_connection<B: Backend<Config: Default>>() {
    for is_balanced in [false, true] {
        let world = match is_balanced {
            false => with_orders::<B>().await,
            true => crate::support::behind_a_balancer::<B>("").await,
        };
        let batch = |id: i64| {
            let cursor = doc! { "nextBatch": [{ "_id": 5 }], "id": id, "ns": "shop.orders" };
            doc! { "ok": 1, "cursor": cursor }
        };
        let stream = Action::Stream(vec![batch(1), batch(1), batch(0)], Duration::from_secs(3));
        world
            .set
            .server(0)
            .script()
            .add(Matcher::command("getMore").then(stream));
        for closes in [false, true] {
            let mut connection = world.pools.get().await.expect("a connection");
            let find = connection.command("shop", &doc! { "find": "orders", "batchSize": 2 });
            let find = find
                .timeout(Duration::from_secs(1))
                .timeout_mode(TimeoutMode::Iteration);
            let mut cursor = find.exhaust().cursor().await.expect("a cursor");
            for _ in 0..3 {
                cursor.next::<Document>().await.expect("a document");
            }
            cursor.next::<Document>().await.expect_err("late");
            match closes {
                true => cursor.close().await,
                false => drop(cursor),
            }
            assert!(connection.is_closed());
            drop(connection);
            assert_eq!(world.in_use(), 0);
        }
        world.pools.close().await;
    }
}

async fn a_retried_write_follows_no_user_of_one_name<B: Backend<Config: Default>>() {
    let (world, vault, pools) = with_vault::<B>().await;
    lost(&world, "insert");
    let write = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let write = async {
        let write = pools.command("db", &write).kind(OperationKind::Write);
        write.await.map(drop)
    };
    let changes = async {
        sleep(Duration::from_millis(500)).await;
        let other = Credential::new("one", "first").with_source("tenants");
        *vault.0.lock().expect("no panic") = other;
    };
    let (written, ()) = tokio::join!(write, changes);
    let inserts = inserts(&world);
    assert_eq!(inserts.len(), 1, "{inserts:?}: {written:?}");
    world.pools.close().await;
}

async fn a_committed_transaction_is_not_run_again_as_another_user_of_one_name<
    B: Backend<Config: Default>,
>() {
    let (world, vault, pools) = with_vault::<B>().await;
    lost(&world, "commitTransaction");
    let session = pools.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    let mut runs = 0;
    let (own, count) = (&pools, &mut runs);
    let run = async |session: &mut Session<B>| {
        *count += 1;
        insert(own, session).await
    };
    let transaction = session.with_transaction(TransactionOptions::default(), run);
    let changes = async {
        sleep(Duration::from_millis(500)).await;
        let other = Credential::new("one", "first").with_source("tenants");
        *vault.0.lock().expect("no panic") = other;
    };
    let (done, ()) = tokio::join!(transaction, changes);
    let documents = world.set.documents("db.c").len() - 1;
    assert_eq!((runs, documents), (1, 1), "{done:?}");
    drop(session);
    world.pools.close().await;
}

async fn a_stream_in_a_transaction_that_breaks_is_labelled<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let batch = |id: i64| {
        let cursor = doc! { "nextBatch": [{ "_id": 5 }], "id": id, "ns": "shop.orders" };
        doc! { "ok": 1, "cursor": cursor }
    };
    let stream = Action::Stream(vec![batch(1); 50], Duration::from_millis(10));
    world
        .set
        .server(0)
        .script()
        .add(Matcher::command("getMore").then(stream));
    let mut connection = world.pools.get().await.expect("a connection");
    let mut session = connection
        .start_session(SessionOptions::default())
        .expect("a session");
    session
        .start_transaction(TransactionOptions::default())
        .expect("a transaction");
    let find = doc! { "find": "orders", "batchSize": 2 };
    let find = connection
        .command("shop", &find)
        .session(&mut session)
        .exhaust();
    let mut cursor = find.cursor().await.expect("a cursor");
    for _ in 0..3 {
        cursor.next::<Document>().await.expect("a document");
    }
    cursor.close().await;
    let error = connection
        .commit_transaction(&mut session)
        .await
        .expect_err("closed");
    assert!(!error.has_label("TransientTransactionError"), "{error:?}");
    drop(connection);
    let mut connection = world.pools.get().await.expect("a connection");
    let _ = connection.commit_transaction(&mut session).await;
    drop((connection, session));
    eventually("no transaction", || {
        world.set.server(0).open_transactions() == 0
    })
    .await;
    world.pools.close().await;
}

async fn a_cleared_pool_ends_a_stream<B: Backend<Config: Default>>() {
    for interrupts in [false, true] {
        let world = with_orders::<B>().await;
        let batch = |id: i64| {
            let cursor = doc! { "nextBatch": [{ "_id": 5 }], "id": id, "ns": "shop.orders" };
            doc! { "ok": 1, "cursor": cursor }
        };
        let stream = Action::Stream(vec![batch(1); 50], Duration::from_millis(10));
        world
            .set
            .server(0)
            .script()
            .add(Matcher::command("getMore").then(stream));
        let mut connection = world.pools.get().await.expect("a connection");
        let pool = world.pools.for_server(connection.server()).expect("a pool");
        let id = connection.id();
        let find = doc! { "find": "orders", "batchSize": 2 };
        let mut cursor = connection
            .command("shop", &find)
            .exhaust()
            .cursor()
            .await
            .expect("one");
        for _ in 0..3 {
            cursor.next::<Document>().await.expect("a document");
        }
        pool.clear(interrupts);
        let next = cursor.next::<Document>().await;
        assert!(!interrupts || next.is_err(), "{next:?}");
        cursor.close().await;
        assert!(connection.is_closed());
        drop(connection);
        pool.ready();
        let connection = world.pools.get().await.expect("a connection");
        assert_ne!(connection.id(), id);
        drop(connection);
        let kills = || world.set.server(0).look(|seen| seen.count("killCursors"));
        eventually("killCursors", || kills() >= 1).await;
        world.pools.close().await;
    }
}

async fn a_closing_of_pools_ends_a_stream<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let batch = |id: i64| {
        let cursor = doc! { "nextBatch": [{ "_id": 5 }], "id": id, "ns": "shop.orders" };
        doc! { "ok": 1, "cursor": cursor }
    };
    let stream = Action::Stream(vec![batch(1); 10_000], Duration::from_millis(100));
    world
        .set
        .server(0)
        .script()
        .add(Matcher::command("getMore").then(stream));
    let mut connection = world.pools.get().await.expect("a connection");
    let reads = async {
        let find = doc! { "find": "orders", "batchSize": 2 };
        let mut cursor = connection
            .command("shop", &find)
            .exhaust()
            .cursor()
            .await
            .expect("one");
        while let Ok(Some(_)) = cursor.next::<Document>().await {}
        cursor.close().await;
        drop(connection);
    };
    let closes = async {
        sleep(Duration::from_millis(500)).await;
        timeout(Duration::from_secs(15), world.pools.close())
            .await
            .expect("in time");
    };
    timeout(Duration::from_secs(30), async {
        tokio::join!(reads, closes)
    })
    .await
    .expect("an end");
    assert_eq!(world.in_use(), 0);
}
