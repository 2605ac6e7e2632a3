//! The application's `on_connect`: when it runs, how it ends, and what its failures mean.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::event::{CmapEvent, ConnectionClosedReason, EventHandlers};
use mongo_core::net::{ConnectFuture, Topology};
use mongo_core::pools::{Backend, ConnectionFactory, Pools, PoolsBuilder};
use mongo_core::select::Criterion;
use mongo_core::{ClientOptions, Connection, Error, ErrorKind};
use mongo_testkit::{Action, Matcher};
use tokio::runtime::Builder;
use tokio::time::{Instant, timeout};

use crate::support::{
    Elsewhere, Kept, LIMIT, OverSim, Sim, eventually, get_in_task, one, ping, status_of, two,
};

on_both! {
    on a paused clock:
    every_connection_is_initialised_after_authentication,
    an_async_closure_is_accepted,
    a_dropped_check_out_leaves_an_initialised_connection,
    a_close_cancels_the_initialisation,
    connections_made_in_advance_are_initialised,
    a_warm_up_fails_with_the_function,
    rotated_credentials_are_initialised_again,
    a_floating_factory_initialises_each_connection,
}

on_both! {
    on runtimes of their own:
    an_initialisation_ends_with_its_runtime,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Doing {
    #[default]
    Ping,
    Fail,
    Panic,
    Hang,
    /// Ignores what becomes of its command.
    Ignore,
}

/// An `on_connect`, and what it did.
#[derive(Clone, Default)]
pub(crate) struct Hook(Arc<State>);

#[derive(Default)]
struct State {
    doing: Mutex<Doing>,
    begun: AtomicUsize,
    /// Calls that have succeeded: the users of their connections.
    done: Mutex<Vec<Option<String>>>,
    /// Calls that were dropped before they ended.
    dropped: AtomicUsize,
}

/// Counts a call that is dropped.
struct Running<'a>(&'a State, bool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Hook {
    pub(crate) fn doing(doing: Doing) -> Self {
        let hook = Self::default();
        hook.set(doing);
        hook
    }

    pub(crate) fn set(&self, doing: Doing) {
        *self.0.doing.lock().expect("no panic") = doing;
    }

    pub(crate) fn begun(&self) -> usize {
        self.0.begun.load(Ordering::SeqCst)
    }

    pub(crate) fn dropped(&self) -> usize {
        self.0.dropped.load(Ordering::SeqCst)
    }

    pub(crate) fn users(&self) -> Vec<Option<String>> {
        self.0.done.lock().expect("no panic").clone()
    }

    pub(crate) fn call<'a>(&self, connection: &'a mut Connection) -> ConnectFuture<'a> {
        let state = self.0.clone();
        Box::pin(async move {
            state.begun.fetch_add(1, Ordering::SeqCst);
            let mut running = Running(&state, false);
            let doing = *state.doing.lock().expect("no panic");
            let pinged = connection.run_command("db", &doc! {"ping": 1}).await;
            let pinged = pinged.map(drop);
            match doing {
                Doing::Ping => pinged?,
                Doing::Fail => return Err(Error::on_connect("the schema is too old")),
                Doing::Panic => {
                    running.1 = true;
                    panic!("on purpose")
                }
                Doing::Hang => std::future::pending().await,
                Doing::Ignore => drop(pinged),
            }
            running.1 = true;
            let user = connection.user().map(str::to_owned);
            state.done.lock().expect("no panic").push(user);
            Ok(())
        })
    }

    pub(crate) fn on<B: Backend>(&self, builder: PoolsBuilder<B>) -> PoolsBuilder<B> {
        let hook = self.clone();
        builder.on_connect_boxed(move |connection| hook.call(connection))
    }

    pub(crate) fn pools<B: Backend<Config: Default>>(
        &self,
        sim: &Sim,
        options: &str,
    ) -> (Pools<B>, Kept) {
        let kept = Kept::default();
        let builder = sim.builder::<B>(options).event_handlers(kept.handlers());
        (self.on(builder).build().expect("pools"), kept)
    }
}

/// The errors and reasons with which connections were closed.
pub(crate) fn closed(kept: &Kept) -> Vec<(ConnectionClosedReason, Option<Error>)> {
    let events = kept.events().into_iter();
    let closed = events.filter_map(|event| match event {
        CmapEvent::ConnectionClosed(own) => Some((own.reason, own.error)),
        _ => None,
    });
    closed.collect()
}

pub(crate) fn is_of_hook(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::OnConnect(_))
}

async fn every_connection_is_initialised_after_authentication<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let steps = Arc::new(Mutex::new(Vec::new()));
    let (seen, initialised) = (steps.clone(), steps.clone());
    let events = EventHandlers::new().on_cmap(move |event| {
        if let CmapEvent::ConnectionReady(_) = event {
            seen.lock().expect("no panic").push("ready".to_owned());
        }
    });
    let builder = sim.builder::<B>("maxPoolSize=2").event_handlers(events);
    let builder = builder.on_connect_boxed(move |connection| {
        let initialised = initialised.clone();
        Box::pin(async move {
            let is_authenticated = connection.description().authenticated.is_some();
            let step = format!("{:?} {is_authenticated}", connection.user());
            initialised.lock().expect("no panic").push(step);
            // A pause, in which a connection would be handed out too early.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let insert = doc! {"insert": "initialised", "documents": [{"x": 1}]};
            connection.run_command("db", &insert).await?;
            Ok(())
        })
    });
    let pools = builder.build().expect("pools");
    let pools = pools.with_credential(one()).expect("a handle");
    let held = [pools.get().await, pools.get().await].map(|own| own.expect("a connection"));
    assert_eq!(sim.set.documents("db.initialised").len(), 2);
    drop(held);
    // Not for an idle connection.
    ping(&pools).await.expect("a ping");
    assert_eq!(sim.set.documents("db.initialised").len(), 2);
    let steps = steps.lock().expect("no panic").clone();
    let one = "Some(\"one\") true";
    assert_eq!(steps, [one, "ready", one, "ready"]);
}

async fn an_async_closure_is_accepted<B: Backend<Config: Default>>() {
    async fn named(connection: &mut Connection) -> Result<(), Error> {
        connection.run_command("db", &doc! {"ping": 1}).await?;
        Ok(())
    }
    let sim = Sim::of(1).await;
    let closure = sim
        .builder::<B>("")
        .on_connect(async |connection: &mut Connection| {
            let insert = doc! {"insert": "c", "documents": [{"x": 1}]};
            connection.run_command("db", &insert).await?.check_write()
        });
    for builder in [closure, sim.builder::<B>("").on_connect(named)] {
        let pools = builder.build().expect("pools");
        let pools = pools.with_credential(one()).expect("a handle");
        ping(&pools).await.expect("a ping");
    }
    assert_eq!(sim.set.documents("db.c").len(), 1);
}

async fn a_dropped_check_out_leaves_an_initialised_connection<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let slow = Action::Delay(Duration::from_millis(100));
    let rule = Matcher::command("ping").once().then(slow);
    sim.set.server(0).script().add(rule);
    let hook = Hook::default();
    let (pools, _) = hook.pools::<B>(&sim, "maxPoolSize=1");
    let caller = get_in_task(&pools);
    eventually("it runs", || hook.begun() == 1).await;
    caller.abort();
    assert!(caller.await.is_err());
    let status = status_of(&pools);
    assert_eq!((status.pending, status.idle), (1, 0), "not available yet");
    drop(pools.get().await.expect("the same connection"));
    assert_eq!((hook.begun(), hook.users().len()), (1, 1));
}

async fn a_close_cancels_the_initialisation<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let hook = Hook::doing(Doing::Hang);
    let (pools, kept) = hook.pools::<B>(&sim, "maxPoolSize=1&connectTimeoutMS=0");
    let caller = get_in_task(&pools);
    eventually("it runs", || hook.begun() == 1).await;
    timeout(Duration::from_secs(5), pools.close())
        .await
        .expect("in time");
    let error = caller.await.expect("no panic").map(drop);
    let error = error.expect_err("closed");
    assert!(matches!(error.kind(), ErrorKind::PoolClosed), "{error}");
    assert_eq!((hook.dropped(), hook.users().len()), (1, 0));
    let ends = closed(&kept);
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0].0, ConnectionClosedReason::PoolClosed);
}

async fn connections_made_in_advance_are_initialised<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let hook = Hook::default();
    let (pools, _) = hook.pools::<B>(&sim, "minPoolSize=3&maxPoolSize=5");
    pools.warm_up().await.expect("three connections");
    assert_eq!(hook.users().len(), 3);
    assert_eq!(status_of(&pools).size, 3);
    // Maintenance makes them too.
    let hook = Hook::default();
    let (pools, _) = hook.pools::<B>(&sim, "minPoolSize=2&maxPoolSize=5");
    pools.connect().expect("a runtime");
    eventually("maintenance", || hook.users().len() == 2).await;
}

async fn a_warm_up_fails_with_the_function<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let hook = Hook::doing(Doing::Fail);
    let (pools, _) = hook.pools::<B>(&sim, "minPoolSize=3&maxPoolSize=5");
    let begun = Instant::now();
    let error = pools.warm_up().await.expect_err("it fails");
    assert!(is_of_hook(&error), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{error}");
    assert_eq!(status_of(&pools).idle, 0);
    hook.set(Doing::Ping);
    pools.warm_up().await.expect("three connections");
    assert_eq!(status_of(&pools).size, 3);
}

async fn rotated_credentials_are_initialised_again<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let hook = Hook::default();
    let (pools, _) = hook.pools::<B>(&sim, "");
    let tenant = pools.with_credential(one()).expect("a handle");
    ping(&tenant).await.expect("a ping");
    tenant.rotate(two()).expect("a rotation");
    ping(&tenant).await.expect("a ping");
    ping(&tenant).await.expect("a ping");
    let users = hook.users();
    let named = |name: &str| Some(name.to_owned());
    assert_eq!(users, [named("one"), named("two")]);
}

async fn a_floating_factory_initialises_each_connection<B: Backend<Config: Default>>() {
    let sim = Sim::of(2).await;
    let options = ClientOptions::parse(&sim.set.uri()).expect("a connection string");
    let over_sim = || Arc::new(OverSim(sim.network.clone()));
    let topology = Topology::builder(options.clone()).connector(over_sim());
    let hook = Hook::default();
    let own = hook.clone();
    let factory = ConnectionFactory::builder(options)
        .connector(over_sim())
        .floating(topology.build().expect("a topology"), Criterion::write())
        .on_connect_boxed(move |connection| own.call(connection))
        .build()
        .expect("a factory");
    let pool = B::build(factory, 1, &B::Config::default()).expect("a pool");
    let deadline = || LIMIT.into();
    drop(pool.get(deadline()).await.expect("a connection"));
    assert_eq!(hook.users().len(), 1);
    sim.set.elect(1);
    hook.set(Doing::Fail);
    let refused = timeout(LIMIT, async {
        loop {
            match pool.get(deadline()).await {
                Ok(connection) => {
                    drop(connection);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) if is_of_hook(&error) => break error,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let error = refused.await.expect("in time");
    assert_eq!(
        error.server().map(ToString::to_string),
        Some(sim.set.address(1))
    );
}

fn an_initialisation_ends_with_its_runtime<B: Backend<Config: Default>>() {
    let elsewhere = Elsewhere::of(1);
    let hook = Hook::doing(Doing::Hang);
    let uri = format!("{}&maxPoolSize=1", elsewhere.set.uri());
    let pools = hook
        .on(crate::support::builder::<B>(&uri))
        .build()
        .expect("pools");
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        drop(get_in_task(&pools));
        eventually("it runs", || hook.begun() == 1).await;
    });
    runtime.shutdown_timeout(LIMIT);
    assert_eq!((hook.dropped(), hook.users().len()), (1, 0));
    hook.set(Doing::Ping);
    crate::support::on_a_runtime(async {
        ping(&pools).await.expect("a ping on another runtime");
    });
    assert_eq!(hook.users().len(), 1);
}
