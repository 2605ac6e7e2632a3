//! Translation of a driver's helpers into commands, and of replies into the helpers' results.

mod arguments;
mod writes;

use std::time::Duration;

use bson::{Bson, Document, doc};

use super::entities::millis;
use writes::{Write, bulk_write, find_and_modify, index_name, with_id, write_command};

pub(super) use arguments::Arguments;

/// What a command may be retried as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Command,
    Read,
    /// A read of an operation that writes, or of one that can't be retried.
    Write {
        retryable: bool,
    },
}

/// A command of an operation.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) database: String,
    pub(super) command: Document,
    pub(super) kind: Kind,
}

/// How the replies become the operation's result.
#[derive(Clone, Debug)]
pub(super) enum Finish {
    /// The reply itself.
    Reply,
    /// All documents of the cursor.
    Documents,
    /// The names of all documents of the cursor.
    Names,
    /// The first document of the cursor.
    First,
    /// A number of the first document of the cursor, or 0.
    Counted,
    /// A field of the reply, compared as a document or as it is.
    Field(&'static str),
    /// The documents of a reply's array.
    Listed(&'static str),
    /// The names of the documents of a reply's array.
    ListedNames(&'static str),
    /// The result of one write.
    One,
    /// The ids of inserted documents.
    Many,
    /// The result of a bulk of writes.
    Bulk,
    /// A value that the command has.
    Value(Bson),
    Nothing,
}

/// An operation as commands, to be run in order.
#[derive(Clone, Debug)]
pub(super) struct Translated {
    pub(super) steps: Vec<Step>,
    pub(super) finish: Finish,
    pub(super) cursor: CursorOptions,
    /// The comment of all its commands.
    pub(super) comment: Option<Bson>,
    /// Whether an error of one step ends the operation at once.
    pub(super) ordered: bool,
}

/// The options of a cursor's further commands.
#[derive(Clone, Debug, Default)]
pub(super) struct CursorOptions {
    pub(super) batch_size: Option<i64>,
    /// The most documents, which bounds the size of the last batch.
    pub(super) limit: Option<i64>,
    pub(super) max_await_time: Option<Duration>,
    pub(super) get_more_comment: Option<Bson>,
    pub(super) cursor_type: Option<String>,
    pub(super) timeout_mode: Option<String>,
}

impl Finish {
    /// Whether the command answers with a cursor.
    pub(super) fn is_of_cursor(&self) -> bool {
        matches!(
            self,
            Self::Documents | Self::Names | Self::First | Self::Counted
        )
    }
}

/// A database, and a collection of it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) database: &'a str,
    /// `None` for the database itself, or for the client.
    pub(super) collection: Option<&'a str>,
    pub(super) is_client: bool,
}

/// Translates an operation on a client, a database or a collection.
pub(super) fn translate(
    name: &str,
    arguments: &Arguments<'_>,
    place: Place<'_>,
) -> Result<Translated, String> {
    let common = ["maxTimeMS", "let", "rawData"];
    let mut translated = match place.collection {
        _ if name == "createChangeStream" => change_stream(arguments, place)?,
        Some(collection) => on_collection(name, collection, arguments, place)?,
        None => on_database(name, arguments, place)?,
    };
    for step in &mut translated.steps {
        arguments.copy(&common, &mut step.command);
    }
    translated.comment = arguments.get("comment").cloned();
    translated.cursor.timeout_mode = arguments.text("timeoutMode")?.map(str::to_owned);
    Ok(translated)
}

/// Why a driver refuses an operation before it sends anything.
pub(super) fn misuse(name: &str, arguments: &Arguments<'_>) -> Option<&'static str> {
    let is_update = |key: &str| match arguments.get(key) {
        Some(Bson::Document(update)) => update.keys().next().map(|key| key.starts_with('$')),
        _ => None,
    };
    match name {
        "replaceOne" | "findOneAndReplace" if is_update("replacement") == Some(true) => {
            Some("a replacement has no update operators")
        }
        "updateOne" | "updateMany" | "findOneAndUpdate" if is_update("update") == Some(false) => {
            Some("an update has update operators")
        }
        _ => None,
    }
}

fn unknown(name: &str) -> String {
    format!("the runner has no operation {name}")
}

fn one(place: Place<'_>, command: Document, kind: Kind, finish: Finish) -> Translated {
    Translated {
        steps: vec![Step {
            database: place.database.to_owned(),
            command,
            kind,
        }],
        finish,
        cursor: CursorOptions::default(),
        comment: None,
        ordered: true,
    }
}

const UNRETRIED: Kind = Kind::Write { retryable: false };
const RETRIED: Kind = Kind::Write { retryable: true };

fn on_database(
    name: &str,
    arguments: &Arguments<'_>,
    place: Place<'_>,
) -> Result<Translated, String> {
    let mut command = match name {
        "listDatabases" => doc! { "listDatabases": 1 },
        "listDatabaseNames" => doc! { "listDatabases": 1, "nameOnly": true },
        "listCollections" => doc! { "listCollections": 1, "cursor": {} },
        "listCollectionNames" => doc! { "listCollections": 1, "nameOnly": true, "cursor": {} },
        "aggregate" => return aggregate(Bson::Int32(1), arguments, place),
        "createCollection" => {
            let mut command = doc! { "create": arguments.need("collection")?.clone() };
            let options = [
                "capped",
                "size",
                "max",
                "viewOn",
                "pipeline",
                "timeseries",
                "expireAfterSeconds",
                "clusteredIndex",
                "changeStreamPreAndPostImages",
            ];
            arguments.copy(&options, &mut command);
            return Ok(one(place, command, UNRETRIED, Finish::Nothing));
        }
        "dropCollection" => {
            let command = doc! { "drop": arguments.need("collection")?.clone() };
            return Ok(one(place, command, UNRETRIED, Finish::Nothing));
        }
        _ => return Err(unknown(name)),
    };
    arguments.copy(&["filter", "nameOnly", "authorizedDatabases"], &mut command);
    let finish = match name {
        "listDatabases" => Finish::Listed("databases"),
        "listDatabaseNames" => Finish::ListedNames("databases"),
        "listCollections" => Finish::Documents,
        _ => Finish::Names,
    };
    let mut translated = one(place, command, Kind::Read, finish);
    batches(&mut translated, arguments)?;
    Ok(translated)
}

/// The size of a cursor's batches, in a command whose cursor has options of its own.
fn batches(translated: &mut Translated, arguments: &Arguments<'_>) -> Result<(), String> {
    translated.cursor.batch_size = arguments.number("batchSize")?;
    if let (Some(size), Some(step)) = (translated.cursor.batch_size, translated.steps.first_mut()) {
        step.command.insert("cursor", doc! { "batchSize": size });
    }
    Ok(())
}

fn aggregate(
    target: Bson,
    arguments: &Arguments<'_>,
    place: Place<'_>,
) -> Result<Translated, String> {
    let pipeline = arguments.list("pipeline")?.clone();
    let stage = |stage: &Bson, name: &str| {
        let stage = stage.as_document();
        stage.is_some_and(|stage| stage.contains_key(name))
    };
    let last = pipeline.last();
    let writes = last.is_some_and(|last| stage(last, "$out") || stage(last, "$merge"));
    let mut command = doc! { "aggregate": target, "pipeline": pipeline, "cursor": {} };
    let options = [
        "allowDiskUse",
        "bypassDocumentValidation",
        "collation",
        "hint",
    ];
    arguments.copy(&options, &mut command);
    let kind = if writes { UNRETRIED } else { Kind::Read };
    let mut translated = one(place, command, kind, Finish::Documents);
    batches(&mut translated, arguments)?;
    Ok(translated)
}

fn change_stream(arguments: &Arguments<'_>, place: Place<'_>) -> Result<Translated, String> {
    let mut stage = Document::new();
    if place.is_client {
        stage.insert("allChangesForCluster", true);
    }
    let options = [
        "fullDocument",
        "fullDocumentBeforeChange",
        "resumeAfter",
        "startAfter",
        "startAtOperationTime",
        "showExpandedEvents",
    ];
    arguments.copy(&options, &mut stage);
    let mut pipeline = vec![Bson::from(doc! { "$changeStream": stage })];
    if let Some(Bson::Array(stages)) = arguments.get("pipeline") {
        pipeline.extend(stages.clone());
    }
    let target = place.collection.map_or(Bson::Int32(1), Bson::from);
    let command = doc! { "aggregate": target, "pipeline": pipeline, "cursor": {} };
    let mut translated = one(place, command, Kind::Read, Finish::Documents);
    batches(&mut translated, arguments)?;
    translated.cursor.max_await_time = arguments.number("maxAwaitTimeMS")?.map(millis);
    translated.cursor.cursor_type = Some("tailableAwait".to_owned());
    Ok(translated)
}

fn on_collection(
    name: &str,
    collection: &str,
    arguments: &Arguments<'_>,
    place: Place<'_>,
) -> Result<Translated, String> {
    let read = |command, finish| Ok(one(place, command, Kind::Read, finish));
    match name {
        "find" | "findOne" => find(name, collection, arguments, place),
        "aggregate" => aggregate(collection.into(), arguments, place),
        "countDocuments" => {
            let mut pipeline = vec![doc! { "$match": arguments.need("filter")?.clone() }];
            for (key, stage) in [("skip", "$skip"), ("limit", "$limit")] {
                if let Some(value) = arguments.get(key) {
                    pipeline.push(doc! { stage: value.clone() });
                }
            }
            pipeline.push(doc! { "$group": { "_id": 1, "n": { "$sum": 1 } } });
            let mut command = doc! { "aggregate": collection, "pipeline": pipeline, "cursor": {} };
            arguments.copy(&["collation", "hint"], &mut command);
            read(command, Finish::Counted)
        }
        "count" | "estimatedDocumentCount" => {
            let mut command = doc! { "count": collection };
            if let Some(query) = arguments.get("filter") {
                command.insert("query", query.clone());
            }
            read(command, Finish::Field("n"))
        }
        "distinct" => {
            let mut command = doc! { "distinct": collection };
            command.insert("key", arguments.need("fieldName")?.clone());
            let query = arguments.get("filter").cloned();
            command.insert("query", query.unwrap_or_else(|| doc! {}.into()));
            arguments.copy(&["collation", "hint"], &mut command);
            read(command, Finish::Field("values"))
        }
        "listIndexes" | "listIndexNames" => {
            let command = doc! { "listIndexes": collection, "cursor": {} };
            let names = name == "listIndexNames";
            let finish = if names {
                Finish::Names
            } else {
                Finish::Documents
            };
            let mut translated = one(place, command, Kind::Read, finish);
            batches(&mut translated, arguments)?;
            Ok(translated)
        }
        "createIndex" => {
            let keys = arguments.need("keys")?.clone();
            let index_name = match arguments.text("name")? {
                Some(name) => name.to_owned(),
                None => index_name(keys.as_document().ok_or("keys is no document")?),
            };
            let mut index = doc! { "key": keys, "name": &index_name };
            let options = [
                "unique",
                "sparse",
                "expireAfterSeconds",
                "hidden",
                "collation",
            ];
            arguments.copy(&options, &mut index);
            let command = doc! { "createIndexes": collection, "indexes": [index] };
            let finish = Finish::Value(index_name.into());
            Ok(one(place, command, UNRETRIED, finish))
        }
        "dropIndex" | "dropIndexes" => {
            let index = match name {
                "dropIndex" => arguments.need("name")?.clone(),
                _ => "*".into(),
            };
            let command = doc! { "dropIndexes": collection, "index": index };
            Ok(one(place, command, UNRETRIED, Finish::Nothing))
        }
        "findOneAndDelete" | "findOneAndReplace" | "findOneAndUpdate" => {
            find_and_modify(name, collection, arguments, place)
        }
        "insertMany" => {
            let documents = arguments.list("documents")?.iter().map(with_id);
            let statements = documents.collect::<Result<Vec<_>, _>>()?;
            let ordered = arguments.flag("ordered")?.unwrap_or(true);
            let mut command = write_command(collection, "insert", statements, ordered);
            arguments.copy(&["bypassDocumentValidation"], &mut command);
            Ok(one(place, command, RETRIED, Finish::Many))
        }
        "bulkWrite" => bulk_write(collection, arguments, place),
        _ => {
            let write = Write::read(name, arguments)?;
            let mut command = write_command(collection, write.kind, vec![write.statement], true);
            arguments.copy(&["bypassDocumentValidation"], &mut command);
            let kind = Kind::Write {
                retryable: write.retryable,
            };
            Ok(one(place, command, kind, Finish::One))
        }
    }
}

fn find(
    name: &str,
    collection: &str,
    arguments: &Arguments<'_>,
    place: Place<'_>,
) -> Result<Translated, String> {
    let filter = match name {
        "findOne" => arguments.get("filter").cloned(),
        _ => Some(arguments.need("filter")?.clone()),
    };
    let mut command = doc! { "find": collection };
    command.insert("filter", filter.unwrap_or_else(|| doc! {}.into()));
    let options = [
        "sort",
        "projection",
        "skip",
        "hint",
        "collation",
        "allowDiskUse",
        "batchSize",
        "min",
        "max",
        "returnKey",
        "showRecordId",
    ];
    arguments.copy(&options, &mut command);
    let limit = arguments.number("limit")?;
    match limit {
        Some(limit) if limit < 0 => {
            command.insert("limit", limit.unsigned_abs() as i64);
            command.insert("singleBatch", true);
        }
        Some(limit) => {
            command.insert("limit", limit);
        }
        None => {}
    }
    let mut finish = Finish::Documents;
    if name == "findOne" {
        command.insert("limit", 1_i64);
        command.insert("singleBatch", true);
        finish = Finish::First;
    }
    let cursor_type = arguments.text("cursorType")?;
    match cursor_type {
        None | Some("nonTailable") => {}
        Some("tailable") => {
            command.insert("tailable", true);
        }
        Some("tailableAwait") => {
            command.insert("tailable", true);
            command.insert("awaitData", true);
        }
        Some(other) => return Err(format!("cursorType can't be {other}")),
    }
    let mut translated = one(place, command, Kind::Read, finish);
    translated.cursor.batch_size = arguments.number("batchSize")?;
    translated.cursor.limit = limit.filter(|limit| *limit > 0);
    translated.cursor.max_await_time = arguments.number("maxAwaitTimeMS")?.map(millis);
    translated.cursor.cursor_type = cursor_type.map(str::to_owned);
    Ok(translated)
}
