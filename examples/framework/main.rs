//! A framework that abstracts over databases: MongoDB implements its trait, beside another
//! backend, and the framework's feature flags choose the pool.
//!
//! ```sh
//! cargo run --example framework
//! cargo run --example framework --no-default-features --features bb8
//! MONGODB_URI='mongodb://localhost/?replicaSet=rs0' cargo run --example framework
//! ```

mod database;
mod memory;
mod mongo;

use database::{Database, DatabaseError, Session};
use futures_util::TryStreamExt;
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
        forget(&*database).await?;
        print_rows(&*database).await?;
        database.close().await;
        if let Err(refused) = visit(&*database).await {
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

/// How often a transaction is run before its error counts.
const RUNS: usize = 3;

/// The application's code, which is independent of the backend: counts a visit, and notes it, in one
/// transaction.
async fn visit(database: &dyn Database) -> Result<u64, DatabaseError> {
    let mut session = database.acquire().await?;
    let mut runs = 0;
    loop {
        runs += 1;
        session.begin().await?;
        let error = match count(&mut *session).await {
            Ok(visits) => match session.commit().await {
                Ok(()) => return Ok(visits),
                Err(error) => error,
            },
            Err(error) => {
                session.rollback().await?;
                error
            }
        };
        if !error.is_transient || runs == RUNS {
            return Err(error);
        }
    }
}

async fn count(session: &mut dyn Session) -> Result<u64, DatabaseError> {
    let visits = match session.get("visits").await? {
        Some(visits) => visits
            .parse()
            .map_err(|error| DatabaseError::permanent("visits", error))?,
        None => 0,
    };
    let visits = visits + 1;
    session.put("visits", &visits.to_string()).await?;
    session.put(&format!("visit {visits}"), "noted").await?;
    Ok(visits)
}

/// Resets the count, and changes its mind.
async fn forget(database: &dyn Database) -> Result<(), DatabaseError> {
    let mut session = database.acquire().await?;
    session.begin().await?;
    session.put("visits", "0").await?;
    println!("within: {:?}", session.get("visits").await?);
    session.rollback().await?;
    println!("rolled back: {:?}", session.get("visits").await?);
    Ok(())
}

/// Prints the rows as they come.
async fn print_rows(database: &dyn Database) -> Result<(), DatabaseError> {
    let mut session = database.acquire().await?;
    let mut rows = session.rows().await?;
    while let Some(row) = rows.try_next().await? {
        println!("row: {} = {}", row.key, row.value);
    }
    Ok(())
}
