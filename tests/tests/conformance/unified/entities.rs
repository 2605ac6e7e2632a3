//! The entities of a case, by name.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{Bson, Document};
use mongo_core::concern::{ReadConcern, WriteConcern};
use mongo_core::pools::Backend;
use mongo_core::sdam::TopologyDescription;
use mongo_core::select::{ReadPreference, ReadPreferenceMode};
use serde::de::DeserializeOwned;

use super::case::Fields;
use super::client::Client;
use super::cursors::CursorEntity;
use super::matching::Lookup;
use super::sessions::SessionEntity;
use super::threads::Thread;
use crate::Outcome;

/// An entity. Clones share it.
pub(super) enum Entity<B: Backend> {
    Client(Arc<Client<B>>),
    /// A database or a collection.
    Target(Arc<Target<B>>),
    Session(Arc<SessionEntity<B>>),
    Cursor(Arc<CursorEntity<B>>),
    Thread(Rc<Thread>),
    Description(Arc<TopologyDescription>),
    Value(Bson),
}

impl<B: Backend> Clone for Entity<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Client(client) => Self::Client(Arc::clone(client)),
            Self::Target(target) => Self::Target(Arc::clone(target)),
            Self::Session(session) => Self::Session(Arc::clone(session)),
            Self::Cursor(cursor) => Self::Cursor(Arc::clone(cursor)),
            Self::Thread(thread) => Self::Thread(Rc::clone(thread)),
            Self::Description(description) => Self::Description(Arc::clone(description)),
            Self::Value(value) => Self::Value(value.clone()),
        }
    }
}

/// A database or a collection of it, with its options, or a client.
pub(super) struct Target<B: Backend> {
    pub(super) client: Arc<Client<B>>,
    pub(super) database: String,
    pub(super) collection: Option<String>,
    pub(super) is_client: bool,
    pub(super) options: Options,
}

/// The options of a database, a collection or an operation.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) preference: Option<ReadPreference>,
    pub(super) read_concern: Option<ReadConcern>,
    pub(super) write_concern: Option<WriteConcern>,
    pub(super) timeout: Option<Duration>,
}

impl Options {
    pub(super) fn read(options: Option<&Document>) -> Result<Self, String> {
        let known = ["readPreference", "readConcern", "writeConcern", "timeoutMS"];
        let none = Document::new();
        let options = Fields::new(options.unwrap_or(&none), "options", &known)?;
        Ok(Self {
            preference: options
                .document("readPreference")?
                .map(preference)
                .transpose()?,
            read_concern: parse(options.get("readConcern"))?,
            write_concern: parse(options.get("writeConcern"))?,
            timeout: options.number("timeoutMS")?.map(millis),
        })
    }

    /// These options, and those of the database for what they don't set.
    pub(super) fn within(self, outer: &Self) -> Self {
        Self {
            preference: self.preference.or_else(|| outer.preference.clone()),
            read_concern: self.read_concern.or_else(|| outer.read_concern.clone()),
            write_concern: self.write_concern.or_else(|| outer.write_concern.clone()),
            timeout: self.timeout.or(outer.timeout),
        }
    }
}

pub(super) fn millis(number: i64) -> Duration {
    Duration::from_millis(u64::try_from(number).unwrap_or(0))
}

/// Parses a type of the product from its document.
pub(super) fn parse<T: DeserializeOwned>(value: Option<&Bson>) -> Result<Option<T>, String> {
    let Some(value) = value else { return Ok(None) };
    let parsed = bson::deserialize_from_bson(value.clone());
    parsed
        .map(Some)
        .map_err(|error| format!("{value}: {error}"))
}

/// Parses a read preference.
pub(super) fn preference(document: &Document) -> Result<ReadPreference, String> {
    let known = ["mode", "tagSets", "maxStalenessSeconds", "hedge"];
    let fields = Fields::new(document, "readPreference", &known)?;
    let mode: ReadPreferenceMode = fields
        .text("mode")?
        .parse()
        .map_err(|error| format!("{error}"))?;
    let mut preference = ReadPreference::new(mode);
    if let Some(sets) = parse(fields.get("tagSets"))? {
        preference = preference.with_tag_sets(sets);
    }
    if let Some(seconds) = fields.number("maxStalenessSeconds")? {
        preference = preference.with_max_staleness(millis(seconds * 1000));
    }
    Ok(preference)
}

/// All entities of a case.
pub(super) struct Entities<B: Backend>(Mutex<HashMap<String, Entity<B>>>);

impl<B: Backend> Entities<B> {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Adds an entity.
    ///
    /// # Errors
    /// If there is one of this name.
    pub(super) fn add(&self, name: &str, entity: Entity<B>) -> Outcome {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.insert(name.to_owned(), entity) {
            None => Ok(()),
            Some(_) => Err(format!("two entities are called {name}")),
        }
    }

    pub(super) fn get(&self, name: &str) -> Result<Entity<B>, String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entity = all.get(name).cloned();
        entity.ok_or_else(|| format!("no entity is called {name}"))
    }

    pub(super) fn client(&self, name: &str) -> Result<Arc<Client<B>>, String> {
        match self.get(name)? {
            Entity::Client(client) => Ok(client),
            _ => Err(format!("{name} is no client")),
        }
    }

    pub(super) fn session(&self, name: &str) -> Result<Arc<SessionEntity<B>>, String> {
        match self.get(name)? {
            Entity::Session(session) => Ok(session),
            _ => Err(format!("{name} is no session")),
        }
    }

    pub(super) fn thread(&self, name: &str) -> Result<Rc<Thread>, String> {
        match self.get(name)? {
            Entity::Thread(thread) => Ok(thread),
            _ => Err(format!("{name} is no thread")),
        }
    }

    pub(super) fn description(&self, name: &str) -> Result<Arc<TopologyDescription>, String> {
        match self.get(name)? {
            Entity::Description(description) => Ok(description),
            _ => Err(format!("{name} is no description of a topology")),
        }
    }

    /// Adds a database or a collection.
    pub(super) fn add_target(&self, kind: &str, what: &Document) -> Outcome {
        let known: &[&str] = match kind {
            "database" => &["id", "client", "databaseName", "databaseOptions"],
            _ => &["id", "database", "collectionName", "collectionOptions"],
        };
        let what = Fields::new(what, kind, known)?;
        let target = if kind == "database" {
            Target {
                client: self.client(what.text("client")?)?,
                database: what.text("databaseName")?.to_owned(),
                collection: None,
                is_client: false,
                options: Options::read(what.document("databaseOptions")?)?,
            }
        } else {
            let name = what.text("database")?;
            let database = match self.get(name)? {
                Entity::Target(target) if target.collection.is_none() => target,
                _ => return Err(format!("{name} is no database")),
            };
            let options = Options::read(what.document("collectionOptions")?)?;
            Target {
                client: Arc::clone(&database.client),
                database: database.database.clone(),
                collection: Some(what.text("collectionName")?.to_owned()),
                is_client: false,
                options: options.within(&database.options),
            }
        };
        self.add(what.text("id")?, Entity::Target(Arc::new(target)))
    }

    /// Ends all sessions and cursors.
    pub(super) async fn end(&self) {
        let all: Vec<Entity<B>> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.values().cloned().collect()
        };
        for entity in &all {
            if let Entity::Cursor(cursor) = entity {
                // The end of a test ignores errors.
                let _ = cursor.perform("close", self).await;
            }
        }
        for entity in all {
            if let Entity::Session(entity) = entity
                && let Some(session) = entity.session.lock().await.take()
            {
                session.end().await;
            }
        }
    }

    /// All clients.
    pub(super) fn clients(&self) -> Vec<Arc<Client<B>>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let clients = all.values().filter_map(|entity| match entity {
            Entity::Client(client) => Some(Arc::clone(client)),
            _ => None,
        });
        clients.collect()
    }
}

impl<B: Backend> Lookup for Entities<B> {
    fn lsid(&self, session: &str) -> Result<Bson, String> {
        Ok(self.session(session)?.id.clone().into())
    }

    fn value(&self, entity: &str) -> Result<Bson, String> {
        match self.get(entity)? {
            Entity::Value(value) => Ok(value),
            _ => Err(format!("{entity} is no value")),
        }
    }
}
