//! The README's program, with many tasks: writes that are checked, a cursor, a connection in hand, and an
//! error.
//!
//! Needs no server: the test kit's embedded one is started unless `MONGODB_URI` is set. All
//! documents in `quickstart.things` are deleted first.
//!
//! ```sh
//! cargo run --example quickstart
//! cargo run --example quickstart --no-default-features --features bb8
//! MONGODB_URI=mongodb://app:secret@localhost cargo run --example quickstart
//! ```

use bson::{Document, doc};
// The one line that names a backend: `use mongo_deadpool::…` or `use mongo_bb8::…` in your code.
use mongo_examples::Fatal;
use mongo_examples::backend::{Config, Error, OperationKind, PoolConfig, Pools, QueueMode};
use mongo_testkit::ScriptedServer;

const DATABASE: &str = "quickstart";

#[tokio::main]
async fn main() -> Result<(), Fatal> {
    let (uri, _embedded) = match std::env::var("MONGODB_URI") {
        Ok(uri) => (uri, None),
        Err(_) => {
            let server = ScriptedServer::start().await;
            println!("started an embedded server at {}", server.address());
            (server.uri(), Some(server))
        }
    };
    let mut config = Config::from_url(uri);
    config.pool = Some(PoolConfig {
        // The one default that deadpool and bb8 do not share.
        queue_mode: QueueMode::Lifo,
        ..PoolConfig::new(4)
    });
    let pools = config.create_pools()?;
    pools.verify().await?; // A wrong password is an error now.

    let delete = doc! { "delete": "things", "deletes": [{ "q": {}, "limit": 0 }] };
    let delete = pools.command(DATABASE, &delete).kind(OperationKind::Write);
    // A server can't recognise a write to many documents that it has carried out already.
    delete.not_retryable().await?.check_write()?;
    let insert = |number| tokio::spawn(insert(pools.clone(), number));
    let tasks: Vec<_> = (0..12).map(insert).collect();
    for task in tasks {
        println!("{}", task.await??);
    }

    println!("found:");
    let find = doc! { "find": "things", "filter": { "number": { "$gt": 8 } } };
    let find = pools.command(DATABASE, &find).kind(OperationKind::Read);
    let mut things = find.cursor().await?;
    while let Some(thing) = things.next::<Document>().await? {
        println!("  {thing}");
    }

    // A connection in hand runs commands as they are written.
    let mut connection = pools.get().await?;
    let unknown = doc! { "noSuchCommand": 1 };
    match connection.run_command(DATABASE, &unknown).await {
        Ok(reply) => println!("the server accepts any command: {:?}", reply.raw()),
        Err(error) => println!("an error reads: {error}"),
    }
    drop(connection); // Returned to its pool: `close` waits for connections in use.
    for pool in pools.status() {
        println!("the pool: {pool:?}");
    }
    pools.close().await;
    Ok(())
}

async fn insert(pools: Pools, number: i32) -> Result<String, Error> {
    let insert = doc! { "insert": "things", "documents": [{ "number": number }] };
    let insert = pools.command(DATABASE, &insert).kind(OperationKind::Write);
    // A write error, such as a duplicate key, is in a reply with `ok: 1`.
    insert.await?.check_write()?;
    Ok(format!("inserted {number}"))
}
