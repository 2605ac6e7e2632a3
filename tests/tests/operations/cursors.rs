//! Cursors.

use std::time::Duration;

use futures_util::StreamExt;
use mongo_core::bson::{Document, RawDocumentBuf, doc};
use mongo_core::operation::{CursorType, OperationKind, TimeoutMode};
use mongo_core::pools::{Backend, Cursor};
use mongo_core::{ErrorKind, Result};
use mongo_testkit::{Action, Matcher};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use crate::support::{World, eventually};

on_both! {
    documents_come_over_several_batches,
    a_cursor_is_a_stream,
    batches_are_borrowed,
    a_cursor_stays_with_its_server_and_its_session,
    an_implicit_session_goes_back_with_the_last_batch,
    a_dropped_cursor_is_closed_by_the_background,
    a_cursor_that_is_closed_or_exhausted_leaves_nothing,
    a_dropped_call_loses_nothing,
    a_reply_without_a_cursor_is_an_error,
    empty_batches_end,
    a_suspended_cursor_lets_go_of_its_session,
    a_load_balancer_keeps_the_cursor_s_connection,
    a_lost_cursor_is_an_error,
    time_limits_of_cursors,
    the_first_document_leaves_no_cursor,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Order {
    _id: i32,
}

/// A world with ten orders.
async fn with_orders<B: Backend<Config: Default>>(options: &str) -> World<B> {
    let world = World::<B>::replica_set(options).await;
    world
        .set
        .insert("shop.orders", (0..10).map(|id| doc! { "_id": id }));
    world
}

fn find() -> Document {
    doc! { "find": "orders", "batchSize": 3 }
}

async fn open<B: Backend>(world: &World<B>) -> Result<Cursor<'_, B>> {
    let find = world.pools.command("shop", &find());
    let find = find.kind(OperationKind::Read);
    find.batch_size(4).comment("export").cursor().await
}

async fn documents_come_over_several_batches<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("").await;
    let mut orders = open(&world).await.expect("a cursor");
    assert_eq!(orders.namespace(), "shop.orders");
    let mut ids = Vec::new();
    while let Some(order) = orders.next::<Order>().await.expect("an order") {
        ids.push(order._id);
    }
    assert_eq!(ids, Vec::from_iter(0..10));
    assert!(orders.is_exhausted() && orders.id() == 0);
    let more = world.commands.of("getMore");
    assert_eq!(more.len(), 2);
    assert_eq!(more[0].get_i64("batchSize").ok(), Some(4));
    assert_eq!(more[0].get_str("comment").ok(), Some("export"));
    assert_eq!(more[0].get_str("collection").ok(), Some("orders"));
    drop(orders);
    world.pools.close().await;
}

async fn a_cursor_is_a_stream<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("").await;
    let orders = open(&world).await.expect("a cursor");
    let orders: Vec<Result<RawDocumentBuf>> = orders.collect().await;
    assert_eq!(orders.len(), 10);
    assert!(orders.iter().all(Result::is_ok));
    world.pools.close().await;
}

async fn batches_are_borrowed<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("").await;
    let mut orders = open(&world).await.expect("a cursor");
    orders
        .next_document()
        .await
        .expect("a document")
        .expect("the first");
    let mut lengths = Vec::new();
    while let Some(batch) = orders.next_batch().await.expect("a batch") {
        lengths.push(batch.collect::<Result<Vec<_>>>().expect("documents").len());
    }
    assert_eq!(lengths, [2, 4, 3]);
    drop(orders);
    world.pools.close().await;
}

async fn a_cursor_stays_with_its_server_and_its_session<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("readPreference=nearest").await;
    for _ in 0..6 {
        let orders = open(&world).await.expect("a cursor");
        assert_eq!(orders.count().await, 10);
    }
    let (finds, more) = (world.commands.of("find"), world.commands.of("getMore"));
    let (servers, others) = (
        world.commands.servers_of("find"),
        world.commands.servers_of("getMore"),
    );
    for (number, own) in more.iter().enumerate() {
        assert_eq!(own.get("lsid"), finds[number / 2].get("lsid"));
        assert_eq!(others[number], servers[number / 2]);
        assert!(!own.contains_key("$readPreference") && !own.contains_key("readConcern"));
    }
    world.pools.close().await;
}

async fn an_implicit_session_goes_back_with_the_last_batch<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("").await;
    let mut orders = open(&world).await.expect("a cursor");
    let ping = doc! { "ping": 1 };
    for _ in 0..8 {
        orders
            .next_document()
            .await
            .expect("a document")
            .expect("an order");
    }
    assert_eq!(orders.id(), 0, "the last batch is here");
    world
        .pools
        .command("shop", &ping)
        .await
        .map(drop)
        .expect("a reply");
    let ping = &world.commands.of("ping")[0];
    assert_eq!(ping.get("lsid"), world.commands.of("find")[0].get("lsid"));
    drop(orders);
    world.pools.close().await;
}

async fn a_dropped_cursor_is_closed_by_the_background<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("").await;
    let orders = open(&world).await.expect("a cursor");
    let id = orders.id();
    drop(orders);
    eventually("killCursors", || {
        !world.commands.of("killCursors").is_empty()
    })
    .await;
    let kill = &world.commands.of("killCursors")[0];
    assert_eq!(kill.get_array("cursors").ok(), Some(&vec![id.into()]));
    assert_eq!(kill.get_str("killCursors").ok(), Some("orders"));
    assert_eq!(
        world.commands.servers_of("killCursors"),
        world.commands.servers_of("find")
    );
    eventually("no cursor", || world.set.server(0).open_cursors() == 0).await;
    world.pools.close().await;
}

async fn a_cursor_that_is_closed_or_exhausted_leaves_nothing<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("").await;
    open(&world).await.expect("a cursor").close().await;
    assert_eq!(world.commands.of("killCursors").len(), 1);
    assert_eq!(world.set.server(0).open_cursors(), 0);
    let orders = open(&world).await.expect("a cursor");
    assert_eq!(orders.count().await, 10);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.commands.of("killCursors").len(), 1);
    assert!(world.pools.status().iter().all(|pool| pool.in_use == 0));
    world.pools.close().await;
}

async fn a_dropped_call_loses_nothing<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("").await;
    let mut orders = open(&world).await.expect("a cursor");
    world.fail(
        1,
        doc! { "failCommands": ["getMore"], "blockConnection": true, "blockTimeMS": 1000 },
    );
    let mut ids = Vec::new();
    let mut dropped = 0;
    loop {
        match timeout(Duration::from_millis(300), orders.next::<Order>()).await {
            Ok(Ok(Some(order))) => ids.push(order._id),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => dropped += 1,
        }
    }
    assert!(dropped >= 2);
    assert_eq!(ids, Vec::from_iter(0..10));
    drop(orders);
    world.pools.close().await;
}

async fn a_reply_without_a_cursor_is_an_error<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("").await;
    let error = world
        .pools
        .command("shop", &doc! { "ping": 1 })
        .cursor()
        .await;
    let error = error.map(drop).expect_err("no cursor");
    assert!(error.to_string().contains("`ping`"), "{error}");
    assert!(matches!(error.kind(), ErrorKind::Deserialization(_)));
    assert_eq!(
        error.server().map(ToString::to_string),
        Some(world.set.address(0))
    );
    world.pools.close().await;
}

async fn empty_batches_end<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("").await;
    let cursor = doc! { "nextBatch": [], "id": 7_i64, "ns": "shop.orders" };
    let empty = Action::Reply(doc! { "ok": 1, "cursor": cursor });
    world
        .set
        .server(0)
        .script()
        .add(Matcher::command("getMore").then(empty));
    let find = world.pools.command("shop", &find());
    let orders = find
        .kind(OperationKind::Read)
        .cursor()
        .await
        .expect("a cursor");
    let orders: Vec<_> = orders.take(4).collect().await;
    assert_eq!(orders.iter().filter(|order| order.is_ok()).count(), 3);
    let error = orders[3].as_ref().expect_err("no end");
    assert!(error.to_string().contains("were empty"), "{error}");
    assert_eq!(world.commands.of("getMore").len(), 1000);
    // One that is tailable has nothing for now.
    let find = world.pools.command("shop", &self::find());
    let mut orders = find
        .cursor_type(CursorType::Tailable)
        .cursor()
        .await
        .expect("a cursor");
    for expected in [true, true, true, false, false] {
        let next = orders.next_document().await.expect("no error");
        assert_eq!(next.is_some(), expected);
        assert!(!orders.is_exhausted());
    }
    assert_eq!(world.commands.of("getMore").len(), 1002);
    drop(orders);
    world.pools.close().await;
}

async fn a_suspended_cursor_lets_go_of_its_session<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("").await;
    let mut session = world.session();
    let mut other = world.session();
    let find = world.pools.command("shop", &find()).session(&mut session);
    let orders = find.cursor().await.expect("a cursor").suspend().await;
    let ping = doc! { "ping": 1 };
    let ping = world.pools.command("shop", &ping).session(&mut session);
    ping.await.map(drop).expect("a reply");
    let orders = orders.resume(&mut session).expect("its session");
    assert_eq!(orders.count().await, 10);
    let id = session.id().to_owned();
    let more = world.commands.of("getMore");
    assert!(!more.is_empty());
    for own in more {
        let lsid = own.get_document("lsid").expect("an id");
        assert_eq!(RawDocumentBuf::try_from(lsid).expect("BSON"), id);
    }
    let find = world
        .pools
        .command("shop", &doc! { "find": "orders", "batchSize": 3 });
    let orders = find.session(&mut session).cursor().await.expect("a cursor");
    let refused = orders.suspend().await.resume(&mut other).map(drop);
    refused.expect_err("another session");
    eventually("killCursors", || {
        !world.commands.of("killCursors").is_empty()
    })
    .await;
    world.pools.close().await;
}

async fn a_load_balancer_keeps_the_cursor_s_connection<B: Backend<Config: Default>>() {
    let world = World::<B>::load_balanced("").await;
    world
        .set
        .insert("shop.orders", (0..10).map(|id| doc! { "_id": id }));
    let in_use = || world.in_use();
    let mut orders = open(&world).await.expect("a cursor");
    assert_eq!(in_use(), 1);
    while orders.next_document().await.expect("a document").is_some() {}
    assert_eq!(in_use(), 0, "returned with the last batch");
    let orders = open(&world).await.expect("a cursor");
    assert_eq!(in_use(), 1);
    drop(orders);
    eventually("killCursors", || {
        !world.commands.of("killCursors").is_empty()
    })
    .await;
    eventually("a returned connection", || in_use() == 0).await;
    // After a network error the connection stays with its cursor, which can't be closed with it.
    let mut orders = open(&world).await.expect("a cursor");
    world.fail(
        1,
        doc! { "failCommands": ["getMore"], "closeConnection": true },
    );
    let lost = async {
        loop {
            match orders.next_document().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("no failure"),
                Err(error) => break error,
            }
        }
    };
    lost.await;
    assert_eq!(in_use(), 1);
    orders.close().await;
    assert_eq!((in_use(), world.commands.of("killCursors").len()), (0, 1));
    world.pools.close().await;
}

async fn a_lost_cursor_is_an_error<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("").await;
    let mut orders = open(&world).await.expect("a cursor");
    world.fail(1, doc! { "failCommands": ["getMore"], "errorCode": 43 });
    let error = loop {
        match orders.next_document().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no failure"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Some(43));
    assert!(orders.is_exhausted() && orders.next_document().await.expect("over").is_none());
    drop(orders);
    sleep(Duration::from_secs(1)).await;
    assert!(world.commands.of("killCursors").is_empty());
    world.pools.close().await;
}

async fn time_limits_of_cursors<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("").await;
    let find = find();
    let command = || world.pools.command("shop", &find).kind(OperationKind::Read);
    let second = Duration::from_secs(1);
    for refused in [
        command().timeout_mode(TimeoutMode::Iteration),
        command().timeout(second).max_await_time(second / 2),
        command()
            .timeout(second)
            .cursor_type(CursorType::Tailable)
            .timeout_mode(TimeoutMode::CursorLifetime),
        command()
            .timeout(second)
            .cursor_type(CursorType::TailableAwait)
            .max_await_time(second),
    ] {
        let error = refused
            .cursor()
            .await
            .map(drop)
            .expect_err("a contradiction");
        assert!(
            matches!(error.kind(), ErrorKind::Configuration(_)),
            "{error}"
        );
    }
    assert!(world.commands.of("find").is_empty());
    for (mode, limits_server) in [
        (TimeoutMode::CursorLifetime, true),
        (TimeoutMode::Iteration, false),
    ] {
        let before = world.commands.of("find").len();
        let orders = command().timeout(second).timeout_mode(mode).cursor().await;
        let mut orders = orders.expect("a cursor");
        assert_eq!(
            world.commands.of("find")[before].contains_key("maxTimeMS"),
            limits_server
        );
        sleep(second * 2).await;
        let mut count = 0;
        let outcome = loop {
            match orders.next_document().await {
                Ok(Some(_)) => count += 1,
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        // What was fetched is there even when the time is over.
        match mode {
            TimeoutMode::Iteration => assert!(outcome.is_none() && count == 10),
            _ => assert!(outcome.expect("too late").is_timeout() && count == 3),
        }
        orders.close().await;
    }
    assert!(
        world
            .commands
            .of("getMore")
            .iter()
            .all(|own| !own.contains_key("maxTimeMS"))
    );
    assert_eq!(world.set.server(0).open_cursors(), 0);
    world.pools.close().await;
}

async fn the_first_document_leaves_no_cursor<B: Backend<Config: Default>>() {
    let world = with_orders::<B>("").await;
    let limited = doc! { "find": "orders", "limit": 1 };
    let nothing = doc! { "find": "orders", "filter": { "_id": 99 }, "limit": 1 };
    let mut connection = world.pools.get().await.expect("a connection");
    // Without a limit the server opens a cursor, which is closed.
    for (find, expected, kills) in [
        (limited, Some(Order { _id: 0 }), 0),
        (nothing, None, 0),
        (find(), Some(Order { _id: 0 }), 2),
    ] {
        let command = world.pools.command("shop", &find);
        let first = command.kind(OperationKind::Read).first::<Order>().await;
        assert_eq!(first.expect("a reply"), expected);
        let first = connection.command("shop", &find).first::<Order>().await;
        assert_eq!(first.expect("a reply"), expected);
        assert_eq!(world.set.server(0).open_cursors(), 0, "before it returns");
        assert_eq!(world.commands.of("killCursors").len(), kills);
    }
    assert!(world.commands.of("getMore").is_empty());
    // A document of another type is an error, and the cursor is closed in the background.
    #[derive(Debug, Deserialize)]
    struct Other {
        #[serde(rename = "_id")]
        _id: String,
    }
    let other = world.pools.command("shop", &find()).first::<Other>().await;
    let error = other.expect_err("another type");
    assert!(matches!(error.kind(), ErrorKind::Deserialization(_)));
    let open = || world.set.server(0).open_cursors();
    eventually("no cursor", || open() == 0).await;
    drop(connection);
    world.pools.close().await;
}
