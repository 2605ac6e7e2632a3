//! Cursors whose batches the server streams (`exhaustAllowed`, `moreToCome`).

use std::time::Duration;

use mongo_core::bson::{Document, doc};
use mongo_core::net::{Connection, ConnectionCursor};
use mongo_core::pools::Backend;
use mongo_testkit::{Action, Matcher};
use tokio::time::timeout;

use crate::support::{World, behind_a_balancer, eventually, find, with_orders};

on_both! {
    the_server_streams_batches,
    a_compressed_stream_is_read,
    a_stream_that_is_dropped_closes_its_connection,
    a_stream_that_is_closed_closes_its_connection,
    a_server_without_streams_answers_each_getmore,
    a_cancelled_call_loses_nothing_of_a_stream,
    an_error_ends_a_stream,
    a_balancer_s_stream_is_closed_with_its_connection,
}

/// A reply to `getMore`: a batch of two, and whether it is the last.
pub(crate) fn batch(number: i32, is_last: bool) -> Document {
    let id = if is_last { 0 } else { 1_i64 };
    let batch = [doc! { "_id": 2 * number }, doc! { "_id": 2 * number + 1 }];
    let cursor = doc! { "nextBatch": &batch[..], "id": id, "ns": "shop.orders" };
    doc! { "ok": 1, "cursor": cursor }
}

/// Answers `getMore` by so many batches, from the third document on, with a pause between them.
pub(crate) fn stream<B: Backend>(world: &World<B>, batches: i32, pause: Duration) {
    let replies = (1..=batches).map(|number| batch(number, number == batches));
    let stream = Action::Stream(replies.collect(), pause);
    let rule = Matcher::command("getMore").then(stream);
    world.set.server(0).script().add(rule);
}

pub(crate) async fn open(connection: &mut Connection) -> ConnectionCursor<'_> {
    let find = doc! { "find": "orders", "batchSize": 2, "sort": { "_id": 1 } };
    let find = connection.command("shop", &find).exhaust();
    find.cursor().await.expect("a cursor")
}

async fn next(cursor: &mut ConnectionCursor<'_>) -> Option<i32> {
    let next = cursor.next::<Document>().await.expect("a batch");
    next.map(|own| own.get_i32("_id").expect("a number"))
}

/// Reads so many documents, from the first one on.
pub(crate) async fn reads(cursor: &mut ConnectionCursor<'_>, count: i32) {
    for expected in 0..count {
        assert_eq!(next(cursor).await, Some(expected));
    }
}

async fn one_kill<B: Backend>(world: &World<B>) {
    let kills = || world.commands.of("killCursors").len();
    eventually("killCursors", || kills() == 1).await;
}

async fn the_server_streams_batches<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    stream(&world, 5, Duration::ZERO);
    let mut connection = world.pools.get().await.expect("a connection");
    let mut cursor = open(&mut connection).await;
    reads(&mut cursor, 12).await;
    assert_eq!(next(&mut cursor).await, None);
    drop(cursor);
    assert_eq!(world.commands.of("getMore").len(), 1, "one request");
    let ping = connection.run_command("db", &doc! { "ping": 1 }).await;
    ping.map(drop).expect("the connection is free");
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
        let mut cursor = open(&mut connection).await;
        reads(&mut cursor, 40).await;
        assert_eq!(next(&mut cursor).await, None);
        drop(cursor);
        assert!(!connection.is_closed());
        drop(connection);
        world.pools.close().await;
    }
}

async fn a_stream_that_is_dropped_closes_its_connection<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    stream(&world, 1000, Duration::ZERO);
    let mut connection = world.pools.get().await.expect("a connection");
    let id = connection.id();
    let mut cursor = open(&mut connection).await;
    reads(&mut cursor, 3).await;
    drop(cursor);
    assert!(connection.is_closed());
    drop(connection);
    one_kill(&world).await;
    let connection = world.pools.get().await.expect("a connection");
    assert_ne!(connection.id(), id, "it is not used again");
    drop(connection);
    world.pools.close().await;
}

async fn a_stream_that_is_closed_closes_its_connection<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    stream(&world, 1000, Duration::ZERO);
    let mut connection = world.pools.get().await.expect("a connection");
    let mut cursor = open(&mut connection).await;
    reads(&mut cursor, 3).await;
    cursor.close().await;
    assert!(connection.is_closed());
    one_kill(&world).await;
    drop(connection);
    eventually("no connection", || world.in_use() == 0).await;
    world.pools.close().await;
}

async fn a_server_without_streams_answers_each_getmore<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let mut connection = world.pools.get().await.expect("a connection");
    let find = connection.command("shop", &find()).exhaust().batch_size(3);
    let mut cursor = find.cursor().await.expect("a cursor");
    reads(&mut cursor, 10).await;
    assert_eq!(next(&mut cursor).await, None);
    drop(cursor);
    assert_eq!(world.commands.of("getMore").len(), 3);
    assert!(!connection.is_closed());
    drop(connection);
    world.pools.close().await;
}

async fn a_cancelled_call_loses_nothing_of_a_stream<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    stream(&world, 3, Duration::from_secs(1));
    let mut connection = world.pools.get().await.expect("a connection");
    let mut cursor = open(&mut connection).await;
    let mut read = Vec::new();
    let mut cancelled = 0;
    while read.len() < 8 {
        match timeout(Duration::from_millis(300), next(&mut cursor)).await {
            Ok(Some(id)) => read.push(id),
            Ok(None) => break,
            Err(_) => cancelled += 1,
        }
    }
    assert_eq!(read, Vec::from_iter(0..8));
    assert!(cancelled >= 4, "{cancelled}");
    drop(cursor);
    assert!(!connection.is_closed());
    drop(connection);
    world.pools.close().await;
}

async fn an_error_ends_a_stream<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let refusal = doc! { "ok": 0, "code": 237, "codeName": "CursorKilled", "errmsg": "killed" };
    let stream = Action::Stream(vec![batch(1, false), refusal], Duration::ZERO);
    let rule = Matcher::command("getMore").then(stream);
    world.set.server(0).script().add(rule);
    let mut connection = world.pools.get().await.expect("a connection");
    let mut cursor = open(&mut connection).await;
    reads(&mut cursor, 4).await;
    let error = cursor.next::<Document>().await.expect_err("killed");
    assert_eq!(error.code(), Some(237));
    drop(cursor);
    assert!(!connection.is_closed());
    drop(connection);
    world.pools.close().await;
}

async fn a_balancer_s_stream_is_closed_with_its_connection<B: Backend<Config: Default>>() {
    let world = behind_a_balancer::<B>("").await;
    stream(&world, 1000, Duration::ZERO);
    let mut connection = world.pools.get().await.expect("a connection");
    let mut cursor = open(&mut connection).await;
    reads(&mut cursor, 3).await;
    drop(cursor);
    assert!(connection.is_closed());
    drop(connection);
    assert_eq!(world.in_use(), 0);
    assert!(world.commands.of("killCursors").is_empty());
    world.pools.close().await;
}
