//! A custom transport: connections in memory, without a socket.
//!
//! A framework's own sockets, an SSH tunnel, or a test's lossy network can be used in the same way.
//!
//! ```sh
//! cargo run --example connector
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use bson::doc;
use mongo_core::net::{Connector, Stream};
use mongo_core::pools::ConnectionFactory;
use mongo_core::{ClientOptions, Deadline, ServerAddress};
use mongo_examples::Fatal;
use mongo_testkit::ScriptedServer;

/// The bytes that are buffered in each direction.
const ROOM: usize = 16 * 1024;

/// Connects all addresses to one embedded server.
struct InMemory(ScriptedServer);

#[async_trait]
impl Connector for InMemory {
    async fn connect(&self, address: &ServerAddress) -> mongo_core::Result<Stream> {
        println!("asked for {address}");
        // Any reader and writer; it is dropped with the connection.
        let (ours, servers) = tokio::io::duplex(ROOM);
        self.0.serve(servers).await;
        Ok(Stream::custom(ours))
    }
}

#[tokio::main]
async fn main() -> Result<(), Fatal> {
    let server = ScriptedServer::builder().without_listener().start().await;
    let options = ClientOptions::parse("mongodb://memory.example/?directConnection=true")?;
    // For a pool: `Manager::from(factory)`, or `MongoConnectionManager::from(factory)`.
    let factory = ConnectionFactory::builder(options)
        .connector(Arc::new(InMemory(server)))
        .build()?;
    let mut connection = factory.establish(Deadline::never()).await?;
    let echo = doc! { "echo": "hello" };
    let reply = connection.run_command("admin", &echo).await?;
    println!("answered: {}", reply.get_str("echo")?);
    Ok(())
}
