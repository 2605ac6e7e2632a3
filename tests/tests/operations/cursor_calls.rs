//! Calls of a cursor that are cancelled.

use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::operation::{CursorType, OperationKind};
use mongo_core::pools::{Backend, Cursor};
use mongo_testkit::{Action, Matcher};
use tokio::time::{sleep, timeout};

use crate::support::{World, behind_a_balancer, open, with_orders};

on_both! {
    a_cancelled_call_leaves_the_next_one_its_time,
    a_cancelled_call_behind_a_balancer_stays_on_its_connection,
}

/// A tailable cursor whose calls have 3 s each, on a server that waits for a second and then sends an
/// empty batch, and after that one with a document.
async fn tailed<B: Backend>(world: &World<B>) -> Cursor<'_, B> {
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

/// Each call of a tailable cursor has its own time, also after a call that was cancelled.
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

/// Over another one, the balancer may choose a router that does not know the cursor.
async fn a_cancelled_call_behind_a_balancer_stays_on_its_connection<B: Backend<Config: Default>>() {
    let world = behind_a_balancer::<B>("").await;
    let mut orders = open(&world).await;
    orders.next_batch().await.expect("the first one");
    let slow = Matcher::command("getMore").times(1);
    let slow = slow.then(Action::Delay(Duration::from_secs(5)));
    world.set.server(0).script().add(slow);
    let second = timeout(Duration::from_secs(1), orders.next_batch()).await;
    assert!(second.is_err(), "the server waits");
    drop(orders.next_batch().await.map(drop));
    assert_eq!(world.in_use(), 1, "the cursor keeps its connection");
    drop(orders);
    sleep(Duration::from_secs(15)).await;
    let used = world.set.server(0).look(|seen| {
        let ends = seen.commands("killCursors");
        let own = seen.commands("getMore").chain(ends);
        own.map(|own| own.connection).collect::<Vec<_>>()
    });
    assert!(used.iter().all(|own| *own == used[0]), "{used:?}");
    world.pools.close().await;
}
