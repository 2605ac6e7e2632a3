//! MongoDB behind the framework's trait.

use std::fmt;

use async_trait::async_trait;
use bson::doc;
use futures_util::{StreamExt, stream};
use mongo_core::handshake::DriverInfo;
use mongo_core::operation::UNKNOWN_COMMIT_RESULT;
use mongo_core::select::Criterion;
use serde::Deserialize;

use crate::config::Config;
use crate::database::{Database, DatabaseError, Health, Row, Rows, Session};
use crate::pool::mongo::{
    self, OperationKind, Pools, ReadPreference, ReadPreferenceMode, SessionOptions,
    TransactionOptions,
};
use crate::pool::pool_config;

const DATABASE: &str = "framework";
/// How often a commit with an unknown result is repeated.
const COMMITS: usize = 3;

pub(crate) struct Mongo {
    pools: Pools,
    /// For `health`, which is called often.
    reads: Criterion,
}

impl Mongo {
    pub(crate) async fn connect(config: &Config) -> Result<Self, DatabaseError> {
        let mut mongo = mongo::Config::from_url(&config.url);
        mongo.pool = Some(pool_config(&config.pool));
        let builder = mongo.pools_builder().map_err(failed)?;
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
        let options = SessionOptions::default();
        Ok(Box::new(MongoSession {
            session: self.pools.start_session(options).map_err(failed)?,
            pools: self.pools.clone(),
        }))
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

/// Uses a connection for each command, which is retried as the specifications allow. It can be
/// dropped at any time, even in the middle of a command: an open transaction is then aborted in the
/// background.
struct MongoSession {
    pools: Pools,
    session: mongo::Session,
}

#[async_trait]
impl Session for MongoSession {
    async fn get(&mut self, key: &str) -> Result<Option<String>, DatabaseError> {
        let find = doc! { "find": "values", "filter": { "_id": key }, "limit": 1 };
        let find = self
            .pools
            .command(DATABASE, &find)
            .kind(OperationKind::Read);
        let found = find.session(&mut self.session).first::<Value>().await;
        let value = found.map_err(failed)?;
        Ok(value.map(|found| found.value))
    }

    async fn put(&mut self, key: &str, value: &str) -> Result<(), DatabaseError> {
        let upsert = doc! {
            "q": { "_id": key }, "u": { "$set": { "value": value } }, "upsert": true
        };
        let update = doc! { "update": "values", "updates": [upsert] };
        let update = self.pools.command(DATABASE, &update);
        let update = update.kind(OperationKind::Write).session(&mut self.session);
        let reply = update.await;
        reply.and_then(|reply| reply.check_write()).map_err(failed)
    }

    async fn rows(&mut self) -> Result<Rows<'_>, DatabaseError> {
        let find = doc! { "find": "values", "sort": { "_id": 1 } };
        let find = self
            .pools
            .command(DATABASE, &find)
            .kind(OperationKind::Read);
        let found = find.session(&mut self.session).cursor().await;
        let found = found.map_err(failed)?;
        // The cursor itself is a `Stream` of raw documents.
        let rows = stream::try_unfold(found, |mut found| async move {
            let value = found.next::<Value>().await.map_err(failed)?;
            Ok(value.map(|Value { key, value }| (Row { key, value }, found)))
        });
        Ok(rows.boxed())
    }

    async fn begin(&mut self) -> Result<(), DatabaseError> {
        let options = TransactionOptions::default();
        self.session.start_transaction(options).map_err(failed)
    }

    async fn commit(&mut self) -> Result<(), DatabaseError> {
        let mut repeated = 0;
        loop {
            match self.session.commit_transaction().await {
                // It may have been committed, and can be committed again.
                Err(error) if error.has_label(UNKNOWN_COMMIT_RESULT) && repeated < COMMITS => {
                    repeated += 1;
                }
                // If it has been committed, another run would repeat it.
                Err(error) if error.has_label(UNKNOWN_COMMIT_RESULT) => {
                    return Err(DatabaseError::permanent("MongoDB, commit", error));
                }
                outcome => return outcome.map_err(failed),
            }
        }
    }

    async fn rollback(&mut self) -> Result<(), DatabaseError> {
        self.session.abort_transaction().await.map_err(failed)
    }
}

#[derive(Deserialize)]
struct Value {
    #[serde(rename = "_id")]
    key: String,
    value: String,
}

/// Converts errors: both pools have the same error type.
fn failed(error: mongo::Error) -> DatabaseError {
    match error.is_transient() {
        true => DatabaseError::transient("MongoDB", error),
        false => DatabaseError::permanent("MongoDB", error),
    }
}
