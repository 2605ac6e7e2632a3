//! Spare connections, and connections that are being returned.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use deadpool::managed;
use mongo_core::pools::{Backend, ConnectionFactory};
use mongo_core::sdam::ServerDescription;
use mongo_core::select::ServerSelector;
use mongo_core::{Connection, Deadline, Error};
use mongo_deadpool::Manager;
use mongo_testkit::{Action, Deployment, Gate, SimNetwork};
use tokio::time::{sleep, timeout};

use crate::support::{
    LIMIT, OverSim, Sim, Tenants, builder, eventually, handshake, of_tenant, ping, status_of,
};

on_both! {
    on a paused clock:
    min_pool_size_connections_close_with_their_pool,
    min_pool_size_connections_that_expire_close_as_idle,
    a_server_selector_makes_no_server_unwritable,
    spare_connections_close_with_their_pool,
}

async fn min_pool_size_connections_close_with_their_pool<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let uri = format!("mongodb://{}/?minPoolSize=3", sim.set.address(0));
    let pool = builder::<B>(&uri).connector(Arc::new(OverSim(sim.network.clone())));
    let pool = pool.build_server_pool().expect("a pool");
    pool.ready();
    pool.maintain().await;
    let server = sim.set.server(0);
    server
        .wait_for("three are open", |seen| seen.open == 3)
        .await;
    drop(pool);
    server.wait_for("none is open", |seen| seen.open == 0).await;
}

async fn min_pool_size_connections_that_expire_close_as_idle<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("minPoolSize=2&maxIdleTimeMS=15000");
    ping(&pools).await.expect("a ping");
    eventually("minPoolSize connections", || status_of(&pools).size == 2).await;
    sleep(Duration::from_secs(60)).await;
    let closed = status_of(&pools).closed;
    assert!(closed.idle > 0, "{closed:?}");
    assert_eq!((closed.pool_closed, closed.error), (0, 0), "{closed:?}");
    pools.close().await;
}

/// A server that the application's selector excludes still accepts writes.
async fn a_server_selector_makes_no_server_unwritable<B: Backend<Config: Default>>() {
    let network = SimNetwork::new(3);
    let set = Deployment::sharded(2).network(&network).start().await;
    let highest = Arc::new(Mutex::new(set.address(0)));
    let chosen = highest.clone();
    let selector = ServerSelector::new(move |servers| {
        let chosen = chosen.lock().expect("no panic").clone();
        let is_chosen = |server: &&_| {
            let server: &ServerDescription = server;
            server.address.to_string() == chosen
        };
        servers.iter().copied().filter(is_chosen).collect()
    });
    let pools = builder::<B>(&set.uri())
        .connector(Arc::new(OverSim(network.clone())))
        .server_selector(selector)
        .build()
        .expect("pools");
    let mut held = pools.get().await.expect("a connection");
    *highest.lock().expect("no panic") = set.address(1);
    // The topology is updated.
    let other = pools.get().await.expect("a connection");
    assert_eq!(other.server().to_string(), set.address(1));
    set.kill(1).await;
    eventually("the other one is known to be gone", || {
        let known = pools.topology().snapshot();
        known
            .topology()
            .servers()
            .iter()
            .any(|server| server.error.is_some())
    })
    .await;
    let insert = mongo_core::bson::doc! {"insert": "c", "documents": [{"_id": 1}]};
    let inserted = held.run_command("db", &insert).await;
    inserted.expect("it still accepts writes");
    drop((held, other));
    pools.close().await;
}

/// The waiter is served by a returned connection while its own is still being made.
async fn spare_connections_close_with_their_pool<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let uri = format!("mongodb://{}/?maxPoolSize=2", sim.set.address(0));
    let pool = builder::<B>(&uri).connector(Arc::new(OverSim(sim.network.clone())));
    let pool = pool.build_server_pool().expect("a pool");
    pool.ready();
    let held = pool
        .get(Deadline::after(LIMIT))
        .await
        .expect("a connection");
    let server = sim.set.server(0);
    let gate = Gate::new();
    server
        .script()
        .add(handshake().then(Action::WaitFor(gate.clone())));
    let other = pool.clone();
    let waiting = tokio::spawn(async move { other.get(Deadline::after(LIMIT)).await });
    server
        .wait_for("its own attempt", |seen| seen.open == 2)
        .await;
    sleep(Duration::from_millis(100)).await;
    drop(held);
    let served = waiting
        .await
        .expect("no panic")
        .expect("the returned connection");
    gate.open();
    eventually("it is made", || pool.status().idle == 1).await;
    drop(served);
    drop(pool);
    server.wait_for("none is open", |seen| seen.open == 0).await;
}

/// The connection is chosen to make room before its generic pool has it back, so no later check
/// would find it.
#[tokio::test(start_paused = true)]
async fn a_connection_being_returned_makes_room() {
    let tenants = Tenants::of(1, 2).await;
    let pools = tenants.pools::<Late>("", 1);
    let [one, other] = [0, 1].map(|tenant| of_tenant(&pools, tenant));
    let held = one.get().await.expect("a connection");
    let waits = Rc::new(RefCell::new(Box::pin(async move {
        other.get().await.map(drop)
    })));
    let begun = waits.clone();
    MEANWHILE.set(Some(Box::new(move || {
        let mut context = Context::from_waker(Waker::noop());
        let polled = begun.borrow_mut().as_mut().poll(&mut context);
        assert!(polled.is_pending(), "there is no other slot");
    })));
    drop(held);
    let waits = Rc::into_inner(waits).expect("polled once").into_inner();
    let served = timeout(Duration::from_secs(5), waits).await;
    served.expect("room is made").expect("a connection");
    pools.close().await;
}

/// deadpool, with a hook between the check-in and the return of the connection.
struct Late(managed::Pool<Manager>);

struct LateGuard(Option<managed::Object<Manager>>);

thread_local! {
    static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

impl Deref for LateGuard {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.0.as_ref().expect("in use")
    }
}

impl DerefMut for LateGuard {
    fn deref_mut(&mut self) -> &mut Connection {
        self.0.as_mut().expect("in use")
    }
}

impl Drop for LateGuard {
    fn drop(&mut self) {
        let mut object = self.0.take().expect("in use");
        assert!(object.check_in());
        if let Some(meanwhile) = MEANWHILE.take() {
            meanwhile();
        }
    }
}

impl Backend for Late {
    type Config = ();
    type Guard = LateGuard;

    fn max_size(_: &()) -> Option<u32> {
        None
    }

    fn build(factory: ConnectionFactory, max_size: u32, _: &()) -> Result<Self, Error> {
        let pool = managed::Pool::builder(Manager::from(factory)).max_size(max_size as usize);
        Ok(Self(pool.build().expect("a pool")))
    }

    fn try_get(&self) -> Option<LateGuard> {
        None
    }

    async fn get(&self, _: Deadline) -> Result<LateGuard, Error> {
        Ok(LateGuard(Some(self.0.get().await.expect("a connection"))))
    }

    fn reap(&self) {
        let factory = self.0.manager().factory();
        drop(
            self.0
                .retain(|connection, _| factory.should_retain(connection)),
        );
    }

    fn close(&self) {
        self.0.close();
    }
}
