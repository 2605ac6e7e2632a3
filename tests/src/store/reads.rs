//! Reads of the store's collections.

use bson::{Bson, Document, doc};

use super::change_streams::Watch;
use super::sessions::Sessions;
use super::{Call, Collections, Result};
use crate::action::ErrorReply;
use crate::pipeline::{order, run_stage};
use crate::query::{equal, lookup, matches, projected};
use crate::statement::{count_of, is_set, missing, size, statements};

/// What a read found.
#[derive(Debug)]
pub(super) enum Found {
    /// The reply, for commands without a cursor.
    Reply(Document),
    /// The documents of a cursor on this namespace.
    Documents(String, Vec<Document>),
    /// Those of a tailable cursor, and the position after them.
    Tail(String, Vec<Document>, usize),
    /// The change stream of this cursor.
    Changes(Watch),
}

pub(super) fn execute(
    collections: &Collections,
    sessions: &Sessions,
    call: &Call<'_>,
) -> Result<Found> {
    if let Some(watch) = Watch::of(call) {
        return Ok(Found::Changes(watch));
    }
    match call.name {
        "find" => find(collections, call),
        "count" => count(collections, call).map(Found::Reply),
        "distinct" => distinct(collections, call).map(Found::Reply),
        "aggregate" if call.command.get_str("aggregate").is_err() => of_database(sessions, call),
        "aggregate" => {
            let namespace = call.namespace()?;
            Ok(Found::Documents(namespace, aggregate(collections, call)?))
        }
        "listcollections" => list_collections(collections, call),
        "listdatabases" => Ok(Found::Reply(list_databases(collections, call)?)),
        "listindexes" => list_indexes(collections, call),
        _ => Err(call.is_unknown()),
    }
}

/// The matching documents, sorted, after `skip` and at most `limit`.
pub(super) fn select(
    collections: &Collections,
    call: &Call<'_>,
    filter: &str,
) -> Result<Vec<Document>> {
    let command = call.command;
    let none = Document::new();
    let filter = command.get_document(filter).unwrap_or(&none);
    let collection = collections.get(&call.namespace()?);
    let mut found = Vec::new();
    for document in collection.iter().flat_map(|one| one.documents.iter()) {
        if matches(document, filter)? {
            found.push(document.clone());
        }
    }
    if let Ok(sort) = command.get_document("sort") {
        found.sort_by(|left, right| order(left, right, sort));
    }
    let skip = size(command, "skip").unwrap_or(0);
    let limit = size(command, "limit").filter(|&limit| limit > 0);
    let limit = limit.unwrap_or(usize::MAX);
    Ok(found.into_iter().skip(skip).take(limit).collect())
}

fn find(collections: &Collections, call: &Call<'_>) -> Result<Found> {
    let namespace = call.namespace()?;
    let mut found = select(collections, call, "filter")?;
    if let Ok(projection) = call.command.get_document("projection") {
        for document in &mut found {
            *document = projected(document, projection)?;
        }
    }
    if !is_set(call.command, "tailable") {
        return Ok(Found::Documents(namespace, found));
    }
    let collection = collections.get(&namespace);
    let is_capped = collection.is_some_and(|one| is_set(&one.options, "capped"));
    if !is_capped {
        let message = format!("tailable cursor requested on non capped collection {namespace}");
        return Err(ErrorReply::new(2, "BadValue", &message));
    }
    if call
        .command
        .get_document("filter")
        .is_ok_and(|filter| !filter.is_empty())
    {
        let message = "this store's tailable cursors have no filter";
        return Err(ErrorReply::new(238, "NotImplemented", message));
    }
    let end = collection.map_or(0, |one| one.documents.len());
    Ok(Found::Tail(namespace, found, end))
}

fn count(collections: &Collections, call: &Call<'_>) -> Result<Document> {
    let found = select(collections, call, "query")?;
    Ok(doc! {"n": count_of(found.len())})
}

fn distinct(collections: &Collections, call: &Call<'_>) -> Result<Document> {
    let key = call.command.get_str("key");
    let key = key.map_err(|_| missing("key"))?;
    let mut values: Vec<Bson> = Vec::new();
    for document in select(collections, call, "query")? {
        let found = match lookup(&document, key) {
            Some(Bson::Array(elements)) => elements.clone(),
            value => value.cloned().into_iter().collect(),
        };
        for value in found {
            if !values.iter().any(|one| equal(one, &value)) {
                values.push(value);
            }
        }
    }
    Ok(doc! {"values": values})
}

/// Runs a pipeline up to `$out`, which it leaves to the caller.
pub(super) fn aggregate(collections: &Collections, call: &Call<'_>) -> Result<Vec<Document>> {
    let collection = collections.get(&call.namespace()?);
    let mut found = collection.map_or_else(Vec::new, |one| one.documents.to_vec());
    for stage in statements(call.command, "pipeline")? {
        if !stage.contains_key("$out") {
            found = run_stage(found, stage)?;
        }
    }
    Ok(found)
}

/// An aggregation of a database, not of a collection.
fn of_database(sessions: &Sessions, call: &Call<'_>) -> Result<Found> {
    let mut stages = statements(call.command, "pipeline")?.into_iter();
    let first = stages.next().and_then(|stage| stage.keys().next());
    if first.map(String::as_str) != Some("$listLocalSessions") {
        let message = "{aggregate: 1} is not valid for this pipeline";
        return Err(ErrorReply::new(73, "InvalidNamespace", message));
    }
    let mut found = sessions.list(call.user);
    for stage in stages {
        found = run_stage(found, stage)?;
    }
    Ok(Found::Documents(
        format!("{}.$cmd.aggregate", call.database),
        found,
    ))
}

fn filtered(call: &Call<'_>, documents: Vec<Document>) -> Result<Vec<Document>> {
    let none = Document::new();
    let filter = call.command.get_document("filter").unwrap_or(&none);
    let mut found = Vec::new();
    for document in documents {
        if matches(&document, filter)? {
            found.push(document);
        }
    }
    Ok(found)
}

fn list_collections(collections: &Collections, call: &Call<'_>) -> Result<Found> {
    let prefix = format!("{}.", call.database);
    let names = collections
        .iter()
        .filter_map(|(name, one)| Some((name.strip_prefix(&prefix)?, one)));
    let found = names.map(|(name, one)| {
        doc! {"name": name, "type": "collection", "options": one.options.clone()}
    });
    let namespace = format!("{}.$cmd.listCollections", call.database);
    Ok(Found::Documents(
        namespace,
        filtered(call, found.collect())?,
    ))
}

fn list_databases(collections: &Collections, call: &Call<'_>) -> Result<Document> {
    let names = collections
        .keys()
        .filter_map(|name| Some(name.split_once('.')?.0));
    let mut names: Vec<&str> = names.collect();
    names.dedup();
    let is_bare = is_set(call.command, "nameOnly");
    let entry = |name: &str| match is_bare {
        true => doc! {"name": name},
        false => doc! {"name": name, "sizeOnDisk": 4096_i64, "empty": false},
    };
    let found = filtered(call, names.into_iter().map(entry).collect())?;
    Ok(match is_bare {
        true => doc! {"databases": found},
        false => doc! {"databases": found, "totalSize": 4096_i64},
    })
}

fn list_indexes(collections: &Collections, call: &Call<'_>) -> Result<Found> {
    let namespace = call.namespace()?;
    let Some(collection) = collections.get(&namespace) else {
        let message = format!("ns does not exist: {namespace}");
        return Err(ErrorReply::new(26, "NamespaceNotFound", &message));
    };
    let mut found = vec![doc! {"v": 2, "key": {"_id": 1}, "name": "_id_"}];
    found.extend(collection.indexes.iter().cloned());
    Ok(Found::Documents(namespace, found))
}
