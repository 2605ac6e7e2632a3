//! The generic pools' own hooks, deadpool's and bb8's customizer, on `Pool` over a plain factory and
//! over one that floats.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_bb8::bb8::CustomizeConnection;
use mongo_core::bson::doc;
use mongo_core::net::Topology;
use mongo_core::pools::ConnectionFactory;
use mongo_core::select::Criterion;
use mongo_core::{ClientOptions, Connection, Error, ErrorKind};
use mongo_deadpool::{Hook, HookError};
use tokio::time::Instant;

use crate::support::{LIMIT, OverSim, Sim};

/// The steps of connections, in order.
#[derive(Clone, Debug, Default)]
struct Steps(Arc<Mutex<Vec<&'static str>>>);

impl Steps {
    fn add(&self, step: &'static str) {
        self.0.lock().expect("no panic").push(step);
    }

    /// The steps since the last call.
    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

/// A plain factory, and one that floats, whose connections note that they are initialised.
fn factories(sim: &Sim, steps: &Steps) -> [ConnectionFactory; 2] {
    let over_sim = || Arc::new(OverSim(sim.network.clone()));
    [false, true].map(|floats| {
        let uri = match floats {
            true => sim.set.uri(),
            false => format!("mongodb://{}", sim.set.address(0)),
        };
        let options = ClientOptions::parse(&uri).expect("a connection string");
        let own = steps.clone();
        let mut builder = ConnectionFactory::builder(options.clone())
            .connector(over_sim())
            .on_connect_boxed(move |connection| {
                let own = own.clone();
                Box::pin(async move {
                    ping(connection).await?;
                    own.add("on_connect");
                    Ok(())
                })
            });
        if floats {
            let topology = Topology::builder(options).connector(over_sim());
            let topology = topology.build().expect("a topology");
            builder = builder.floating(topology, Criterion::write());
        }
        builder.build().expect("a factory")
    })
}

async fn ping(connection: &mut Connection) -> Result<(), Error> {
    let pinged = connection.run_command("db", &doc! {"ping": 1}).await;
    pinged.map(drop)
}

fn deadpool(factory: ConnectionFactory) -> mongo_deadpool::PoolBuilder {
    let builder = mongo_deadpool::Pool::builder(factory.into());
    builder.max_size(1).runtime(mongo_deadpool::Runtime::Tokio1)
}

/// A hook that runs a command and notes its step.
fn noting(steps: &Steps, step: &'static str) -> Hook {
    let steps = steps.clone();
    Hook::async_fn(move |connection, _| {
        let steps = steps.clone();
        Box::pin(async move {
            ping(connection).await.map_err(HookError::Backend)?;
            steps.add(step);
            Ok(())
        })
    })
}

#[tokio::test(start_paused = true)]
async fn deadpool_runs_its_hooks_in_order() {
    let (sim, steps) = (Sim::of(1).await, Steps::default());
    for factory in factories(&sim, &steps) {
        let builder = deadpool(factory)
            .post_create(noting(&steps, "post_create"))
            .pre_recycle(noting(&steps, "pre_recycle"))
            .post_recycle(noting(&steps, "post_recycle"));
        let pool = mongo_deadpool::Pool::from(builder.build().expect("a pool"));
        let first = pool.get().await.expect("a connection");
        let id = first.id();
        assert_eq!(steps.take(), ["on_connect", "post_create"]);
        drop(first);
        let second = pool.get().await.expect("a connection");
        assert_eq!(second.id(), id);
        assert_eq!(steps.take(), ["pre_recycle", "post_recycle"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadpool_hook_that_refuses_a_new_connection_fails_the_check_out_at_once() {
    let (sim, steps) = (Sim::of(1).await, Steps::default());
    for factory in factories(&sim, &steps) {
        let refusing = Hook::sync_fn(|_, _| Err(HookError::message("not to my taste")));
        let builder = deadpool(factory).post_create(refusing);
        let pool = mongo_deadpool::Pool::from(builder.build().expect("a pool"));
        for _ in 0..2 {
            let begun = Instant::now();
            let error = pool.get().await.map(drop).expect_err("refused");
            assert!(matches!(error.kind(), ErrorKind::Pool(text) if text == "not to my taste"));
            assert!(begun.elapsed() < Duration::from_secs(1));
            assert_eq!(pool.status().size, 0);
            assert_eq!(steps.take(), ["on_connect"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadpool_hook_that_refuses_an_idle_connection_replaces_it() {
    let (sim, steps) = (Sim::of(1).await, Steps::default());
    for place in ["pre_recycle", "post_recycle"] {
        for factory in factories(&sim, &steps) {
            let refusing = Hook::sync_fn(|_, _| Err(HookError::message("too old")));
            let builder = match place {
                "pre_recycle" => deadpool(factory).pre_recycle(refusing),
                _ => deadpool(factory).post_recycle(refusing),
            };
            let pool = mongo_deadpool::Pool::from(builder.build().expect("a pool"));
            let first = pool.get().await.expect("a connection");
            let id = first.id();
            drop(first);
            let second = pool.get().await.expect("another connection");
            assert_ne!(second.id(), id, "{place}");
            assert_eq!(pool.status().size, 1, "{place}");
            assert_eq!(steps.take(), ["on_connect", "on_connect"], "{place}");
        }
    }
}

/// What a customizer does.
#[derive(Clone, Copy, Debug)]
enum Customizes {
    Well,
    Refuses,
}

#[derive(Debug)]
struct Customizer(Steps, Customizes);

impl CustomizeConnection<Connection, Error> for Customizer {
    fn on_acquire<'a>(
        &'a self,
        connection: &'a mut Connection,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> {
        Box::pin(async move {
            ping(connection).await?;
            self.0.add("customizer");
            match self.1 {
                Customizes::Well => Ok(()),
                Customizes::Refuses => Err(ErrorKind::Pool("not to my taste".to_owned()).into()),
            }
        })
    }
}

fn bb8(factory: ConnectionFactory, steps: &Steps, customizes: Customizes) -> mongo_bb8::Pool {
    let customizer = Customizer(steps.clone(), customizes);
    let builder = mongo_bb8::Pool::builder()
        .max_size(1)
        .connection_timeout(LIMIT)
        .connection_customizer(Box::new(customizer));
    mongo_bb8::Pool::build(builder, factory.into()).expect("a pool")
}

#[tokio::test(start_paused = true)]
async fn bb8_customizes_each_new_connection_once() {
    let (sim, steps) = (Sim::of(1).await, Steps::default());
    for factory in factories(&sim, &steps) {
        let pool = bb8(factory, &steps, Customizes::Well);
        let first = pool.get().await.expect("a connection");
        let id = first.id();
        assert_eq!(steps.take(), ["on_connect", "customizer"]);
        drop(first);
        let mut second = pool.get().await.expect("a connection");
        assert_eq!(second.id(), id);
        assert_eq!(steps.take(), [""; 0]);
        // A closed one is replaced.
        second.close();
        drop(second);
        drop(pool.get().await.expect("another connection"));
        assert_eq!(steps.take(), ["on_connect", "customizer"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bb8_customizer_that_refuses_fails_the_check_out_at_once() {
    let (sim, steps) = (Sim::of(1).await, Steps::default());
    for factory in factories(&sim, &steps) {
        let pool = bb8(factory, &steps, Customizes::Refuses);
        for _ in 0..2 {
            let begun = Instant::now();
            let error = pool.get().await.map(drop).expect_err("refused");
            assert!(matches!(error.kind(), ErrorKind::Pool(text) if text == "not to my taste"));
            assert!(begun.elapsed() < Duration::from_secs(1));
            assert_eq!(pool.status().size, 0);
            assert_eq!(steps.take(), ["on_connect", "customizer"]);
        }
    }
}

/// A bare bb8 over a floating manager, with bb8's own `get`.
#[tokio::test(start_paused = true)]
async fn a_bare_bb8_customizes_connections_of_a_floating_manager() {
    let (sim, steps) = (Sim::of(1).await, Steps::default());
    for factory in factories(&sim, &steps) {
        let pool = mongo_bb8::Pool::builder()
            .max_size(1)
            .connection_customizer(Box::new(Customizer(steps.clone(), Customizes::Well)))
            .build_unchecked(mongo_bb8::MongoConnectionManager::from(factory));
        let mut connection = pool.get().await.expect("a connection");
        assert_eq!(steps.take(), ["on_connect", "customizer"]);
        ping(&mut connection).await.expect("a pong");
    }
}

/// A hook may close the connection: it is not handed out.
#[tokio::test(start_paused = true)]
async fn a_hook_that_closes_an_idle_connection_replaces_it() {
    let (sim, steps) = (Sim::of(1).await, Steps::default());
    for factory in factories(&sim, &steps) {
        let closing = Hook::sync_fn(|connection: &mut Connection, _| {
            connection.close();
            Ok(())
        });
        let builder = deadpool(factory).pre_recycle(closing);
        let pool = mongo_deadpool::Pool::from(builder.build().expect("a pool"));
        drop(pool.get().await.expect("a connection"));
        let mut second = pool.get().await.expect("another connection");
        ping(&mut second).await.expect("a pong");
        assert_eq!(steps.take(), ["on_connect", "on_connect"]);
    }
}
