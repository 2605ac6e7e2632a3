//! Operations while something else happens: elections, members that leave, cleared and closed pools, callers that give
//! up between two attempts.

use std::time::Duration;

use mongo_core::ErrorKind;
use mongo_core::bson::{Document, doc};
use mongo_core::operation::{OperationKind, TRANSIENT_TRANSACTION_ERROR};
use mongo_core::pools::Backend;
use mongo_testkit::{Action, ErrorReply, Matcher};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    World, begun, behind_a_balancer, eventually, find, insert, no_transaction, open, with_orders,
};

on_both! {
    a_cursor_goes_on_after_an_election,
    a_cursor_whose_member_left_ends,
    a_cursor_whose_server_stopped_ends,
    an_operation_that_pauses_holds_no_connection,
    a_close_ends_an_operation_that_pauses,
    a_time_limit_is_not_exceeded_by_a_pause,
    a_command_given_up_in_its_pause_returns_its_session,
    a_write_given_up_in_its_second_attempt_discards_its_session,
    a_repeated_read_sees_what_its_session_saw,
    a_transaction_outlives_a_clear_of_its_pool,
    a_transaction_ends_with_its_primary,
    an_operation_without_limit_overrides_that_of_the_client,
}

fn overloaded(commands: &[&str]) -> Document {
    let labels = ["SystemOverloadedError", "RetryableError"];
    doc! { "failCommands": commands, "errorCode": 462, "errorLabels": labels }
}

async fn a_cursor_goes_on_after_an_election<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let mut orders = open(&world).await;
    for _ in 0..3 {
        orders
            .next_document()
            .await
            .expect("a document")
            .expect("an order");
    }
    world.set.elect(1);
    let is_new = || {
        let known = world.pools.topology().description();
        known.primary().map(|own| own.address.to_string()) == Some(world.set.address(1))
    };
    eventually("the new primary", is_new).await;
    let mut left = 0;
    while orders.next_document().await.expect("a batch").is_some() {
        left += 1;
    }
    assert_eq!(left, 7);
    let first = world.set.address(0);
    assert!(
        world
            .commands
            .servers_of("getMore")
            .iter()
            .all(|own| *own == first)
    );
    assert!(world.commands.of("killCursors").is_empty());
    drop(orders);
    world.pools.close().await;
}

async fn a_cursor_whose_member_left_ends<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let mut orders = open(&world).await;
    world.set.elect(1);
    world.set.remove(0);
    let first = world.set.address(0);
    let has_left = || {
        let known = world.pools.topology().description();
        known
            .servers()
            .iter()
            .all(|own| own.address.to_string() != first)
    };
    eventually("the member to leave", has_left).await;
    let mut taken = 0;
    let error = loop {
        match orders.next_document().await {
            Ok(Some(_)) => taken += 1,
            Ok(None) => panic!("the end after {taken}"),
            Err(error) => break error,
        }
    };
    assert_eq!(taken, 3, "the first batch is here");
    let text = error.to_string();
    assert!(
        text.contains("left the deployment") && text.contains(&first),
        "{text}"
    );
    let begun = Instant::now();
    orders.close().await;
    world.pools.close().await;
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(world.in_use(), 0);
}

async fn a_cursor_whose_server_stopped_ends<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let mut orders = open(&world).await;
    for _ in 0..3 {
        orders
            .next_document()
            .await
            .expect("a document")
            .expect("an order");
    }
    world.set.kill(0).await;
    orders
        .next_document()
        .await
        .map(drop)
        .expect_err("no server");
    world.set.elect(1);
    drop(orders);
    world.ping().await.expect("the new primary");
    let begun = Instant::now();
    world.pools.close().await;
    assert!(
        begun.elapsed() < Duration::from_secs(12),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(world.in_use(), 0);
}

async fn an_operation_that_pauses_holds_no_connection<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("maxPoolSize=1&maxAdaptiveRetries=9").await;
    world.ping().await.expect("a reply");
    world.fail(9, overloaded(&["find"]));
    let find = find();
    let refused = world.pools.command("shop", &find);
    let others = async {
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            let begun = Instant::now();
            world.ping().await.expect("a reply");
            longest = longest.max(begun.elapsed());
            sleep(Duration::from_millis(5)).await;
        }
        longest
    };
    let (outcome, longest) = tokio::join!(refused.into_future(), others);
    outcome.map(drop).expect("the tenth attempt");
    assert!(longest < Duration::from_millis(20), "{longest:?}");
    world.pools.close().await;
}

async fn a_close_ends_an_operation_that_pauses<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("maxAdaptiveRetries=9").await;
    world.ping().await.expect("a reply");
    world.fail(99, overloaded(&["find"]));
    let find = find();
    let refused = world.pools.command("shop", &find).into_future();
    let closed = async {
        while world.commands.of("find").len() < 3 {
            sleep(Duration::from_millis(1)).await;
        }
        let begun = Instant::now();
        world.pools.close().await;
        assert!(
            begun.elapsed() < Duration::from_millis(50),
            "{:?}",
            begun.elapsed()
        );
    };
    let (outcome, ()) = tokio::join!(refused, closed);
    let error = outcome.map(drop).expect_err("closed");
    let is_closed = matches!(error.kind(), ErrorKind::PoolClosed);
    assert!(is_closed || error.code() == Some(462), "{error}");
    assert_eq!(world.commands.of("find").len(), 3);
}

async fn a_time_limit_is_not_exceeded_by_a_pause<B: Backend<Config: Default>>() {
    for limit in [10, 30, 100, 300] {
        let limit = Duration::from_millis(limit);
        let world = World::<B>::replica_set("maxAdaptiveRetries=99").await;
        world.ping().await.expect("a reply");
        world.fail(99, overloaded(&["find"]));
        let begun = Instant::now();
        let find = find();
        let refused = world.pools.command("shop", &find).timeout(limit);
        let error = refused.await.map(drop).expect_err("overloaded");
        let slack = Duration::from_millis(2);
        assert!(
            begun.elapsed() <= limit + slack,
            "{limit:?}: {:?}",
            begun.elapsed()
        );
        assert!(error.is_timeout() || error.code() == Some(462), "{error}");
        world.pools.close().await;
    }
}

async fn a_command_given_up_in_its_pause_returns_its_session<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("maxAdaptiveRetries=9").await;
    world.fail(9, overloaded(&["find"]));
    let find = find();
    let refused = world.pools.command("shop", &find).into_future();
    let given_up = timeout(Duration::from_secs(1), refused).await;
    given_up.map(drop).expect_err("nine attempts take longer");
    // Whether it was under way or in a pause decides on the session.
    world.ping().await.expect("a reply");
    let (finds, pings) = (world.commands.of("find"), world.commands.of("ping"));
    assert!(finds.len() > 2);
    assert_eq!(
        pings[0].get("lsid"),
        finds[0].get("lsid"),
        "no command is in flight"
    );
    world.pools.close().await;
}

async fn a_write_given_up_in_its_second_attempt_discards_its_session<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::replica_set("").await;
    let error = ErrorReply::new(89, "NetworkTimeout", "late").label("RetryableWriteError");
    let script = world.set.server(0).script();
    script.add(Matcher::command("insert").once().then(Action::Error(error)));
    let slow = Action::Delay(Duration::from_secs(5));
    script.add(Matcher::command("insert").then(slow));
    let write = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let write = world.pools.command("db", &write).kind(OperationKind::Write);
    let given_up = timeout(Duration::from_secs(2), write.into_future()).await;
    given_up.map(drop).expect_err("slow");
    world.ping().await.expect("a reply");
    let (inserts, pings) = (world.commands.of("insert"), world.commands.of("ping"));
    assert_eq!(inserts.len(), 2);
    assert_eq!(inserts[0].get("txnNumber"), inserts[1].get("txnNumber"));
    assert_ne!(pings[0].get("lsid"), inserts[1].get("lsid"));
    world.pools.close().await;
}

async fn a_repeated_read_sees_what_its_session_saw<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    insert(&world.pools, &mut session).await.expect("a write");
    let seen = session.operation_time().expect("its time");
    world.fail(1, doc! { "failCommands": ["find"], "errorCode": 91 });
    let find = doc! { "find": "c" };
    let find = world.pools.command("db", &find).kind(OperationKind::Read);
    find.session(&mut session).await.map(drop).expect("a reply");
    let finds = world.commands.of("find");
    assert_eq!(finds.len(), 2);
    for own in &finds {
        let concern = own.get_document("readConcern").expect("a read concern");
        assert_eq!(concern.get_timestamp("afterClusterTime").ok(), Some(seen));
        assert_eq!(own.get("lsid"), finds[0].get("lsid"));
    }
    drop(session);
    world.pools.close().await;
}

async fn a_transaction_outlives_a_clear_of_its_pool<B: Backend<Config: Default>>() {
    let world = behind_a_balancer::<B>("").await;
    let mut session = begun(&world).await;
    // Clears the service's pool.
    world.fail(
        1,
        doc! { "failCommands": ["ping"], "closeConnection": true },
    );
    world.ping().await.expect_err("lost");
    insert(&world.pools, &mut session)
        .await
        .expect("its connection is open");
    session.commit_transaction().await.expect("a commit");
    drop(session);
    no_transaction(&world).await;
    world.ping().await.expect("a reply");
    eventually("no connection in use", || world.in_use() == 0).await;
    world.pools.close().await;
}

async fn a_transaction_ends_with_its_primary<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = begun(&world).await;
    world.set.elect(1);
    let error = insert(&world.pools, &mut session)
        .await
        .expect_err("another primary");
    assert!(error.has_label(TRANSIENT_TRANSACTION_ERROR), "{error}");
    session.abort_transaction().await.expect("an abort");
    session
        .start_transaction(Default::default())
        .expect("another one");
    insert(&world.pools, &mut session).await.expect("a write");
    session.commit_transaction().await.expect("a commit");
    let (second, servers) = (world.set.address(1), world.commands.servers_of("insert"));
    assert_eq!(servers.last(), Some(&second));
    let numbers: Vec<_> = world.commands.of("insert");
    let first = numbers[0].get_i64("txnNumber").expect("a number");
    let last = numbers[numbers.len() - 1]
        .get_i64("txnNumber")
        .expect("a number");
    assert!(last > first);
    drop(session);
    world.pools.close().await;
}

async fn an_operation_without_limit_overrides_that_of_the_client<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("timeoutMS=2000").await;
    let ping = doc! { "ping": 1 };
    world.ping().await.expect("a reply");
    let unlimited = world.pools.command("db", &ping).timeout(Duration::ZERO);
    unlimited.await.map(drop).expect("a reply");
    let pings = world.commands.of("ping");
    assert!(pings[0].contains_key("maxTimeMS") && !pings[1].contains_key("maxTimeMS"));
    // Slower than the client's limit.
    let slow = Matcher::command("ping").then(Action::Delay(Duration::from_secs(9)));
    world.set.server(0).script().add(slow);
    let unlimited = world.pools.command("db", &ping).timeout(Duration::ZERO);
    unlimited.await.map(drop).expect("a reply");
    world.pools.close().await;
}
