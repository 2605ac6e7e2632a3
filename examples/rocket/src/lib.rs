//! MongoDB as a database of [`rocket_db_pools`], and a service of notes that uses it.
//!
//! | path | purpose |
//! |---|---|
//! | `GET /notes` | the notes |
//! | `PUT /notes/<id>` `{"text": "…"}` | creates or replaces a note |

use std::ops::Deref;
use std::time::Duration;

// In your code: `use mongo_deadpool::…` or `use mongo_bb8::…`.
#[cfg(feature = "bb8")]
use mongo_bb8 as backend;
#[cfg(not(feature = "bb8"))]
use mongo_deadpool as backend;

use backend::mongo_core::ClientOptions;
use backend::mongo_core::bson::doc;
use backend::{Error, ErrorKind, ManagerConfig, OperationKind, Pools, PoolsConfig};
use rocket::figment::Figment;
use rocket::http::Status;
use rocket::response::{self, Responder};
use rocket::serde::json::Json;
use rocket::serde::{Deserialize, Serialize};
use rocket::{Build, Request, Rocket, get, put, routes};
use rocket_db_pools::{Connection, Database, Pool};

/// The pools of a deployment, as a pool of Rocket. Dereferences to [`Pools`].
#[derive(Clone, Debug)]
pub struct MongoPools(Pools);

/// The table `databases.<name>` of Rocket's configuration.
///
/// ```toml
/// [default.databases.notes]
/// url = "mongodb://app:secret@db.example.com/?replicaSet=rs0"
/// # The keys of every database of Rocket. They override the URL.
/// max_connections = 16 # default: four for each of Rocket's workers
/// min_connections = 2  # default: the URL's `minPoolSize`
/// connect_timeout = 2  # the limit of a whole check-out, in seconds; default 5
/// idle_timeout = 600   # in seconds; default: the URL's `maxIdleTimeMS`
///
/// # Optional: the configurations of mongo-deadpool and mongo-bb8.
/// [default.databases.notes.manager]
/// command_timeout = "10s"
/// [default.databases.notes.pools]
/// close_timeout = "5s"
/// ```
///
/// In the environment: `ROCKET_DATABASES='{notes={url="mongodb://…",max_connections=16}}'`.
#[derive(Deserialize)]
#[serde(crate = "rocket::serde", deny_unknown_fields)]
struct Settings {
    url: String,
    max_connections: u32,
    min_connections: Option<u32>,
    connect_timeout: u64,
    idle_timeout: Option<u64>,
    #[serde(default)]
    manager: ManagerConfig,
    #[serde(default)]
    pools: PoolsConfig,
}

impl Settings {
    fn build(self) -> Result<Pools, Error> {
        let mut options = ClientOptions::parse(&self.url)?;
        options.max_pool_size = self.max_connections;
        if let Some(min) = self.min_connections {
            options.min_pool_size = min;
        }
        if let Some(seconds) = self.idle_timeout {
            options.max_idle_time = Some(Duration::from_secs(seconds));
        }
        let mut pools = self.pools;
        let timeout = Duration::from_secs(self.connect_timeout);
        pools.wait_timeout.get_or_insert(timeout);
        Pools::builder(options)
            .config(pools)
            .manager_config(self.manager)
            .build()
    }
}

#[rocket::async_trait]
impl Pool for MongoPools {
    type Connection = backend::PoolsConnection;
    type Error = rocket_db_pools::Error<Error>;

    /// Connects and authenticates, so that a wrong password or address fails at ignition.
    async fn init(figment: &Figment) -> Result<Self, Self::Error> {
        let settings: Settings = figment.extract()?;
        let pools = settings.build().map_err(rocket_db_pools::Error::Init)?;
        let verified = pools.verify().await;
        verified.map_err(rocket_db_pools::Error::Init)?;
        Ok(Self(pools))
    }

    /// Rocket answers a request whose check-out fails with 503.
    async fn get(&self) -> Result<Self::Connection, Self::Error> {
        self.0.get().await.map_err(rocket_db_pools::Error::Get)
    }

    /// Rocket calls this at shutdown, while requests are still in flight: waits for their
    /// connections, up to `pools.close_timeout`.
    async fn close(&self) {
        self.0.close().await;
    }
}

impl Deref for MongoPools {
    type Target = Pools;

    fn deref(&self) -> &Pools {
        &self.0
    }
}

/// The database `notes` of Rocket's configuration.
#[derive(Database)]
#[database("notes")]
pub struct Notes(MongoPools);

/// The database of the deployment.
const DATABASE: &str = "rocket";

/// A note, as it is sent and stored.
#[derive(Deserialize, Serialize)]
#[serde(crate = "rocket::serde")]
struct Note {
    text: String,
}

/// With a connection: for several commands in a row. It is returned to its pool at the end of the
/// request, also if the client goes away.
#[get("/notes")]
async fn notes(mut connection: Connection<Notes>) -> Result<Json<Vec<Note>>, Failure> {
    let find = doc! { "find": "notes", "sort": { "_id": 1 }, "limit": 100 };
    let find = connection.command(DATABASE, &find);
    let mut found = find.kind(OperationKind::Read).cursor().await?;
    let mut notes = Vec::new();
    while let Some(note) = found.next().await? {
        notes.push(note);
    }
    Ok(Json(notes))
}

/// With the pools: the command selects its server, and is retried after a failover. The body has
/// arrived before, so that no connection waits for a slow client.
#[put("/notes/<id>", data = "<note>")]
async fn put_note(pools: &Notes, id: &str, note: Json<Note>) -> Result<Status, Failure> {
    let note = doc! { "q": { "_id": id }, "u": { "$set": { "text": &note.text } }, "upsert": true };
    let update = doc! { "update": "notes", "updates": [note] };
    let update = pools.command(DATABASE, &update);
    update.kind(OperationKind::Write).await?.check_write()?;
    Ok(Status::NoContent)
}

/// An error of the database, as a response: 503 if the request may succeed later, else 500.
struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl<'r> Responder<'r, 'static> for Failure {
    fn respond_to(self, _: &'r Request<'_>) -> response::Result<'static> {
        rocket::error!("the database failed a request: {}", self.0);
        // The pools are closed at shutdown: another instance may answer.
        let is_closed = matches!(self.0.kind(), ErrorKind::PoolClosed);
        match is_closed || self.0.is_transient() {
            true => Err(Status::ServiceUnavailable),
            false => Err(Status::InternalServerError),
        }
    }
}

/// The service.
pub fn service(figment: Figment) -> Rocket<Build> {
    rocket::custom(figment)
        .attach(Notes::init())
        .mount("/", routes![notes, put_note])
}
