//! Connections survive primary step-down, on a real server.

use mongo_core::bson::{Document, doc};
use mongo_core::pools::{Backend, PoolState, Pools};
use mongo_core::{Error, ServerAddress};
use mongo_testkit::{Deployment, RealServer};

use crate::support::{Kept, builder, eventually};

on_both! {
    get_more_iteration,
    not_primary_keep_connection_pool,
    shutdown_in_progress_reset_connection_pool,
    interrupted_at_shutdown_reset_connection_pool,
}

/// A set of three with an empty collection `step-down.step-down`, pools, and their events.
struct SetUp<B: Backend> {
    set: Deployment,
    pools: Pools<B>,
    kept: Kept,
}

impl<B: Backend<Config: Default>> SetUp<B> {
    async fn new() -> Self {
        let set = Deployment::replica_set("rs").members(3);
        let set = set.backed_by(RealServer::start()).start().await;
        let kept = Kept::default();
        // Errors of fail points have no topologyVersion, so the server has to be checked soon.
        let uri = format!("{}&heartbeatFrequencyMS=500&retryWrites=false", set.uri());
        let pools = builder(&uri).event_handlers(kept.handlers()).build();
        let this = Self {
            set,
            pools: pools.expect("pools"),
            kept,
        };
        let create = doc! {"create": "step-down", "writeConcern": {"w": "majority"}};
        this.run(create).await.expect("a collection");
        this
    }

    async fn run(&self, command: Document) -> Result<(Document, ServerAddress), Error> {
        let mut connection = self.pools.get().await?;
        let reply = connection.run_command("step-down", &command).await?;
        let reply = reply.to_document()?;
        Ok((reply, connection.server().clone()))
    }

    async fn run_on(&self, server: &ServerAddress, database: &str, command: Document) -> Document {
        let pool = self.pools.for_server(server).expect("a pool");
        let limit = mongo_core::Deadline::after(crate::support::LIMIT);
        let mut connection = pool.get(limit).await.expect("a connection");
        let reply = connection.run_command(database, &command).await;
        reply.expect("a reply").to_document().expect("a document")
    }

    /// Runs an insert that fails with a code, and another one that succeeds.
    async fn fail_once(&self, code: i32) {
        let data = doc! {"failCommands": ["insert"], "errorCode": code};
        self.set.fail_commands(0, doc! {"times": 1}, data);
        let insert = doc! {"insert": "step-down", "documents": [{"test": 1}]};
        let failed = self.run(insert.clone()).await;
        assert_eq!(failed.expect_err("a failure").code(), Some(code));
        let cleared = self.kept.count("PoolCleared");
        assert_eq!(
            cleared,
            usize::from(code != 10107),
            "{:?}",
            self.kept.names()
        );
        self.run(insert).await.expect("an insert");
        assert_eq!(self.kept.count("PoolCleared"), cleared);
    }

    async fn end(self) {
        self.pools.close().await;
        self.set.shutdown().await;
    }
}

/// "getMore Iteration": a cursor continues on its connection after a step-down, and no pool is
/// cleared.
async fn get_more_iteration<B: Backend<Config: Default>>() {
    let set_up = SetUp::<B>::new().await;
    let documents: Vec<_> = (0..5).map(|x| doc! {"x": x}).collect();
    let insert = doc! {
        "insert": "step-down",
        "documents": documents,
        "writeConcern": {"w": "majority"},
    };
    set_up.run(insert).await.expect("an insert");
    let found = set_up.run(doc! {"find": "step-down", "batchSize": 2}).await;
    let (found, primary) = found.expect("a first batch");
    let cursor = found.get_document("cursor").expect("a cursor");
    let id = cursor.get_i64("id").expect("an open cursor");

    let secondary = set_up.set.address(1).parse().expect("an address");
    let pool = set_up.pools.for_server(&secondary).expect("a pool");
    let is_ready = || pool.status().state == PoolState::Ready;
    eventually("the secondary is known", is_ready).await;
    let freeze = doc! {"replSetFreeze": 0};
    set_up.run_on(&secondary, "admin", freeze).await;
    let step_down = doc! {"replSetStepDown": 30, "force": true};
    set_up.run_on(&primary, "admin", step_down).await;
    let more = doc! {"getMore": id, "collection": "step-down", "batchSize": 2};
    let more = set_up.run_on(&primary, "step-down", more).await;
    let batch = more.get_document("cursor").expect("a cursor");
    assert_eq!(batch.get_array("nextBatch").expect("a batch").len(), 2);

    let insert = doc! {"insert": "step-down", "documents": [{"test": 1}]};
    let elected = loop {
        match set_up.run(insert.clone()).await {
            Ok((_, elected)) => break elected,
            // The monitors have not noticed the election yet.
            Err(error) => assert_eq!(error.code(), Some(10107), "{error}"),
        }
    };
    assert_ne!(elected, primary);
    assert_eq!(set_up.kept.count("PoolCleared"), 0);
    set_up.end().await;
}

async fn not_primary_keep_connection_pool<B: Backend<Config: Default>>() {
    let set_up = SetUp::<B>::new().await;
    set_up.fail_once(10107).await;
    set_up.end().await;
}

async fn shutdown_in_progress_reset_connection_pool<B: Backend<Config: Default>>() {
    let set_up = SetUp::<B>::new().await;
    set_up.fail_once(91).await;
    set_up.end().await;
}

async fn interrupted_at_shutdown_reset_connection_pool<B: Backend<Config: Default>>() {
    let set_up = SetUp::<B>::new().await;
    set_up.fail_once(11600).await;
    set_up.end().await;
}
