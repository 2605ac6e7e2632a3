//! Transactions that are pinned to a router, or to a connection of a load balancer.

use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::pools::Backend;
use tokio::time::Instant;

use crate::support::{World, begun, insert, no_transaction};
use crate::transactions::begin;

on_both! {
    a_transaction_is_pinned_to_a_router,
    a_transient_error_unpins,
    a_load_balancer_keeps_the_transaction_s_connection,
    an_overloaded_router_keeps_its_transaction,
    an_abort_after_a_cancelled_command_gives_the_connection_up,
    a_transaction_behind_a_balancer_stays_on_its_connection_after_a_cancelled_command,
}

async fn a_transaction_is_pinned_to_a_router<B: Backend<Config: Default>>() {
    let world = World::<B>::sharded(3, "").await;
    let mut session = world.session();
    for _ in 0..5 {
        begin(&mut session);
        assert!(!session.is_pinned());
        let before = world.commands.servers_of("insert").len();
        for _ in 0..4 {
            insert(&world.pools, &mut session).await.expect("a write");
        }
        let servers = &world.commands.servers_of("insert")[before..];
        assert!(
            servers.iter().all(|server| *server == servers[0]),
            "{servers:?}"
        );
        assert_eq!(
            session.pinned_server().map(ToString::to_string),
            Some(servers[0].clone())
        );
        session.commit_transaction().await.expect("a commit");
        assert_eq!(
            world.commands.servers_of("commitTransaction").last(),
            Some(&servers[0])
        );
        assert!(session.is_pinned(), "the commit may be repeated");
    }
    insert(&world.pools, &mut session).await.expect("a write");
    assert!(!session.is_pinned());
    drop(session);
    world.pools.close().await;
}

async fn a_transient_error_unpins<B: Backend<Config: Default>>() {
    let world = World::<B>::sharded(2, "").await;
    let mut session = world.session();
    begin(&mut session);
    insert(&world.pools, &mut session).await.expect("a write");
    let pinned = session.pinned_server().expect("a router").to_string();
    let router = (0..2)
        .find(|router| world.set.address(*router) == pinned)
        .expect("one");
    let data = doc! { "failCommands": ["insert"], "closeConnection": true };
    world.set.fail_commands(router, doc! { "times": 1 }, data);
    insert(&world.pools, &mut session).await.expect_err("lost");
    assert!(!session.is_pinned());
    session.abort_transaction().await.expect("an abort");
    drop(session);
    world.pools.close().await;
}

async fn a_load_balancer_keeps_the_transaction_s_connection<B: Backend<Config: Default>>() {
    let world = World::<B>::load_balanced("").await;
    let in_use = || world.in_use();
    let mut session = world.session();
    begin(&mut session);
    assert_eq!(in_use(), 0);
    for _ in 0..3 {
        insert(&world.pools, &mut session).await.expect("a write");
        assert!(session.is_pinned() && in_use() == 1);
    }
    session.commit_transaction().await.expect("a commit");
    assert_eq!(in_use(), 1, "the commit may be repeated");
    insert(&world.pools, &mut session).await.expect("a write");
    assert_eq!(in_use(), 0);
    begin(&mut session);
    insert(&world.pools, &mut session).await.expect("a write");
    session.abort_transaction().await.expect("an abort");
    assert_eq!(in_use(), 0);
    begin(&mut session);
    insert(&world.pools, &mut session).await.expect("a write");
    world.fail(
        1,
        doc! { "failCommands": ["insert"], "closeConnection": true },
    );
    insert(&world.pools, &mut session).await.expect_err("lost");
    assert_eq!(in_use(), 0, "after a transient error");
    session.abort_transaction().await.expect("an abort");
    drop(session);
    world.pools.close().await;
}

async fn an_overloaded_router_keeps_its_transaction<B: Backend<Config: Default>>() {
    let world = World::<B>::sharded(2, "enableOverloadRetargeting=true").await;
    let mut session = world.session();
    begin(&mut session);
    insert(&world.pools, &mut session).await.expect("a write");
    let labels = ["SystemOverloadedError", "RetryableError"];
    for router in 0..2 {
        let data = doc! { "failCommands": ["insert"], "errorCode": 462, "errorLabels": labels };
        world.set.fail_commands(router, doc! { "times": 1 }, data);
    }
    let begun = Instant::now();
    insert(&world.pools, &mut session)
        .await
        .expect("the second attempt");
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "it waits for no other router"
    );
    let servers = world.commands.servers_of("insert");
    assert!(servers.len() == 3 && servers.iter().all(|own| *own == servers[0]));
    session.commit_transaction().await.expect("a commit");
    drop(session);
    world.pools.close().await;
}

async fn an_abort_after_a_cancelled_command_gives_the_connection_up<B: Backend<Config: Default>>() {
    let world = World::<B>::load_balanced("").await;
    let mut session = begun(&world).await;
    world.cancelled_insert(&mut session).await;
    assert_eq!(world.in_use(), 1);
    session.abort_transaction().await.expect("an abort");
    assert_eq!(world.in_use(), 0);
    no_transaction(&world).await;
    drop(session);
    world.pools.close().await;
}

/// Over another one, the balancer may choose a router that does not know the transaction.
async fn a_transaction_behind_a_balancer_stays_on_its_connection_after_a_cancelled_command<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::load_balanced("").await;
    let mut session = begun(&world).await;
    world.cancelled_insert(&mut session).await;
    let error = insert(&world.pools, &mut session).await;
    let error = error.expect_err("a reply is under way on the connection");
    assert!(error.has_label("TransientTransactionError"), "{error:?}");
    let connections = world.set.server(0).look(|seen| {
        let inserts = seen.commands("insert");
        inserts.map(|own| own.connection).collect::<Vec<_>>()
    });
    assert!(
        connections.iter().all(|own| *own == connections[0]),
        "{connections:?}"
    );
    drop(session);
    world.pools.close().await;
}
