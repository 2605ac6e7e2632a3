//! The application's own generic pools, over a manager that follows a selection criterion.

use std::future::Future;

use mongo_core::bson::doc;
use mongo_core::net::Topology;
use mongo_core::pools::ConnectionFactory;
use mongo_core::select::{Criterion, ReadPreference, ReadPreferenceMode};
use mongo_core::{ClientOptions, Connection, Error, ErrorKind, ServerAddress};
use mongo_testkit::Deployment;
use tokio::time::timeout;

use crate::support::LIMIT;

/// A generic pool without this crate's wrapper.
trait Bare: Sized {
    fn build(factory: ConnectionFactory, max_size: u32) -> Self;

    /// Runs something on a connection of the pool.
    fn with<R>(
        &self,
        run: impl AsyncFnOnce(&mut Connection) -> R,
    ) -> impl Future<Output = Result<R, Error>>;
}

impl Bare for mongo_deadpool::managed::Pool {
    fn build(factory: ConnectionFactory, max_size: u32) -> Self {
        let manager = mongo_deadpool::Manager::from(factory);
        let builder = Self::builder(manager).max_size(max_size as usize);
        builder.build().expect("a pool")
    }

    async fn with<R>(&self, run: impl AsyncFnOnce(&mut Connection) -> R) -> Result<R, Error> {
        match self.get().await {
            Ok(mut connection) => Ok(run(&mut connection).await),
            Err(mongo_deadpool::PoolError::Backend(error)) => Err(error),
            Err(error) => panic!("{error}"),
        }
    }
}

impl Bare for mongo_bb8::bb8::Pool<mongo_bb8::MongoConnectionManager> {
    fn build(factory: ConnectionFactory, max_size: u32) -> Self {
        let builder = Self::builder().max_size(max_size);
        builder.build_unchecked(mongo_bb8::MongoConnectionManager::from(factory))
    }

    async fn with<R>(&self, run: impl AsyncFnOnce(&mut Connection) -> R) -> Result<R, Error> {
        match self.get().await {
            Ok(mut connection) => Ok(run(&mut connection).await),
            Err(mongo_bb8::bb8::RunError::User(error)) => Err(error),
            Err(error) => panic!("{error}"),
        }
    }
}

on_both! {
    of mongo_deadpool::managed::Pool,
    mongo_bb8::bb8::Pool<mongo_bb8::MongoConnectionManager>:
    a_generic_pool_follows_a_failover,
    a_held_connection_sends_no_write_to_a_former_primary,
    a_generic_pool_reads_from_secondaries,
    connections_to_a_killed_server_are_replaced,
}

fn floating<P: Bare>(uri: &str, criterion: Criterion, max_size: u32) -> (P, Topology) {
    let options = ClientOptions::parse(uri).expect("a connection string");
    let topology = Topology::new(options.clone()).expect("a topology");
    let factory = ConnectionFactory::builder(options)
        .floating(topology.clone(), criterion)
        .build()
        .expect("a factory");
    (P::build(factory, max_size), topology)
}

async fn insert<P: Bare>(pool: &P) -> Result<ServerAddress, Error> {
    let insert = doc! {"insert": "c", "documents": [{"x": 1}]};
    let ran = pool.with(async |connection| {
        connection.run_command("db", &insert).await?;
        Ok(connection.server().clone())
    });
    timeout(LIMIT, ran)
        .await
        .expect("in time")
        .and_then(|inner| inner)
}

/// Inserts until a server accepts it. The former primary refuses it.
async fn insert_somewhere<P: Bare>(pool: &P) -> String {
    let inserted = async {
        loop {
            match insert(pool).await {
                Ok(server) => return server.to_string(),
                Err(error) if error.code() == Some(10107) => {}
                Err(error) => assert!(is_passing(&error), "{error}"),
            }
        }
    };
    timeout(LIMIT, inserted).await.expect("in time")
}

fn is_passing(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotWritable | ErrorKind::Network(_) | ErrorKind::Connect(_)
    )
}

async fn a_generic_pool_follows_a_failover<P: Bare>() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let (pool, _topology) = floating::<P>(&set.uri(), Criterion::write(), 1);
    let first = insert(&pool).await.expect("a primary");
    assert_eq!(first.to_string(), set.address(0));
    for primary in [1, 2, 0] {
        set.elect(primary);
        // With a single slot the new connection replaces the old one.
        assert_eq!(insert_somewhere(&pool).await, set.address(primary));
    }
    assert_eq!(set.documents("db.c").len(), 4);
}

async fn a_held_connection_sends_no_write_to_a_former_primary<P: Bare>() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let (pool, topology) = floating::<P>(&set.uri(), Criterion::write(), 2);
    let outcome = pool.with(async |connection| {
        set.elect(1);
        let mut changes = topology.subscribe();
        let is_known = changes.wait_for(|known| {
            known.servers().iter().any(|server| {
                server.address.to_string() == set.address(1)
                    && server.server_type == mongo_core::sdam::ServerType::RsPrimary
            })
        });
        timeout(LIMIT, is_known)
            .await
            .expect("in time")
            .expect("alive");
        let insert = doc! {"insert": "c", "documents": [{"x": 1}]};
        let refused = connection.run_command("db", &insert).await.map(drop);
        refused.expect_err("no longer the primary")
    });
    let error = outcome.await.expect("a connection");
    assert!(matches!(error.kind(), ErrorKind::NotWritable), "{error}");
    assert_eq!(set.server(0).look(|seen| seen.refused_writes.len()), 0);
}

async fn a_generic_pool_reads_from_secondaries<P: Bare>() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let secondary = ReadPreference::new(ReadPreferenceMode::Secondary);
    let secondary = Criterion::read(secondary).expect("a criterion");
    let (pool, _topology) = floating::<P>(&set.uri(), secondary, 1);
    let server = pool.with(async |connection| connection.server().to_string());
    let server = timeout(LIMIT, server).await.expect("in time").expect("one");
    assert_ne!(server, set.address(0));
    // As soon as it is the primary, it serves no more reads.
    let elected = (1..3).find(|&member| set.address(member) == server);
    set.elect(elected.expect("a secondary"));
    let other = timeout(LIMIT, async {
        loop {
            let next = pool.with(async |connection| connection.server().to_string());
            let next = next.await.expect("a connection");
            if next != server {
                break next;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_ne!(other.await.expect("in time"), server);
}

async fn connections_to_a_killed_server_are_replaced<P: Bare>() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let (pool, _topology) = floating::<P>(&set.uri(), Criterion::write(), 2);
    insert(&pool).await.expect("a primary");
    set.kill(0).await;
    set.elect(1);
    assert_eq!(insert_somewhere(&pool).await, set.address(1));
}
