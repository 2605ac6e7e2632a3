//! MongoDB behind the framework's trait. deadpool and bb8 are not exposed.

use std::fmt;

use async_trait::async_trait;
use bson::{Document, doc};
use mongo_core::ErrorKind;
use mongo_core::handshake::DriverInfo;
use mongo_core::select::{Criterion, ReadPreference, ReadPreferenceMode};
// In a framework with its own features, this line depends on two of them:
// #[cfg(feature = "deadpool")]
// use mongo_deadpool as backend;
// #[cfg(all(feature = "bb8", not(feature = "deadpool")))]
// use mongo_bb8 as backend;
use mongo_examples::backend::{Config, Pools, PoolsConnection};
use serde::Deserialize;

use crate::database::{Database, DatabaseError, Health, Session};

const DATABASE: &str = "framework";

pub(crate) struct Mongo {
    pools: Pools,
    /// For `health`, which is called often.
    reads: Criterion,
}

impl Mongo {
    /// Makes and authenticates a connection, so that an invalid URL or password is an error here.
    pub(crate) async fn connect(url: &str) -> Result<Self, DatabaseError> {
        let builder = Config::from_url(url).pools_builder().map_err(failed)?;
        // The framework's name appears in the server's log, beside the application's.
        let builder = builder.driver_info(DriverInfo::new("example-framework"));
        let pools = builder.build().map_err(failed)?;
        pools.verify().await.map_err(failed)?;
        let nearest = ReadPreference::new(ReadPreferenceMode::Nearest);
        let reads =
            Criterion::read(nearest).map_err(|error| DatabaseError::permanent("MongoDB", error))?;
        Ok(Self { pools, reads })
    }
}

impl fmt::Display for Mongo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MongoDB {}",
            self.pools.topology().description().topology_type()
        )
    }
}

#[async_trait]
impl Database for Mongo {
    async fn acquire(&self) -> Result<Box<dyn Session>, DatabaseError> {
        let connection = self.pools.get().await.map_err(failed)?;
        Ok(Box::new(MongoSession(connection)))
    }

    fn health(&self) -> Health {
        let known = self.pools.topology().snapshot();
        let serves = |criterion: &Criterion| {
            let servers = known.suitable(criterion, &[]);
            servers.is_ok_and(|servers| !servers.is_empty())
        };
        match (serves(&Criterion::write()), serves(&self.reads)) {
            (true, _) => Health::Up,
            (false, true) => Health::Degraded,
            (false, false) => Health::Down,
        }
    }

    async fn close(&self) {
        self.pools.close().await;
    }
}

/// Can be dropped at any time, even in the middle of a command: the pool ensures that the reply
/// does not reach another command.
struct MongoSession(PoolsConnection);

#[async_trait]
impl Session for MongoSession {
    async fn get(&mut self, key: &str) -> Result<Option<String>, DatabaseError> {
        let find = doc! { "find": "values", "filter": { "_id": key }, "limit": 1 };
        let reply = self.0.run_command(DATABASE, &find).await.map_err(failed)?;
        let found: Found = reply.deserialize().map_err(failed)?;
        let mut values = found.cursor.first_batch.into_iter();
        Ok(values.next().map(|found| found.value))
    }

    async fn put(&mut self, key: &str, value: &str) -> Result<(), DatabaseError> {
        let upsert: [Document; 1] = [doc! {
            "q": { "_id": key }, "u": { "$set": { "value": value } }, "upsert": true
        }];
        let update = doc! { "update": "values", "updates": &upsert[..] };
        let reply = self.0.run_command(DATABASE, &update).await;
        reply.and_then(|reply| reply.check_write()).map_err(failed)
    }
}

/// The reply to a `find`, with only the fields that are used here. A reply of another form is an
/// error, and not "no value".
#[derive(Deserialize)]
struct Found {
    cursor: Cursor,
}

#[derive(Deserialize)]
struct Cursor {
    #[serde(rename = "firstBatch")]
    first_batch: Vec<Value>,
}

#[derive(Deserialize)]
struct Value {
    value: String,
}

/// Converts errors: both pools have the same error type.
fn failed(error: mongo_core::Error) -> DatabaseError {
    // The server is unavailable or not the primary, also by its error code or label.
    let may_pass = error.is_retryable_read() || error.is_retryable_write();
    match error.kind() {
        _ if may_pass => DatabaseError::transient("MongoDB", error),
        ErrorKind::ServerSelection(_) | ErrorKind::Timeout { .. } => {
            DatabaseError::transient("MongoDB", error)
        }
        _ => DatabaseError::permanent("MongoDB", error),
    }
}
