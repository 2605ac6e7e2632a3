//! Streams of batches that break, or that their reader leaves.

use std::time::Duration;

use mongo_core::bson::{Document, doc};
use mongo_core::operation::{
    SessionOptions, TimeoutMode, TransactionOptions, UNKNOWN_COMMIT_RESULT,
};
use mongo_core::pools::Backend;
use mongo_testkit::{Action, Matcher};
use tokio::time::timeout;

use crate::exhaust::{batch, open, reads, stream};
use crate::support::{behind_a_balancer, eventually, no_transaction, with_orders};

on_both! {
    a_stream_that_goes_on_after_its_cursor_ended_is_not_read,
    a_time_out_in_a_stream_closes_its_connection,
    a_commit_after_a_closed_stream_can_be_repeated,
    a_cleared_pool_ends_a_stream,
    a_closing_of_pools_ends_a_stream,
}

async fn a_stream_that_goes_on_after_its_cursor_ended_is_not_read<B: Backend<Config: Default>>() {
    let not_found = doc! { "ok": 0, "code": 43, "codeName": "CursorNotFound", "errmsg": "gone" };
    let late = doc! { "ok": 0, "code": 50, "codeName": "MaxTimeMSExpired", "errmsg": "late" };
    let mut of_another = batch(2, false);
    let cursor = of_another.get_document_mut("cursor").expect("a cursor");
    cursor.insert("id", 77_i64);
    for middle in [
        batch(2, true),
        not_found,
        late,
        of_another,
        doc! { "ok": 1 },
        doc! {},
    ] {
        let world = with_orders::<B>().await;
        let replies = vec![
            batch(1, false),
            middle.clone(),
            batch(3, false),
            batch(4, true),
        ];
        let stream = Action::Stream(replies, Duration::from_millis(20));
        let rule = Matcher::command("getMore").times(1).then(stream);
        world.set.server(0).script().add(rule);
        let mut connection = world.pools.get().await.expect("a connection");
        let id = connection.id();
        let mut cursor = open(&mut connection).await;
        reads(&mut cursor, 4).await;
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
        let reply = ping.expect("a reply");
        assert!(reply.get("cursor").is_ok_and(|cursor| cursor.is_none()));
        drop(connection);
        eventually("none in use", || world.in_use() == 0).await;
        world.pools.close().await;
    }
}

async fn a_time_out_in_a_stream_closes_its_connection<B: Backend<Config: Default>>() {
    for is_balanced in [false, true] {
        let world = match is_balanced {
            false => with_orders::<B>().await,
            true => behind_a_balancer::<B>("").await,
        };
        stream(&world, 3, Duration::from_secs(3));
        for closes in [false, true] {
            let mut connection = world.pools.get().await.expect("a connection");
            let find = connection.command("shop", &doc! { "find": "orders", "batchSize": 2 });
            let find = find.timeout(Duration::from_secs(1));
            let find = find.timeout_mode(TimeoutMode::Iteration);
            let mut cursor = find.exhaust().cursor().await.expect("a cursor");
            for _ in 0..4 {
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

async fn a_commit_after_a_closed_stream_can_be_repeated<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    stream(&world, 50, Duration::from_millis(10));
    let mut connection = world.pools.get().await.expect("a connection");
    let session = connection.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    session
        .start_transaction(TransactionOptions::default())
        .expect("a transaction");
    let find = connection.command("shop", &doc! { "find": "orders", "batchSize": 2 });
    let find = find.session(&mut session).exhaust();
    let mut cursor = find.cursor().await.expect("a cursor");
    for _ in 0..3 {
        cursor.next::<Document>().await.expect("a document");
    }
    cursor.close().await;
    let committed = connection.commit_transaction(&mut session).await;
    let error = committed.expect_err("closed");
    assert_eq!(Vec::from_iter(error.labels()), [UNKNOWN_COMMIT_RESULT]);
    drop(connection);
    let mut connection = world.pools.get().await.expect("a connection");
    let committed = connection.commit_transaction(&mut session).await;
    committed.expect("a commit");
    drop((connection, session));
    no_transaction(&world).await;
    world.pools.close().await;
}

async fn a_cleared_pool_ends_a_stream<B: Backend<Config: Default>>() {
    for interrupts in [false, true] {
        let world = with_orders::<B>().await;
        stream(&world, 50, Duration::from_millis(10));
        let mut connection = world.pools.get().await.expect("a connection");
        let pool = world.pools.for_server(connection.server()).expect("a pool");
        let id = connection.id();
        let mut cursor = open(&mut connection).await;
        reads(&mut cursor, 4).await;
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
    stream(&world, 10_000, Duration::from_millis(100));
    let mut connection = world.pools.get().await.expect("a connection");
    let reads = async {
        let mut cursor = open(&mut connection).await;
        while let Ok(Some(_)) = cursor.next::<Document>().await {}
        cursor.close().await;
        drop(connection);
    };
    let closes = async {
        let streams = || world.set.server(0).look(|seen| seen.count("getMore"));
        eventually("a stream", || streams() == 1).await;
        let closed = timeout(Duration::from_secs(15), world.pools.close()).await;
        closed.expect("in time");
    };
    let both = async { tokio::join!(reads, closes) };
    let ended = timeout(Duration::from_secs(30), both).await;
    ended.expect("an end");
    assert_eq!(world.in_use(), 0);
}
