//! Checks out connections from a pool concurrently, and runs commands on them.
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
use mongo_examples::backend::{Config, Pool, PoolConfig, QueueMode, Runtime};
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
    let pool = config.create_pool(Some(Runtime::Tokio1))?;

    pool.get()
        .await?
        .run_command(
            DATABASE,
            &doc! { "delete": "things", "deletes": [{ "q": {}, "limit": 0 }] },
        )
        .await?
        .check_write()?;
    let tasks: Vec<_> = (0..12)
        .map(|number| tokio::spawn(insert(pool.clone(), number)))
        .collect();
    for task in tasks {
        println!("{}", task.await??);
    }

    let mut connection = pool.get().await?;
    let find = doc! { "find": "things", "filter": { "number": { "$gt": 8 } } };
    let reply = connection
        .run_command(DATABASE, &find)
        .await?
        .to_document()?;
    println!("found:");
    for document in reply.get_document("cursor")?.get_array("firstBatch")? {
        println!("  {document}");
    }

    let refused = connection
        .run_command(DATABASE, &doc! { "noSuchCommand": 1 })
        .await;
    match refused {
        Ok(reply) => println!("the server accepts any command: {:?}", reply.raw()),
        Err(error) => println!("an error reads: {error}"),
    }
    drop(connection);
    println!("the pool: {:?}", pool.status());
    pool.close();
    Ok(())
}

async fn insert(pool: Pool, number: i32) -> Result<String, mongo_examples::backend::Error> {
    let mut connection = pool.get().await?;
    let documents: [Document; 1] = [doc! { "number": number }];
    connection
        .run_command(
            DATABASE,
            &doc! { "insert": "things", "documents": &documents[..] },
        )
        .await?
        // A write error, such as a duplicate key, is in a reply with `ok: 1`.
        .check_write()?;
    Ok(format!(
        "inserted {number:>2} on connection {} to {}",
        connection.id(),
        connection.server()
    ))
}
