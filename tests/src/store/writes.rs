//! Writes to the store's collections.

use bson::{Bson, Document, doc};

use super::sessions::Touched;
use super::{Call, Collection, Collections, Result, reads};
use crate::action::ErrorReply;
use crate::pipeline::order;
use crate::query::{matches, projected, updated};
use crate::statement::{
    count_of, document, duplicate_key, is_ordered, is_retryable_write, is_set, is_text, missing,
    size, statements, with_id, write_error, write_reply,
};

/// Executes a write, and adds what it writes to `touched`.
pub(super) fn execute(
    collections: &mut Collections,
    call: &Call<'_>,
    touched: &mut Touched,
) -> Result<Document> {
    match call.name {
        "dropdatabase" => {
            let prefix = format!("{}.", call.database);
            let is_of_it = |name: &&String| name.starts_with(&prefix);
            for name in collections.keys().filter(is_of_it) {
                touched.namespace(name);
            }
            collections.retain(|name, _| !name.starts_with(&prefix));
            return Ok(doc! {"dropped": call.database});
        }
        "insert" | "update" | "delete" | "findandmodify" | "aggregate" | "create" | "drop"
        | "createindexes" | "dropindexes" => {}
        _ => return Err(call.is_unknown()),
    }
    let mut write = Write {
        namespace: call.namespace()?,
        collections,
        touched,
        call,
    };
    match call.name {
        "insert" => write.insert(),
        "update" => write.update(),
        "delete" => write.delete(),
        "findandmodify" => write.find_and_modify(),
        "aggregate" => write.out(),
        "create" => write.create(),
        "createindexes" => write.create_indexes(),
        "dropindexes" => write.drop_indexes(),
        _ => {
            write.touched.namespace(&write.namespace);
            write.collections.remove(&write.namespace);
            Ok(Document::new())
        }
    }
}

struct Write<'a, 'b> {
    namespace: String,
    collections: &'a mut Collections,
    touched: &'a mut Touched,
    call: &'a Call<'b>,
}

#[derive(Default)]
struct Updated {
    matches: usize,
    changes: usize,
    upserted: Option<Bson>,
    /// The first document before and after the update.
    one: Option<(Document, Document)>,
}

impl Write<'_, '_> {
    /// The collection, which is created if it does not exist.
    fn collection(&mut self) -> &mut Collection {
        if !self.collections.contains_key(&self.namespace) {
            self.touched.namespace(&self.namespace);
        }
        let entry = self.collections.entry(self.namespace.clone());
        entry.or_default()
    }

    fn insert_one(&mut self, document: Document) -> Result<()> {
        let id = document.get("_id").cloned().unwrap_or(Bson::Null);
        self.touched.document(&self.namespace, &id);
        if self.collection().position(&id).is_some() {
            return Err(duplicate_key(&self.namespace, &id));
        }
        if self.touched.is_watched {
            let inserted = (self.namespace.clone(), document.clone());
            self.touched.inserted.push(inserted);
        }
        self.collection().edit().push(document);
        Ok(())
    }

    /// Runs each statement of a write command, up to an error of an ordered one.
    fn each(
        &mut self,
        name: &str,
        mut run: impl FnMut(&mut Self, usize, &Document) -> Result<()>,
    ) -> Result<Vec<Bson>> {
        let command = self.call.command;
        let mut errors = Vec::new();
        for (index, statement) in statements(command, name)?.into_iter().enumerate() {
            if let Err(error) = run(self, index, statement) {
                errors.push(write_error(index, error));
                if is_ordered(command) {
                    break;
                }
            }
        }
        Ok(errors)
    }

    fn insert(&mut self) -> Result<Document> {
        let mut inserted = 0;
        let errors = self.each("documents", |write, _, document| {
            write.insert_one(with_id(document))?;
            inserted += 1;
            Ok(())
        })?;
        Ok(write_reply(doc! {"n": inserted}, errors))
    }

    fn update(&mut self) -> Result<Document> {
        let (mut matched, mut modified, mut upserted) = (0, 0, Vec::new());
        let errors = self.each("updates", |write, index, statement| {
            let multi = is_set(statement, "multi");
            write.check_single(!multi, "multi=true")?;
            let filter = document(statement, "q")?;
            let upserts = is_set(statement, "upsert");
            let update = document(statement, "u")?;
            let one = write.update_matching(filter, None, update, multi, upserts)?;
            matched += one.matches;
            modified += one.changes;
            if let Some(id) = one.upserted {
                upserted.push(Bson::from(doc! {"index": count_of(index), "_id": id}));
            }
            Ok(())
        })?;
        let mut reply = doc! {"n": count_of(matched), "nModified": count_of(modified)};
        if !upserted.is_empty() {
            reply.insert("upserted", upserted);
        }
        Ok(write_reply(reply, errors))
    }

    /// A retryable write has only statements that write a single document.
    fn check_single(&self, is_single: bool, what: &str) -> Result<()> {
        if is_single || !is_retryable_write(self.call.name, self.call.command) {
            return Ok(());
        }
        let message = format!("Cannot use (or request) retryable writes with {what}");
        Err(ErrorReply::new(72, "InvalidOptions", &message))
    }

    /// The positions of the matching documents.
    fn matching(&self, filter: &Document, sort: Option<&Document>) -> Result<Vec<usize>> {
        let collection = self.collections.get(&self.namespace);
        let documents = collection.map_or(&[][..], |one| one.documents.as_slice());
        let mut found = Vec::new();
        for (position, document) in documents.iter().enumerate() {
            if matches(document, filter)? {
                found.push(position);
            }
        }
        if let Some(sort) = sort {
            found.sort_by(|&left, &right| order(&documents[left], &documents[right], sort));
        }
        Ok(found)
    }

    fn update_matching(
        &mut self,
        filter: &Document,
        sort: Option<&Document>,
        update: &Document,
        multi: bool,
        upserts: bool,
    ) -> Result<Updated> {
        let mut done = Updated::default();
        let limit = if multi { usize::MAX } else { 1 };
        for position in self.matching(filter, sort)?.into_iter().take(limit) {
            let old = self.collection().documents[position].clone();
            let new = updated(&old, update, false)?;
            self.touched
                .document(&self.namespace, old.get("_id").unwrap_or(&Bson::Null));
            done.matches += 1;
            if new != old {
                done.changes += 1;
                self.collection().edit()[position] = new.clone();
            }
            done.one.get_or_insert((old, new));
        }
        if done.matches == 0 && upserts {
            let new = upsert(filter, update)?;
            done.upserted = new.get("_id").cloned();
            done.matches = 1;
            self.insert_one(new.clone())?;
            done.one = Some((Document::new(), new));
        }
        Ok(done)
    }

    fn remove_matching(
        &mut self,
        filter: &Document,
        sort: Option<&Document>,
        limit: usize,
    ) -> Result<Vec<Document>> {
        let mut positions = self.matching(filter, sort)?;
        positions.truncate(limit);
        if positions.is_empty() {
            return Ok(Vec::new());
        }
        positions.sort_unstable();
        let documents = self.collection().edit();
        let removed = positions.iter().rev().map(|&at| documents.remove(at));
        let removed: Vec<Document> = removed.collect();
        for document in &removed {
            let id = document.get("_id").unwrap_or(&Bson::Null);
            self.touched.document(&self.namespace, id);
        }
        Ok(removed)
    }

    fn delete(&mut self) -> Result<Document> {
        let mut deleted = 0;
        let errors = self.each("deletes", |write, _, statement| {
            let limit = size(statement, "limit").filter(|&limit| limit > 0);
            write.check_single(limit.is_some(), "limit=0")?;
            let filter = document(statement, "q")?;
            let limit = limit.unwrap_or(usize::MAX);
            deleted += write.remove_matching(filter, None, limit)?.len();
            Ok(())
        })?;
        Ok(write_reply(doc! {"n": count_of(deleted)}, errors))
    }

    fn find_and_modify(&mut self) -> Result<Document> {
        let command = self.call.command;
        let none = Document::new();
        let filter = command.get_document("query").unwrap_or(&none);
        let sort = command.get_document("sort").ok();
        let (about, value) = if is_set(command, "remove") {
            let removed = self.remove_matching(filter, sort, 1)?.pop();
            (doc! {"n": count_of(removed.iter().len())}, removed)
        } else {
            let update = document(command, "update")?;
            let done =
                self.update_matching(filter, sort, update, false, is_set(command, "upsert"))?;
            let is_update = done.matches > 0 && done.upserted.is_none();
            let mut about = doc! {"n": count_of(done.matches), "updatedExisting": is_update};
            if let Some(id) = done.upserted {
                about.insert("upserted", id);
            }
            let value = match (done.one, is_set(command, "new")) {
                (Some((_, new)), true) => Some(new),
                (Some((old, _)), false) if is_update => Some(old),
                (Some(_) | None, _) => None,
            };
            (about, value)
        };
        let value = match (value, command.get_document("fields")) {
            (Some(value), Ok(fields)) => projected(&value, fields)?.into(),
            (value, _) => value.map_or(Bson::Null, Bson::from),
        };
        Ok(doc! {"lastErrorObject": about, "value": value})
    }

    /// An aggregation that ends with `$out`.
    fn out(&mut self) -> Result<Document> {
        let stages = statements(self.call.command, "pipeline")?;
        let target = match stages.last().and_then(|stage| stage.get("$out")) {
            Some(Bson::String(name)) => format!("{}.{name}", self.call.database),
            Some(Bson::Document(one)) => match (one.get_str("db"), one.get_str("coll")) {
                (Ok(database), Ok(name)) => format!("{database}.{name}"),
                _ => return Err(missing("$out")),
            },
            _ => {
                let message = "this store has no $merge, and $out only at the end";
                return Err(ErrorReply::new(238, "NotImplemented", message));
            }
        };
        let found = reads::aggregate(self.collections, self.call)?;
        self.touched.namespace(&target);
        let collection = self.collections.entry(target).or_default();
        *collection.edit() = found.iter().map(with_id).collect();
        let none: Vec<Bson> = Vec::new();
        Ok(doc! {"cursor": {"firstBatch": none, "id": 0_i64, "ns": &self.namespace}})
    }

    fn create(&mut self) -> Result<Document> {
        let mut options = Document::new();
        for name in ["capped", "size", "max"] {
            if let Some(value) = self.call.command.get(name) {
                options.insert(name, value.clone());
            }
        }
        let existing = self.collections.get(&self.namespace);
        if existing.is_some_and(|existing| existing.options != options) {
            let message = format!("Collection {} already exists.", self.namespace);
            return Err(ErrorReply::new(48, "NamespaceExists", &message));
        }
        self.collection().options = options;
        Ok(Document::new())
    }

    fn create_indexes(&mut self) -> Result<Document> {
        let indexes = statements(self.call.command, "indexes")?;
        if indexes.iter().any(|index| is_set(index, "unique")) {
            let message = "this store has no unique indexes";
            return Err(ErrorReply::new(238, "NotImplemented", message));
        }
        let own = &mut self.collection().indexes;
        let before = own.len();
        for index in indexes {
            let name = index.get_str("name").map_err(|_| missing("name"))?;
            if own.iter().any(|one| is_text(one, "name", name)) {
                continue;
            }
            let mut index = index.clone();
            index.insert("v", 2);
            own.push(index);
        }
        let (before, after) = (count_of(before + 1), count_of(own.len() + 1));
        Ok(doc! {"numIndexesBefore": before, "numIndexesAfter": after})
    }

    fn drop_indexes(&mut self) -> Result<Document> {
        let Some(collection) = self.collections.get_mut(&self.namespace) else {
            let message = format!("ns not found {}", self.namespace);
            return Err(ErrorReply::new(26, "NamespaceNotFound", &message));
        };
        let before = collection.indexes.len();
        match self.call.command.get_str("index") {
            Ok("*") => collection.indexes.clear(),
            Ok(name) => {
                let indexes = &mut collection.indexes;
                indexes.retain(|one| !is_text(one, "name", name));
                if indexes.len() == before {
                    let message = format!("index not found with name [{name}]");
                    return Err(ErrorReply::new(27, "IndexNotFound", &message));
                }
            }
            Err(_) => return Err(missing("index")),
        }
        Ok(doc! {"nIndexesWas": count_of(before + 1)})
    }
}

/// The document that an upsert inserts.
fn upsert(filter: &Document, update: &Document) -> Result<Document> {
    let is_value =
        |(key, value): &(&String, &Bson)| !key.starts_with('$') && value.as_document().is_none();
    let fields = filter.iter().filter(is_value);
    let start = fields.map(|(key, value)| (key.clone(), value.clone()));
    Ok(with_id(&updated(&start.collect(), update, true)?))
}
