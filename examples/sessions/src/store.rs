use async_trait::async_trait;
use serde::Deserialize;
use time::OffsetDateTime;
use tower_sessions::session::{Id, Record};
use tower_sessions::session_store::{self, ExpiredDeletion, SessionStore};

use crate::backend::mongo_core::bson::{self, DateTime, Document, doc};
use crate::backend::{self, OperationKind, Pools};

/// How many ids `create` tries. Ids are random numbers of 128 bits: a second one is hardly ever
/// needed.
const TRIES: usize = 3;

/// A session as it is stored, without its id.
#[derive(Deserialize)]
struct Stored {
    data: Document,
    expires: DateTime,
}

impl Stored {
    fn record(self, id: Id) -> session_store::Result<Record> {
        let nanos = i128::from(self.expires.timestamp_millis()) * 1_000_000;
        let expiry_date = OffsetDateTime::from_unix_timestamp_nanos(nanos);
        let data = bson::deserialize_from_document(self.data);
        Ok(Record {
            id,
            data: data.map_err(unreadable)?,
            expiry_date: expiry_date.map_err(unreadable)?,
        })
    }
}

fn unreadable(error: impl ToString) -> session_store::Error {
    session_store::Error::Decode(error.to_string())
}

fn unwritable(error: impl ToString) -> session_store::Error {
    session_store::Error::Encode(error.to_string())
}

fn fields(record: &Record) -> session_store::Result<Document> {
    let data = bson::serialize_to_document(&record.data).map_err(unwritable)?;
    let millis = record.expiry_date.unix_timestamp_nanos() / 1_000_000;
    let millis = i64::try_from(millis).map_err(unwritable)?;
    Ok(doc! { "data": data, "expires": DateTime::from_millis(millis) })
}

/// The text names the server, the user and the last cause.
fn failed(error: backend::Error) -> session_store::Error {
    session_store::Error::Backend(error.to_string())
}

/// Sessions in a collection, one document each: `_id`, `data` and `expires`. The data is stored as
/// a document, so that an operator can find, and delete, the sessions of a user.
///
/// Times are those of the application's clock, in milliseconds.
#[derive(Clone, Debug)]
pub struct MongoStore {
    pools: Pools,
    database: String,
    collection: String,
}

impl MongoStore {
    /// A store in a collection. Call [`create_index`](Self::create_index) once, at start.
    pub fn new(pools: Pools, database: &str, collection: &str) -> Self {
        Self {
            pools,
            database: database.to_owned(),
            collection: collection.to_owned(),
        }
    }

    /// Creates the index by which the server deletes expired sessions, about once a minute, unless
    /// it exists. A session that has expired and is not deleted yet is not loaded.
    ///
    /// # Errors
    /// The database failed, or has an index of this name with other options.
    pub async fn create_index(&self) -> Result<(), backend::Error> {
        let index = doc! { "key": { "expires": 1 }, "name": "expires", "expireAfterSeconds": 0 };
        let create = doc! { "createIndexes": &self.collection, "indexes": [index] };
        let create = self.pools.command(&self.database, &create);
        create.await?.check_write()
    }

    async fn write(&self, command: Document) -> Result<(), backend::Error> {
        let command = self.pools.command(&self.database, &command);
        command.kind(OperationKind::Write).await?.check_write()
    }
}

#[async_trait]
impl SessionStore for MongoStore {
    /// Inserts under another id if there is a session of this id. The unique index of `_id` decides,
    /// so that this needs no transaction. If the reply to the insert is lost, the server recognizes
    /// the second attempt (`retryWrites`) and does not report its own session as a duplicate.
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        for _ in 0..TRIES {
            let mut session = doc! { "_id": record.id.to_string() };
            session.extend(fields(record)?);
            let insert = doc! { "insert": &self.collection, "documents": [session] };
            match self.write(insert).await {
                Err(error) if error.is_duplicate_key() => record.id = Id::default(),
                result => return result.map_err(failed),
            }
        }
        let text = format!("{TRIES} random session ids in a row exist already");
        Err(session_store::Error::Backend(text))
    }

    /// Updates a session. One that was deleted stays deleted: a request that was in flight during a
    /// logout does not bring it back.
    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let id = record.id.to_string();
        let update = doc! { "q": { "_id": id }, "u": { "$set": fields(record)? } };
        let update = doc! { "update": &self.collection, "updates": [update] };
        self.write(update).await.map_err(failed)
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let now = DateTime::now();
        let filter = doc! { "_id": id.to_string(), "expires": { "$gt": now } };
        let find = doc! { "find": &self.collection, "filter": filter, "limit": 1 };
        let find = self.pools.command(&self.database, &find);
        let found = find.kind(OperationKind::Read).first::<Stored>().await;
        let session = found.map_err(failed)?;
        session.map(|session| session.record(*id)).transpose()
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let delete = doc! { "q": { "_id": id.to_string() }, "limit": 1 };
        let delete = doc! { "delete": &self.collection, "deletes": [delete] };
        self.write(delete).await.map_err(failed)
    }
}

/// Only for servers that ignore `expireAfterSeconds`: MongoDB deletes expired sessions itself.
#[async_trait]
impl ExpiredDeletion for MongoStore {
    async fn delete_expired(&self) -> session_store::Result<()> {
        let delete = doc! { "q": { "expires": { "$lte": DateTime::now() } }, "limit": 0 };
        let delete = doc! { "delete": &self.collection, "deletes": [delete] };
        let delete = self.pools.command(&self.database, &delete);
        // The server can't recognize a delete of many documents when it is sent again.
        let delete = delete.kind(OperationKind::Write).not_retryable();
        let deleted = delete.await.and_then(|reply| reply.check_write());
        deleted.map_err(failed)
    }
}
