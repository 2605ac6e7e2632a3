//! A framework that abstracts over databases: MongoDB implements its trait, beside another
//! backend, and the framework's feature flags choose the pool.
//!
//! ```sh
//! cargo run --example framework
//! cargo run --example framework --no-default-features --features bb8
//! MONGODB_URI=mongodb://app:secret@localhost cargo run --example framework
//! ```

mod database;
mod memory;
mod mongo;

use database::{Database, DatabaseError};
use mongo_examples::Fatal;
use mongo_testkit::Deployment;

#[tokio::main]
async fn main() -> Result<(), Fatal> {
    let (uri, _embedded) = match std::env::var("MONGODB_URI") {
        Ok(uri) => (uri, None),
        Err(_) => {
            let set = Deployment::replica_set("embedded").members(3).start().await;
            (set.uri(), Some(set))
        }
    };
    for url in ["memory:", &uri] {
        let database = connect(url).await?;
        let visits = visit(&*database).await?;
        println!("{database}: visit {visits}, health {:?}", database.health());
        database.close().await;
        if let Err(refused) = database.acquire().await {
            println!("closed: {refused}");
        }
    }
    Ok(())
}

/// Users of the framework configure a URL, not the name of a crate.
async fn connect(url: &str) -> Result<Box<dyn Database>, DatabaseError> {
    let (scheme, _) = url.split_once(':').unwrap_or_default();
    match scheme {
        "memory" => Ok(Box::new(memory::Memory::default())),
        "mongodb" | "mongodb+srv" => Ok(Box::new(mongo::Mongo::connect(url).await?)),
        // The rest of the URL may contain a password.
        _ => Err(DatabaseError::permanent("no such database", scheme)),
    }
}

/// The application's code, which is independent of the backend.
async fn visit(database: &dyn Database) -> Result<u64, DatabaseError> {
    let mut session = database.acquire().await?;
    let visits = match session.get("visits").await? {
        Some(visits) => visits
            .parse()
            .map_err(|error| DatabaseError::permanent("visits", error))?,
        None => 0,
    };
    session.put("visits", &(visits + 1).to_string()).await?;
    Ok(visits + 1)
}
