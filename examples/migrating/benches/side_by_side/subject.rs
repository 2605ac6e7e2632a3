//! The four clients, each used as its documentation shows.

use std::time::Duration;

use mongo_core::pools::{Backend, Pools};
use mongodb::bson;
use mongodb::options::ClientOptions;

/// In the order of the table.
pub(crate) const NAMES: [&str; 4] = [BB8_MONGODB, OFFICIAL, MONGO_BB8, MONGO_DEADPOOL];
pub(crate) const BB8_MONGODB: &str = "bb8-mongodb";
pub(crate) const OFFICIAL: &str = "mongodb";
pub(crate) const MONGO_BB8: &str = "mongo-bb8";
pub(crate) const MONGO_DEADPOOL: &str = "mongo-deadpool";

/// The slots of each pool.
pub(crate) const SLOTS: u32 = 10;

/// An error's text, with its causes.
pub(crate) type Outcome<T> = Result<T, String>;

/// A pool, or what stands for one. An operation takes a slot, runs a command and gives it back.
pub(crate) trait Subject: Clone + Send + Sync + 'static {
    /// Makes a pool, which connects now or with its first operation.
    fn new(uri: &str, wait: Option<Duration>) -> impl Future<Output = Outcome<Self>> + Send;

    fn ping(&self) -> impl Future<Output = Outcome<()>> + Send;

    /// A command that the server holds back.
    fn find(&self) -> impl Future<Output = Outcome<()>> + Send;
}

fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn failed<E: std::error::Error>(error: E) -> String {
    text(&error)
}

/// A bb8 whose connections are whole clients.
#[derive(Clone)]
pub(crate) struct PoolOfClients(bb8::Pool<bb8_mongodb::MongodbConnectionManager>);

impl PoolOfClients {
    async fn run(&self, command: bson::Document) -> Outcome<()> {
        let database = self.0.get().await.map_err(failed)?;
        let reply = database.run_command(command).await;
        reply.map(drop).map_err(failed)
    }
}

impl Subject for PoolOfClients {
    async fn new(uri: &str, wait: Option<Duration>) -> Outcome<Self> {
        let options = ClientOptions::parse(uri).await.map_err(failed)?;
        let manager = bb8_mongodb::MongodbConnectionManager::new(options, "app");
        let mut builder = bb8::Pool::builder().max_size(SLOTS);
        if let Some(wait) = wait {
            builder = builder.connection_timeout(wait);
        }
        builder.build(manager).await.map(Self).map_err(failed)
    }

    async fn ping(&self) -> Outcome<()> {
        self.run(bson::doc! { "ping": 1 }).await
    }

    async fn find(&self) -> Outcome<()> {
        self.run(bson::doc! { "find": "orders" }).await
    }
}

/// The official driver's client, which has a pool of its own.
#[derive(Clone)]
pub(crate) struct Official(mongodb::Client);

impl Official {
    async fn run(&self, command: bson::Document) -> Outcome<()> {
        let reply = self.0.database("app").run_command(command).await;
        reply.map(drop).map_err(failed)
    }
}

impl Subject for Official {
    async fn new(uri: &str, wait: Option<Duration>) -> Outcome<Self> {
        let options = ClientOptions::parse(with(uri, wait))
            .await
            .map_err(failed)?;
        let client = mongodb::Client::with_options(options);
        client.map(Self).map_err(failed)
    }

    async fn ping(&self) -> Outcome<()> {
        self.run(bson::doc! { "ping": 1 }).await
    }

    async fn find(&self) -> Outcome<()> {
        self.run(bson::doc! { "find": "orders" }).await
    }
}

impl<B: Backend<Config: Default>> Subject for Pools<B> {
    async fn new(uri: &str, wait: Option<Duration>) -> Outcome<Self> {
        Pools::new(&with(uri, wait)).map_err(failed)
    }

    async fn ping(&self) -> Outcome<()> {
        let mut connection = self.get().await.map_err(failed)?;
        let command = ::bson::doc! { "ping": 1 };
        let reply = connection.run_command("app", &command).await;
        reply.map(drop).map_err(failed)
    }

    async fn find(&self) -> Outcome<()> {
        let mut connection = self.get().await.map_err(failed)?;
        let command = ::bson::doc! { "find": "orders" };
        let reply = connection.run_command("app", &command).await;
        reply.map(drop).map_err(failed)
    }
}

/// The connection string with the pool's settings.
fn with(uri: &str, wait: Option<Duration>) -> String {
    let wait = wait.map(|wait| format!("&waitQueueTimeoutMS={}", wait.as_millis()));
    format!("{uri}&maxPoolSize={SLOTS}{}", wait.unwrap_or_default())
}
