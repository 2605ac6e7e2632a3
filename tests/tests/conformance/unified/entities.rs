//! The entities of a test: clients, databases, collections, sessions, and their server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, doc};
use mongo_core::ClientOptions;
use mongo_core::auth::{AuthMechanism, Credential};
use mongo_core::event::{CommandEvent, EventHandlers};
use mongo_core::handshake::{ServerApi, ServerApiVersion};
use mongo_core::net::{AccessToken, OidcCallback, OidcRequest};
use mongo_deadpool::{Pools, PoolsConnection};
use mongo_testkit::{RealServer, ScriptedServer};
use serde_json::Value;

use super::commands::Context;
use crate::{Outcome, known_keys, text};

/// The token that the scripted server accepts.
const TOKEN: &str = "a.good.token";
/// The real server's minimum version, and its topology.
const VERSION: [u32; 3] = [8, 2, 0];
const TOPOLOGY: &str = "replicaset";

/// The server of a case.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Real,
    Oidc,
}

impl Place {
    /// The server that meets the requirements of a file and a test.
    pub(super) fn meeting(wanted: &Value) -> Result<Self, String> {
        let mut place = Self::Real;
        for alternatives in wanted.as_array().into_iter().flatten() {
            let Some(alternatives) = alternatives.as_array() else {
                continue;
            };
            if alternatives
                .iter()
                .any(|one| one["authMechanism"] == "MONGODB-OIDC")
            {
                place = Self::Oidc;
            }
            let met: Result<Vec<bool>, String> = alternatives.iter().map(is_met).collect();
            if !met?.contains(&true) {
                return Err(format!("no server here is as it wants: {alternatives:?}"));
            }
        }
        Ok(place)
    }
}

fn is_met(wanted: &Value) -> Result<bool, String> {
    let keys = [
        "minServerVersion",
        "maxServerVersion",
        "topologies",
        "serverless",
        "auth",
        "authMechanism",
        "serverParameters",
    ];
    known_keys("runOnRequirements", wanted, &keys)?;
    let version = |key: &str| {
        let text = wanted[key].as_str()?;
        let parts = text.split('.').map(|part| part.parse::<u32>());
        parts.collect::<Result<Vec<_>, _>>().ok()
    };
    let new_enough = version("minServerVersion").is_none_or(|least| VERSION[..] >= least[..]);
    let old_enough = version("maxServerVersion").is_none_or(|most| VERSION[..] <= most[..]);
    let topologies = &wanted["topologies"];
    let fits = topologies.is_null()
        || topologies
            .as_array()
            .is_some_and(|all| all.contains(&TOPOLOGY.into()));
    // The server refuses test commands by name, as servers with them refuse those that the tests
    // run. It has no second API version.
    let parameters = wanted["serverParameters"]["acceptApiVersion2"] != true;
    Ok(new_enough && old_enough && fits && parameters && wanted["serverless"] != "require")
}

/// A command event: its name, and the fields that tests compare.
pub(super) type Event = (String, Document);

pub(super) struct Client {
    pools: Pools,
    observed: Vec<String>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Client {
    pub(super) async fn get(&self) -> mongo_core::Result<PoolsConnection> {
        self.pools.get().await
    }

    pub(super) fn events(&self) -> Vec<Event> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let observed = |(name, _): &&Event| self.observed.contains(name);
        events.iter().filter(observed).cloned().collect()
    }
}

fn event_of(event: &CommandEvent) -> Option<Event> {
    let named = |kind: &str, name: &str, more: Document| {
        let mut fields = doc! { "commandName": name };
        fields.extend(more);
        (name != "configureFailPoint").then(|| (kind.to_owned(), fields))
    };
    match event {
        CommandEvent::Started(event) => {
            let command = Document::try_from(&*event.command).ok()?;
            let more = doc! { "databaseName": &*event.database_name, "command": command };
            named("commandStartedEvent", &event.command_name, more)
        }
        CommandEvent::Succeeded(event) => {
            named("commandSucceededEvent", &event.command_name, doc! {})
        }
        CommandEvent::Failed(event) => named("commandFailedEvent", &event.command_name, doc! {}),
        _ => None,
    }
}

/// A session, and its transaction.
pub(super) struct Session {
    client: String,
    id: Bson,
    transaction: i64,
    begins: bool,
}

impl Session {
    fn new(client: &str) -> Self {
        // As unique as an ObjectId, which is shorter than a session id.
        let mut bytes = ObjectId::new().bytes().to_vec();
        bytes.extend([0; 4]);
        let subtype = BinarySubtype::Uuid;
        Self {
            client: client.to_owned(),
            id: Bson::Document(doc! { "id": Binary { subtype, bytes } }),
            transaction: 0,
            begins: false,
        }
    }

    pub(super) fn start_transaction(&mut self) {
        self.transaction += 1;
        self.begins = true;
    }

    /// Adds a command to the transaction.
    pub(super) fn join(&mut self, command: &mut Document) {
        command.insert("lsid", self.id.clone());
        if self.transaction > 0 {
            command.insert("txnNumber", self.transaction);
            command.insert("autocommit", false);
        }
        if std::mem::take(&mut self.begins) {
            command.insert("startTransaction", true);
        }
    }
}

pub(super) struct Entities {
    /// Keeps the scripted server alive.
    _server: Option<ScriptedServer>,
    uri: String,
    place: Place,
    clients: HashMap<String, Client>,
    /// The client and the name of each database.
    databases: HashMap<String, (String, String)>,
    /// The database and the name of each collection.
    collections: HashMap<String, (String, String)>,
    sessions: HashMap<String, Session>,
}

impl Entities {
    pub(super) async fn create(place: Place, all: &Value) -> Result<Self, String> {
        let (server, uri) = match place {
            Place::Real => (None, RealServer::shared().uri()),
            Place::Oidc => {
                let server = ScriptedServer::builder().access_tokens(&[TOKEN]);
                let server = server.start().await;
                let uri = server.uri();
                (Some(server), uri)
            }
        };
        let mut entities = Self {
            _server: server,
            uri,
            place,
            clients: HashMap::new(),
            databases: HashMap::new(),
            collections: HashMap::new(),
            sessions: HashMap::new(),
        };
        for entity in all.as_array().into_iter().flatten() {
            let (kind, what) = entity
                .as_object()
                .and_then(|entity| entity.iter().next())
                .ok_or("no entity")?;
            entities.add(kind, what)?;
        }
        Ok(entities)
    }

    fn add(&mut self, kind: &str, what: &Value) -> Outcome {
        let own = |key: &str| text(what, key).map(str::to_owned);
        let id = own("id")?;
        match kind {
            "client" => {
                let client = self.new_client(what)?;
                self.clients.insert(id, client);
            }
            "database" => {
                let pair = (own("client")?, own("databaseName")?);
                self.databases.insert(id, pair);
            }
            "collection" => {
                let pair = (own("database")?, own("collectionName")?);
                self.collections.insert(id, pair);
            }
            "session" => {
                let session = Session::new(text(what, "client")?);
                self.sessions.insert(id, session);
            }
            _ => return Err(format!("the runner makes no {kind}")),
        }
        Ok(())
    }

    fn new_client(&self, what: &Value) -> Result<Client, String> {
        let keys = [
            "id",
            "observeEvents",
            "serverApi",
            "uriOptions",
            "useMultipleMongoses",
        ];
        known_keys("client", what, &keys)?;
        let mut uri = self.uri.clone();
        for (name, value) in what["uriOptions"].as_object().into_iter().flatten() {
            // The callback of a placeholder is set below. Retries are up to the caller.
            match (name.as_str(), value) {
                ("authMechanism" | "authMechanismProperties", _) => {}
                (_, Value::String(text)) => uri += &format!("&{name}={text}"),
                (_, value) => uri += &format!("&{name}={value}"),
            }
        }
        let told = |error: mongo_core::Error| error.to_string();
        let mut options = ClientOptions::parse(&uri).map_err(|error| error.to_string())?;
        options.server_api = server_api(&what["serverApi"])?;
        if let Place::Oidc = self.place {
            let credential = Credential::from_mechanism(AuthMechanism::MongoDbOidc);
            options.credential = Some(credential);
            options.allow_plain_without_tls = true;
        }
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        let handlers = EventHandlers::new().on_command(move |event| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.extend(event_of(event));
        });
        let mut builder = Pools::builder(options).event_handlers(handlers);
        if let Place::Oidc = self.place {
            builder = builder.oidc_callback(Arc::new(OneToken));
        }
        let observed = what["observeEvents"].as_array().into_iter().flatten();
        Ok(Client {
            pools: builder.build().map_err(told)?,
            observed: observed
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect(),
            events,
        })
    }

    pub(super) fn client(&self, id: &str) -> Result<&Client, String> {
        self.clients
            .get(id)
            .ok_or_else(|| format!("no client {id}"))
    }

    /// The client and the context of an operation.
    pub(super) fn context(
        &mut self,
        object: &str,
        arguments: &Document,
    ) -> Result<(String, Context<'_>), String> {
        if object == "testRunner" {
            let client = arguments.get_str("client");
            let client = client.map_err(|error| error.to_string())?;
            return Ok((client.to_owned(), Context::Runner));
        }
        if self.clients.contains_key(object) {
            return Ok((object.to_owned(), Context::Client));
        }
        if let Some((client, name)) = self.databases.get(object) {
            return Ok((client.clone(), Context::Database(name.clone())));
        }
        if let Some((database, name)) = self.collections.get(object) {
            let (client, database) = self.databases.get(database).ok_or("no database")?;
            let session = arguments.get_str("session").ok();
            let context = Context::Collection {
                database: database.clone(),
                name: name.clone(),
                session: session.and_then(|session| self.sessions.get_mut(session)),
            };
            return Ok((client.clone(), context));
        }
        let session = self.sessions.get_mut(object);
        let session = session.ok_or_else(|| format!("no entity {object}"))?;
        Ok((session.client.clone(), Context::Session(session)))
    }

    /// Replaces a test's references to sessions by their ids.
    pub(super) fn resolve(&self, value: &Bson) -> Bson {
        match value {
            Bson::Document(fields) => {
                if let Ok(session) = fields.get_str("$$sessionLsid") {
                    let session = self.sessions.get(session);
                    return session.map_or(Bson::Null, |session| session.id.clone());
                }
                let fields = fields.iter();
                let resolved = fields.map(|(key, value)| (key.clone(), self.resolve(value)));
                Bson::Document(resolved.collect())
            }
            Bson::Array(values) => {
                Bson::Array(values.iter().map(|value| self.resolve(value)).collect())
            }
            other => other.clone(),
        }
    }

    /// Sets the collections to a test's initial state.
    pub(super) async fn set_up(&self, data: &Value) -> Outcome {
        for collection in data.as_array().into_iter().flatten() {
            let database = text(collection, "databaseName")?;
            let name = text(collection, "collectionName")?;
            let Bson::Array(documents) = value(&collection["documents"])? else {
                return Err("documents is no array".to_owned());
            };
            // The collection may not exist.
            let _ = self.run_apart(database, &doc! { "drop": name }).await;
            let filled = match documents.is_empty() {
                true => doc! { "create": name },
                false => doc! { "insert": name, "documents": documents },
            };
            self.run_apart(database, &filled).await?;
        }
        Ok(())
    }

    pub(super) async fn fail_point(&self, point: &Document) -> Outcome {
        self.run_apart("admin", point).await
    }

    /// Runs a command on the runner's own client.
    async fn run_apart(&self, database: &str, command: &Document) -> Outcome {
        let apart = self.new_client(&serde_json::json!({ "id": "apart" }))?;
        let told = |error: mongo_core::Error| error.to_string();
        let mut connection = apart.get().await.map_err(told)?;
        connection
            .run_command(database, command)
            .await
            .map_err(told)?;
        drop(connection);
        apart.pools.close().await;
        Ok(())
    }

    pub(super) async fn close(self) {
        for client in self.clients.values() {
            client.pools.close().await;
        }
    }
}

fn server_api(wanted: &Value) -> Result<Option<ServerApi>, String> {
    known_keys(
        "serverApi",
        wanted,
        &["version", "strict", "deprecationErrors"],
    )?;
    if wanted.is_null() {
        return Ok(None);
    }
    crate::equal("serverApi", text(wanted, "version")?, "1")?;
    let mut api = ServerApi::new(ServerApiVersion::V1);
    api.strict = wanted["strict"].as_bool();
    api.deprecation_errors = wanted["deprecationErrors"].as_bool();
    Ok(Some(api))
}

struct OneToken;

#[async_trait]
impl OidcCallback for OneToken {
    async fn token(&self, _: OidcRequest<'_>) -> mongo_core::Result<AccessToken> {
        Ok(AccessToken::new(TOKEN))
    }
}

/// Converts JSON to BSON.
pub(super) fn value(json: &Value) -> Result<Bson, String> {
    bson::serialize_to_bson(json).map_err(|error| error.to_string())
}

/// Converts JSON to a BSON document. Null gives an empty one.
pub(super) fn document(json: &Value) -> Result<Document, String> {
    match value(json)? {
        Bson::Document(document) => Ok(document),
        Bson::Null => Ok(Document::new()),
        other => Err(format!("no document: {other}")),
    }
}
