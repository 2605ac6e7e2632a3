//! A framework that abstracts over databases: MongoDB and PostgreSQL implement one trait, and take
//! one shape of configuration. One feature flag of the framework, `deadpool` (the default) or
//! `bb8`, chooses the pool of both: `mongo-deadpool` and `deadpool-postgres`, or `mongo-bb8` and
//! `bb8-postgres`.
//!
//! What the two pools have in different ways is in `pool`, behind the same names; nothing else
//! depends on the feature flag.

mod config;
mod database;
mod mongo;
mod pool;
mod postgres;
pub mod visits;

pub use config::{Config, PoolConfig};
pub use database::{Database, DatabaseError, Health, Row, Rows, Session};

/// Connects to a database. Makes and authenticates a connection, so that an invalid URL or password
/// is an error here, at once.
///
/// # Errors
/// The URL or the pool's table can't be used, or there is no connection. No error contains a
/// password.
pub async fn connect(config: &Config) -> Result<Box<dyn Database>, DatabaseError> {
    let (scheme, _) = config.url.split_once(':').unwrap_or_default();
    match scheme {
        "mongodb" | "mongodb+srv" => Ok(Box::new(mongo::Mongo::connect(config).await?)),
        "postgres" | "postgresql" => Ok(Box::new(postgres::Postgres::connect(config).await?)),
        // The rest of the URL may contain a password.
        _ => Err(DatabaseError::permanent(
            "`url` has the scheme of no known database (mongodb, postgres)",
            scheme,
        )),
    }
}
