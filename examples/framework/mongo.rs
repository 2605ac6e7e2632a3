//! MongoDB behind the framework's trait. Nothing of deadpool or bb8 is seen outside.

use std::fmt;

use async_trait::async_trait;
use bson::{Document, doc};
use mongo_core::ErrorKind;
use mongo_core::handshake::DriverInfo;
use mongo_core::select::{Criterion, ReadPreference, ReadPreferenceMode};
// In a framework with features of its own, this one line under two of them:
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
    /// For `health`, which is asked for often.
    reads: Criterion,
}

impl Mongo {
    /// Comes back with a connection made and authenticated, so that a bad URL or password is an
    /// error here.
    pub(crate) async fn connect(url: &str) -> Result<Self, DatabaseError> {
        let builder = Config::from_url(url).pools_builder().map_err(failed)?;
        // The framework's name is in the server's log, beside the application's.
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

/// Dropped at any time, in the middle of a command too: the pool sees to it that no reply is
/// mistaken for another's.
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

/// The reply to a `find`, as far as it is of interest here: one that is anything else is an error,
/// and not "no value".
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

/// One type of error for both pools, and all of its kinds.
fn failed(error: mongo_core::Error) -> DatabaseError {
    // A server that is none, or not the right one, now; by its code or its label, too.
    let may_pass = error.is_retryable_read() || error.is_retryable_write();
    match error.kind() {
        _ if may_pass => DatabaseError::transient("MongoDB", error),
        ErrorKind::ServerSelection(_) | ErrorKind::Timeout { .. } => {
            DatabaseError::transient("MongoDB", error)
        }
        _ => DatabaseError::permanent("MongoDB", error),
    }
}
