//! A small in-memory store with cursors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bson::{Bson, Document, doc};

use crate::action::ErrorReply;
use crate::commands::Outcome;
use crate::pipeline::{order, run_stage};
use crate::query::{equal, matches, updated};
use crate::statement::{
    count_of, document, duplicate_key, is_ordered, missing, size, statements, with_id, write_error,
    write_reply,
};

/// The first batch of a cursor without a `batchSize`.
const FIRST_BATCH: usize = 101;

type Result<T> = std::result::Result<T, ErrorReply>;

/// A server's documents, which it may share with others, and its own cursors.
#[derive(Debug, Default)]
pub(crate) struct Store {
    data: Arc<Mutex<Data>>,
    server: usize,
}

#[derive(Debug, Default)]
struct Data {
    collections: BTreeMap<String, Vec<Document>>,
    cursors: BTreeMap<i64, Cursor>,
    last_cursor: i64,
    servers: usize,
}

#[derive(Debug)]
struct Cursor {
    server: usize,
    namespace: String,
    rest: std::vec::IntoIter<Document>,
}

impl Store {
    /// Returns a store with the same documents for another server.
    pub(crate) fn share(&self) -> Self {
        let mut data = self.lock();
        data.servers += 1;
        Self {
            data: Arc::clone(&self.data),
            server: data.servers,
        }
    }

    /// Drops the server's cursors, as when its process ends.
    pub(crate) fn forget_cursors(&self) {
        let is_others = |_: &i64, cursor: &mut Cursor| cursor.server != self.server;
        self.lock().cursors.retain(is_others);
    }

    pub(crate) fn documents(&self, namespace: &str) -> Vec<Document> {
        self.lock()
            .collections
            .get(namespace)
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn put(&self, namespace: &str, documents: impl IntoIterator<Item = Document>) {
        self.lock()
            .collections
            .entry(namespace.to_owned())
            .or_default()
            .extend(documents);
    }

    pub(crate) fn open_cursors(&self) -> usize {
        let data = self.lock();
        let own = data
            .cursors
            .values()
            .filter(|cursor| cursor.server == self.server);
        own.count()
    }

    /// Executes a command whose name is in lower case.
    pub(crate) fn run(&self, name: &str, database: &str, command: &Document) -> Outcome {
        let mut data = self.lock();
        let server = self.server;
        let target = command.values().next().and_then(Bson::as_str);
        let namespace = target.map(|collection| format!("{database}.{collection}"));
        let namespace = || {
            namespace.clone().ok_or_else(|| {
                ErrorReply::new(73, "InvalidNamespace", "the collection's name is missing")
            })
        };
        match name {
            "insert" => data.insert(&namespace()?, command),
            "find" => data.find(server, &namespace()?, command),
            "getmore" => data.get_more(server, command),
            "killcursors" => Ok(data.kill_cursors(server, command)),
            "update" => data.update(&namespace()?, command),
            "delete" => data.delete(&namespace()?, command),
            "count" => data.count(&namespace()?, command),
            "aggregate" => data.aggregate(server, &namespace()?, command),
            "create" => {
                data.collections.entry(namespace()?).or_default();
                Ok(Document::new())
            }
            "drop" => {
                data.collections.remove(&namespace()?);
                Ok(Document::new())
            }
            "dropdatabase" => {
                let prefix = format!("{database}.");
                data.collections
                    .retain(|name, _| !name.starts_with(&prefix));
                Ok(doc! {"dropped": database})
            }
            "listcollections" => Ok(data.list_collections(server, database)),
            "listdatabases" => Ok(data.list_databases()),
            _ => Err(ErrorReply::new(
                59,
                "CommandNotFound",
                &format!("no such command: '{name}'"),
            )),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Data {
    fn insert_one(&mut self, namespace: &str, document: Document) -> Result<()> {
        let collection = self.collections.entry(namespace.to_owned()).or_default();
        let id = document.get("_id").unwrap_or(&Bson::Null);
        if collection
            .iter()
            .any(|one| equal(one.get("_id").unwrap_or(&Bson::Null), id))
        {
            return Err(duplicate_key(namespace, id));
        }
        collection.push(document);
        Ok(())
    }

    fn insert(&mut self, namespace: &str, command: &Document) -> Outcome {
        let (mut inserted, mut errors) = (0, Vec::new());
        for (index, document) in statements(command, "documents")?.into_iter().enumerate() {
            match self.insert_one(namespace, with_id(document)) {
                Ok(()) => inserted += 1,
                Err(error) => {
                    errors.push(write_error(index, error));
                    if is_ordered(command) {
                        break;
                    }
                }
            }
        }
        Ok(write_reply(doc! {"n": inserted}, errors))
    }

    fn update(&mut self, namespace: &str, command: &Document) -> Outcome {
        let (mut matched, mut modified) = (0, 0);
        let (mut upserted, mut errors) = (Vec::new(), Vec::new());
        for (index, statement) in statements(command, "updates")?.into_iter().enumerate() {
            match self.update_one(namespace, statement) {
                Ok(Updated {
                    matches,
                    changes,
                    upserted: id,
                }) => {
                    matched += matches;
                    modified += changes;
                    if let Some(id) = id {
                        upserted.push(Bson::from(doc! {"index": count_of(index), "_id": id}));
                    }
                }
                Err(error) => {
                    errors.push(write_error(index, error));
                    if is_ordered(command) {
                        break;
                    }
                }
            }
        }
        let mut reply = doc! {"n": count_of(matched), "nModified": count_of(modified)};
        if !upserted.is_empty() {
            reply.insert("upserted", upserted);
        }
        Ok(write_reply(reply, errors))
    }

    fn update_one(&mut self, namespace: &str, statement: &Document) -> Result<Updated> {
        let (filter, update) = (document(statement, "q")?, document(statement, "u")?);
        let is_multi = statement.get_bool("multi").unwrap_or(false);
        let mut done = Updated {
            matches: 0,
            changes: 0,
            upserted: None,
        };
        if let Some(collection) = self.collections.get_mut(namespace) {
            for entry in collection.iter_mut() {
                if !matches(entry, filter)? {
                    continue;
                }
                let new = updated(entry, update, false)?;
                done.matches += 1;
                done.changes += usize::from(new != *entry);
                *entry = new;
                if !is_multi {
                    break;
                }
            }
        }
        if done.matches == 0 && statement.get_bool("upsert").unwrap_or(false) {
            let is_value = |(key, value): &(&String, &Bson)| {
                !key.starts_with('$') && value.as_document().is_none()
            };
            let start = filter
                .iter()
                .filter(is_value)
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            let new = with_id(&updated(&start, update, true)?);
            done.upserted = new.get("_id").cloned();
            done.matches = 1;
            self.insert_one(namespace, new)?;
        }
        Ok(done)
    }

    fn delete(&mut self, namespace: &str, command: &Document) -> Outcome {
        let mut deleted = 0;
        for statement in statements(command, "deletes")? {
            let filter = document(statement, "q")?;
            let limit = size(statement, "limit")
                .filter(|&limit| limit > 0)
                .unwrap_or(usize::MAX);
            let Some(collection) = self.collections.get_mut(namespace) else {
                continue;
            };
            let mut left = limit;
            let mut kept = Vec::with_capacity(collection.len());
            for entry in collection.iter() {
                if left > 0 && matches(entry, filter)? {
                    left -= 1;
                } else {
                    kept.push(entry.clone());
                }
            }
            deleted += collection.len() - kept.len();
            *collection = kept;
        }
        Ok(doc! {"n": count_of(deleted)})
    }

    /// The matching documents, sorted, after `skip` and at most `limit`.
    fn select(
        &self,
        namespace: &str,
        command: &Document,
        filter: &Document,
    ) -> Result<Vec<Document>> {
        let mut found = Vec::new();
        for document in self.collections.get(namespace).into_iter().flatten() {
            if matches(document, filter)? {
                found.push(document.clone());
            }
        }
        if let Ok(sort) = command.get_document("sort") {
            found.sort_by(|left, right| order(left, right, sort));
        }
        let skip = size(command, "skip").unwrap_or(0);
        let limit = size(command, "limit")
            .filter(|&limit| limit > 0)
            .unwrap_or(usize::MAX);
        Ok(found.into_iter().skip(skip).take(limit).collect())
    }

    fn find(&mut self, server: usize, namespace: &str, command: &Document) -> Outcome {
        if command
            .get_document("projection")
            .is_ok_and(|projection| !projection.is_empty())
        {
            return Err(ErrorReply::new(
                238,
                "NotImplemented",
                "this store has no projection",
            ));
        }
        let none = Document::new();
        let filter = command.get_document("filter").unwrap_or(&none);
        let found = self.select(namespace, command, filter)?;
        let single = command.get_bool("singleBatch").unwrap_or(false);
        Ok(self.first_batch(server, namespace, found, size(command, "batchSize"), single))
    }

    fn first_batch(
        &mut self,
        server: usize,
        namespace: &str,
        found: Vec<Document>,
        batch_size: Option<usize>,
        single: bool,
    ) -> Document {
        let mut rest = found.into_iter();
        let batch: Vec<Document> = rest
            .by_ref()
            .take(batch_size.unwrap_or(FIRST_BATCH))
            .collect();
        let mut id = 0;
        if rest.len() > 0 && !single {
            self.last_cursor += 1;
            id = self.last_cursor;
            self.cursors.insert(
                id,
                Cursor {
                    server,
                    namespace: namespace.to_owned(),
                    rest,
                },
            );
        }
        doc! {"cursor": {"firstBatch": batch, "id": id, "ns": namespace}}
    }

    fn get_more(&mut self, server: usize, command: &Document) -> Outcome {
        let id = command.get_i64("getMore").map_err(|_| missing("getMore"))?;
        let own = self.cursors.get_mut(&id);
        let Some(cursor) = own.filter(|cursor| cursor.server == server) else {
            let message = format!("cursor id {id} not found");
            return Err(ErrorReply::new(43, "CursorNotFound", &message));
        };
        let limit = size(command, "batchSize")
            .filter(|&size| size > 0)
            .unwrap_or(usize::MAX);
        let batch: Vec<Document> = cursor.rest.by_ref().take(limit).collect();
        let namespace = cursor.namespace.clone();
        let next = if cursor.rest.len() == 0 {
            self.cursors.remove(&id);
            0
        } else {
            id
        };
        Ok(doc! {"cursor": {"nextBatch": batch, "id": next, "ns": namespace}})
    }

    fn kill_cursors(&mut self, server: usize, command: &Document) -> Document {
        let (mut killed, mut unknown) = (Vec::new(), Vec::new());
        for id in command.get_array("cursors").into_iter().flatten() {
            let own = id.as_i64().filter(|id| {
                let cursor = self.cursors.get(id);
                cursor.is_some_and(|cursor| cursor.server == server)
            });
            let known = own.and_then(|id| self.cursors.remove(&id)).is_some();
            if known { &mut killed } else { &mut unknown }.push(id.clone());
        }
        let none = Bson::Array(Vec::new());
        doc! {
            "cursorsKilled": killed,
            "cursorsNotFound": unknown,
            "cursorsAlive": none.clone(),
            "cursorsUnknown": none,
        }
    }

    fn count(&self, namespace: &str, command: &Document) -> Outcome {
        let none = Document::new();
        let filter = command.get_document("query").unwrap_or(&none);
        Ok(doc! {"n": count_of(self.select(namespace, command, filter)?.len())})
    }

    /// Supports `$match`, `$sort`, `$skip`, `$limit`, `$count`, and `$group` as far as counting
    /// needs it.
    fn aggregate(&mut self, server: usize, namespace: &str, command: &Document) -> Outcome {
        let mut found = self.collections.get(namespace).cloned().unwrap_or_default();
        for stage in statements(command, "pipeline")? {
            found = run_stage(found, stage)?;
        }
        let batch_size = command
            .get_document("cursor")
            .ok()
            .and_then(|c| size(c, "batchSize"));
        Ok(self.first_batch(server, namespace, found, batch_size, false))
    }

    fn list_collections(&mut self, server: usize, database: &str) -> Document {
        let prefix = format!("{database}.");
        let names = self
            .collections
            .keys()
            .filter_map(|name| name.strip_prefix(&prefix));
        let found = names.map(|name| doc! {"name": name, "type": "collection", "options": {}});
        let found = found.collect();
        self.first_batch(
            server,
            &format!("{database}.$cmd.listCollections"),
            found,
            None,
            false,
        )
    }

    fn list_databases(&self) -> Document {
        let mut names: Vec<&str> = self
            .collections
            .keys()
            .filter_map(|name| Some(name.split_once('.')?.0))
            .collect();
        names.dedup();
        let entry = |name| doc! {"name": name, "sizeOnDisk": 4096_i64, "empty": false};
        let databases: Vec<Document> = names.into_iter().map(entry).collect();
        doc! {"databases": databases, "totalSize": 4096_i64}
    }
}

struct Updated {
    matches: usize,
    changes: usize,
    upserted: Option<Bson>,
}
