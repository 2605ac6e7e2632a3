//! The last handle is dropped while its topology is updated.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;

use async_trait::async_trait;
use mongo_core::auth::Credential;
use mongo_core::net::{CredentialProvider, Topology};
use mongo_core::pools::{Backend, ConnectionFactory, Pools};
use mongo_core::select::{Criterion, ReadPreference, ReadPreferenceMode, ServerSelector};
use mongo_core::{ClientOptions, Error};
use mongo_testkit::{Action, Gate};

use crate::support::{Elsewhere, LIMIT, eventually, handshake, on_a_runtime, one, pools, two};

on_both! {
    on runtimes of their own:
    the_last_handle_may_be_dropped_during_a_topology_update,
    a_task_dropped_by_its_waker_may_own_the_last_pools,
    a_waker_may_use_the_pools,
    a_provider_may_use_the_pools_while_it_is_dropped,
}

/// Drops its value when it is woken.
struct Dropping<T>(Mutex<Option<T>>);

impl<T> Dropping<T> {
    fn let_go(&self) {
        let last = self.0.lock().expect("no panic").take();
        drop(last);
    }

    fn is_over(&self) -> bool {
        self.0.lock().expect("no panic").is_none()
    }
}

impl<T: Send + 'static> Wake for Dropping<T> {
    fn wake(self: Arc<Self>) {
        self.let_go();
    }
}

/// Runs a closure that must not deadlock, on its own thread, which is left behind if it does.
fn in_time(run: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        run();
        done.send(())
    });
    ended.recv_timeout(LIMIT).expect("no deadlock");
}

/// Drops the owner of a topology as soon as an update is published.
async fn drop_at_an_update<T: Send + 'static>(topology: Topology, owner: T) {
    topology.connect().expect("connected");
    let mut changes = topology.subscribe();
    changes.borrow_and_update();
    drop(topology);
    let dropping = Arc::new(Dropping(Mutex::new(Some(owner))));
    let waker = Waker::from(dropping.clone());
    let mut changed = pin!(changes.changed());
    let mut context = Context::from_waker(&waker);
    assert!(changed.as_mut().poll(&mut context).is_pending());
    eventually("an update", || dropping.is_over()).await;
}

fn the_last_handle_may_be_dropped_during_a_topology_update<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(3);
    let pools = pools::<B>(&world.set.uri());
    in_time(move || on_a_runtime(drop_at_an_update(pools.topology().clone(), pools)));
    for member in 0..3 {
        on_a_runtime(all_closed(world.set.server(member)));
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Polls a task once, which must be pending, and drops it when it is woken.
async fn drop_when_woken(mut task: Task) {
    let dropping = Arc::new(Dropping(Mutex::new(None)));
    let waker = Waker::from(dropping.clone());
    let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    *dropping.0.lock().expect("no panic") = Some(task);
    eventually("a wake", || dropping.is_over()).await;
}

#[test]
fn a_task_dropped_by_its_waker_may_own_the_last_topology() {
    let world = Elsewhere::of(3);
    let options = ClientOptions::parse(&world.set.uri()).expect("a connection string");
    in_time(move || {
        let topology = Topology::new(options).expect("a topology");
        on_a_runtime(drop_when_woken(Box::pin(async move {
            topology.connect().expect("connected");
            drop(topology.select(&Criterion::write()).await);
        })));
    });
    for member in 0..3 {
        on_a_runtime(all_closed(world.set.server(member)));
    }
}

fn a_task_dropped_by_its_waker_may_own_the_last_pools<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(3);
    let pools = pools::<B>(&world.set.uri());
    in_time(move || {
        on_a_runtime(drop_when_woken(Box::pin(async move {
            drop(pools.get().await);
        })));
    });
    for member in 0..3 {
        on_a_runtime(all_closed(world.set.server(member)));
    }
}

/// Runs a closure when it is woken, and counts.
struct Doing<F>(F, AtomicUsize);

impl<F: Fn() + Send + Sync + 'static> Doing<F> {
    fn new(run: F) -> Arc<Self> {
        Arc::new(Self(run, AtomicUsize::new(0)))
    }

    fn count(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }

    /// Polls a future that must be pending.
    fn begin(self: &Arc<Self>, waits: Pin<&mut impl Future>) {
        let waker = Waker::from(self.clone());
        let polled = waits.poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
}

impl<F: Fn() + Send + Sync + 'static> Wake for Doing<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_waker_may_use_the_topology() {
    let world = Elsewhere::of(1);
    let options = ClientOptions::parse(&world.set.uri()).expect("a connection string");
    let topology = Topology::new(options).expect("a topology");
    in_time(move || {
        on_a_runtime(async move {
            let used = topology.clone();
            let waker = Doing::new(move || drop(used.options()));
            let write = Criterion::write();
            topology.connect().expect("connected");
            let mut selection = pin!(topology.select(&write));
            waker.begin(selection.as_mut());
            eventually("an update", || waker.count() > 0).await;
            drop(selection.await.expect("a server"));
            let secondary = ReadPreference::new(ReadPreferenceMode::Secondary);
            let secondary = Criterion::read(secondary).expect("a criterion");
            for end in ["disconnect", "close"] {
                let before = waker.count();
                let mut selection = pin!(topology.select(&secondary));
                waker.begin(selection.as_mut());
                match end {
                    "close" => topology.close().await,
                    _ => topology.disconnect().await,
                }
                eventually(end, || waker.count() > before).await;
            }
        });
    });
}

fn a_waker_may_use_the_pools<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(1);
    let gate = Gate::new();
    in_time(move || {
        on_a_runtime(async move {
            let pools = pools::<B>(&world.set.uri());
            let used = pools.clone();
            let waker = Doing::new(move || {
                drop((used.status(), used.topology().options()));
                drop(used.with_credential(two()));
            });
            let mut selection = Box::pin(pools.get());
            waker.begin(selection.as_mut());
            eventually("an update", || waker.count() > 0).await;
            let held = selection.await.expect("a connection");
            let rule = handshake().then(Action::WaitFor(gate.clone()));
            world.set.server(0).script().add(rule);
            // The waiter is served.
            let before = waker.count();
            let mut served = Box::pin(pools.get());
            waker.begin(served.as_mut());
            gate.open();
            eventually("a connection", || waker.count() > before).await;
            gate.close();
            let other = served.await.expect("a connection");
            // The credential of another is logged out.
            let tenant = pools.with_credential(one()).expect("a handle");
            let mut waits = Box::pin(tenant.get());
            waker.begin(waits.as_mut());
            tenant.logout().await;
            drop(waits.await.map(drop).expect_err("logged out"));
            // The server is no longer known.
            let before = waker.count();
            let mut waits = Box::pin(pools.get());
            waker.begin(waits.as_mut());
            pools.topology().disconnect().await;
            eventually("a change", || waker.count() > before).await;
            drop((held, other, waits));
        });
    });
}

async fn all_closed(server: &mongo_testkit::ScriptedServer) {
    server.wait_for("no socket", |seen| seen.open == 0).await;
}

/// Requests another handle when it is dropped.
struct Asking<B: Backend>(Pools<B>);

#[async_trait]
impl<B: Backend> CredentialProvider for Asking<B> {
    async fn credential(&self) -> Result<Arc<Credential>, Error> {
        Ok(Arc::new(one()))
    }
}

impl<B: Backend> Drop for Asking<B> {
    fn drop(&mut self) {
        let handle = self.0.with_credential(two());
        handle.expect("a handle");
    }
}

fn a_provider_may_use_the_pools_while_it_is_dropped<B: Backend<Config: Default>>() {
    in_time(|| {
        let pools = pools::<B>("mongodb://a.test/");
        let provider = Arc::new(Asking(pools.clone()));
        let handle = pools.with_credential_provider(provider).expect("a handle");
        // This drops the last reference to the provider.
        handle.rotate(one()).expect("a rotation");
    });
}

fn floating(topology: Topology, options: &ClientOptions) -> ConnectionFactory {
    ConnectionFactory::builder(options.clone())
        .floating(topology, Criterion::write())
        .build()
        .expect("a factory")
}

#[test]
fn the_last_floating_factory_may_be_dropped_during_a_topology_update() {
    let world = Elsewhere::of(3);
    let options = ClientOptions::parse(&world.set.uri()).expect("a connection string");
    let topology = Topology::new(options.clone()).expect("a topology");
    let factory = floating(topology.clone(), &options);
    in_time(move || on_a_runtime(drop_at_an_update(topology, factory)));
    for member in 0..3 {
        on_a_runtime(all_closed(world.set.server(member)));
    }
}

#[test]
fn a_selector_may_drop_the_last_floating_factory() {
    let world = Elsewhere::of(1);
    let options = ClientOptions::parse(&world.set.uri()).expect("a connection string");
    let dropping: Arc<Dropping<ConnectionFactory>> = Arc::new(Dropping(Mutex::new(None)));
    let dropped = dropping.clone();
    let selector = ServerSelector::new(move |servers| {
        dropped.let_go();
        servers.to_vec()
    });
    let topology = Topology::builder(options.clone()).server_selector(selector);
    let topology = topology.build().expect("a topology");
    let factory = floating(topology.clone(), &options);
    *dropping.0.lock().expect("no panic") = Some(factory);
    in_time(move || {
        on_a_runtime(async move {
            topology.connect().expect("connected");
            drop(topology);
            eventually("a selection", || dropping.is_over()).await;
        });
    });
}
