//! Events of connections without a pool and in the pools of both adapters.

use std::time::Duration;

use bson::doc;
use futures_util::FutureExt;
use mongo_core::event::{CmapEvent, ConnectionClosedEvent, ConnectionClosedReason};
use mongo_core::pools::{CheckBudget, ManagerConfig};
use mongo_core::wire::Readiness;
use mongo_core::{Deadline, ErrorKind};
use mongo_testkit::{Action, Deployment, Gate, Matcher, ScriptedServer, User};

use crate::{Told, establish};

const BOUND: Duration = Duration::from_secs(5);

/// The only event, which must be a ConnectionClosedEvent.
fn closed(told: &Told) -> ConnectionClosedEvent {
    match &*told.cmap() {
        [CmapEvent::ConnectionClosed(event)] => event.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_connection_is_created_and_ready() {
    let user = User::new("app", "pencil");
    let server = ScriptedServer::builder().user(user).start().await;
    let told = Told::default();
    let uri = server.uri_for("app", "pencil");
    let factory = told.factory(&uri, ManagerConfig::default());
    for number in 1..=2 {
        let connection = establish(&factory).await;
        let events = told.cmap();
        for event in &events {
            assert_eq!(event.address(), connection.server());
            assert_eq!(event.user().map(|user| &**user), Some("app"));
            assert_eq!(event.driver_connection_id(), Some(number));
        }
        let [
            CmapEvent::ConnectionCreated(_),
            CmapEvent::ConnectionReady(ready),
        ] = &*events
        else {
            panic!("{events:?}");
        };
        let id = connection.description().connection_id;
        assert!(id.is_some() && ready.server_connection_id == id);
        assert!(!ready.duration.is_zero());
        drop(connection);
        let closed = closed(&told);
        assert_eq!(closed.reason, ConnectionClosedReason::PoolClosed);
        assert!(closed.error.is_none());
        assert_eq!(
            (closed.driver_connection_id, closed.server_connection_id),
            (number, id)
        );
    }
}

#[tokio::test]
async fn the_reason_for_closing_a_connection_is_reported() {
    let server = ScriptedServer::start().await;
    let told = Told::default();
    let mut config = ManagerConfig::default();
    config.max_lifetime = Some(Duration::from_nanos(1));
    let factory = told.factory(&server.uri(), config);

    let mut old = establish(&factory).await;
    told.cmap();
    let too_old = factory
        .recycle(
            &mut old,
            Deadline::after(BOUND),
            &mut CheckBudget::default(),
        )
        .await;
    too_old.expect_err("too old");
    drop(old);
    assert_eq!(closed(&told).reason, ConnectionClosedReason::Idle);

    let stale = establish(&factory).await;
    told.cmap();
    factory.clear(None);
    drop(stale);
    assert_eq!(closed(&told).reason, ConnectionClosedReason::Stale);

    let mut broken = establish(&factory).await;
    told.cmap();
    server.close_connections().await;
    let ping = broken.run_command("admin", &doc! { "ping": 1 }).await;
    ping.expect_err("broken");
    drop(broken);
    let event = closed(&told);
    assert_eq!(event.reason, ConnectionClosedReason::Error);
    let error = event.error.expect("an error");
    assert!(
        matches!(error.kind(), ErrorKind::ConnectionClosed(_)),
        "{error}"
    );
    assert_eq!(
        error.server().map(ToString::to_string),
        Some(server.address())
    );
}

/// Its reply may still be under way when the connection is given up, for instance because the check-out
/// that waits for it is cancelled as well.
#[tokio::test]
async fn a_connection_with_a_cancelled_request_is_closed_by_an_error() {
    let gate = Gate::new();
    let slow = Matcher::command("ping").then(Action::WaitFor(gate.clone()));
    let server = ScriptedServer::builder().rule(slow).start().await;
    let told = Told::default();
    let factory = told.factory(&server.uri(), ManagerConfig::default());
    let mut owed = establish(&factory).await;
    // The first poll sends it.
    let ping = owed
        .run_command("admin", &doc! { "ping": 1 })
        .now_or_never();
    assert!(ping.is_none(), "the server waits");
    assert_eq!(owed.readiness(), Readiness::Owed);
    told.cmap();
    drop(owed);
    assert_eq!(closed(&told).reason, ConnectionClosedReason::Error);

    let mut stale = establish(&factory).await;
    let ping = stale
        .run_command("admin", &doc! { "ping": 1 })
        .now_or_never();
    assert!(ping.is_none(), "the server waits");
    assert_eq!(stale.readiness(), Readiness::Owed);
    factory.clear(None);
    told.cmap();
    drop(stale);
    assert_eq!(closed(&told).reason, ConnectionClosedReason::Stale);
    gate.open();
}

#[tokio::test]
async fn a_connection_that_can_not_be_made_is_closed() {
    let user = User::new("app", "pencil");
    let server = ScriptedServer::builder().user(user).start().await;
    let told = Told::default();
    let factory = told.factory(&server.uri_for("app", "n0t-it"), ManagerConfig::default());
    let refused = factory.establish(Deadline::after(BOUND)).await;
    let error = refused.expect_err("refused");
    let events = told.cmap();
    let [
        CmapEvent::ConnectionCreated(_),
        CmapEvent::ConnectionClosed(closed),
    ] = &*events
    else {
        panic!("{events:?}");
    };
    assert_eq!(closed.reason, ConnectionClosedReason::Error);
    assert!(closed.error.as_ref().is_some_and(|own| own.is_same(&error)));
    assert!(!format!("{events:?}").contains("n0t-it"));
}

#[tokio::test]
async fn a_connection_without_a_waiter_is_made_and_closes_with_its_factory() {
    let gate = Gate::new();
    let server = ScriptedServer::builder()
        .rule(Matcher::hello().then(Action::WaitFor(gate.clone())))
        .start()
        .await;
    let told = Told::default();
    let factory = told.factory(&server.uri(), ManagerConfig::default());
    // The second caller adopts the attempt of the first.
    for _ in 0..2 {
        let making = factory.establish(Deadline::never());
        tokio::select! {
            // Dropped here, during its handshake.
            _ = making => panic!("the gate is closed"),
            () = server.wait_for("a connection", |seen| seen.accepted == 1) => {}
        }
    }
    drop(factory);
    server.wait_for("none open", |seen| seen.open == 0).await;
    let events = told.cmap();
    let [
        CmapEvent::ConnectionCreated(_),
        CmapEvent::ConnectionClosed(closed),
    ] = &*events
    else {
        panic!("{events:?}");
    };
    assert_eq!(closed.reason, ConnectionClosedReason::PoolClosed);
    gate.open();
}

#[tokio::test]
async fn behind_a_load_balancer_the_service_is_named() {
    let balanced = Deployment::load_balanced(2).start().await;
    let told = Told::default();
    let factory = told.factory(&balanced.uri(), ManagerConfig::default());
    let mut connection = establish(&factory).await;
    let service = connection.description().service_id;
    assert!(service.is_some());
    let ping = connection.run_command("admin", &doc! { "ping": 1 }).await;
    ping.expect("an answer");
    drop(connection);
    let events = told.cmap();
    let [
        _,
        CmapEvent::ConnectionReady(ready),
        CmapEvent::ConnectionClosed(closed),
    ] = &*events
    else {
        panic!("{events:?}");
    };
    assert_eq!((ready.service_id, closed.service_id), (service, service));
    let commands = format!("{:?}", told.commands());
    let named = format!("service_id: {service:?}");
    assert_eq!(commands.matches(&named).count(), 2, "{commands}");
}

/// Tests a check-out, a command, a check-in and the close of the pool.
macro_rules! in_a_pool {
    ($name:ident, $build:expr) => {
        #[tokio::test]
        async fn $name() {
            let server = ScriptedServer::start().await;
            let told = Told::default();
            let factory = told.factory(&server.uri(), ManagerConfig::default());
            let pool = ($build)(factory);
            for _ in 0..2 {
                let mut connection = pool.get().await.expect("a connection");
                let ping = connection.run_command("admin", &doc! { "ping": 1 }).await;
                ping.expect("an answer");
            }
            pool.close();
            server.wait_for("the end", |seen| seen.open == 0).await;
            let events = told.cmap();
            let [
                CmapEvent::ConnectionCreated(_),
                CmapEvent::ConnectionReady(_),
                CmapEvent::ConnectionClosed(_),
            ] = &*events
            else {
                panic!("{events:?}");
            };
            assert_eq!(told.commands().len(), 4);
        }
    };
}

in_a_pool!(in_a_deadpool, |factory| {
    let manager = mongo_deadpool::Manager::from(factory);
    let pool = mongo_deadpool::Pool::builder(manager).build();
    mongo_deadpool::Pool::from(pool.expect("a pool"))
});

in_a_pool!(in_a_bb8, |factory| {
    let manager = mongo_bb8::MongoConnectionManager::from(factory);
    mongo_bb8::Pool::build(mongo_bb8::Pool::builder(), manager).expect("a pool")
});
