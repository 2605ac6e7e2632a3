//! Helpers that write.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use super::{
    Arguments, CursorOptions, Finish, Kind, Place, RETRIED, Step, Translated, one, unknown,
};

pub(super) fn find_and_modify(
    name: &str,
    collection: &str,
    arguments: &Arguments<'_>,
    place: Place<'_>,
) -> Result<Translated, String> {
    let query = arguments.need("filter")?.clone();
    let mut command = doc! { "findAndModify": collection, "query": query };
    match name {
        "findOneAndDelete" => {
            command.insert("remove", true);
        }
        "findOneAndReplace" => {
            command.insert("update", arguments.need("replacement")?.clone());
        }
        _ => {
            command.insert("update", arguments.need("update")?.clone());
        }
    }
    match arguments.text("returnDocument")? {
        None | Some("Before") => {}
        Some("After") => {
            command.insert("new", true);
        }
        Some(other) => return Err(format!("returnDocument can't be {other}")),
    }
    if let Some(fields) = arguments.get("projection") {
        command.insert("fields", fields.clone());
    }
    let options = [
        "sort",
        "upsert",
        "arrayFilters",
        "collation",
        "hint",
        "bypassDocumentValidation",
    ];
    arguments.copy(&options, &mut command);
    Ok(one(place, command, RETRIED, Finish::Field("value")))
}

/// A statement of a write command.
pub(super) struct Write {
    pub(super) kind: &'static str,
    pub(super) statement: Bson,
    pub(super) retryable: bool,
}

impl Write {
    pub(super) fn read(name: &str, arguments: &Arguments<'_>) -> Result<Self, String> {
        let (kind, mut statement) = match name {
            "insertOne" => {
                let document = with_id(arguments.need("document")?)?;
                return Ok(Self {
                    kind: "insert",
                    statement: document,
                    retryable: true,
                });
            }
            "deleteOne" | "deleteMany" => {
                let limit = i32::from(name == "deleteOne");
                let query = arguments.need("filter")?.clone();
                ("delete", doc! { "q": query, "limit": limit })
            }
            "updateOne" | "updateMany" | "replaceOne" => {
                let is_replacement = name == "replaceOne";
                let key = if is_replacement {
                    "replacement"
                } else {
                    "update"
                };
                let query = arguments.need("filter")?.clone();
                let mut statement = doc! { "q": query, "u": arguments.need(key)?.clone() };
                if name == "updateMany" {
                    statement.insert("multi", true);
                }
                arguments.copy(&["upsert", "arrayFilters"], &mut statement);
                ("update", statement)
            }
            _ => return Err(unknown(name)),
        };
        arguments.copy(&["collation", "hint"], &mut statement);
        Ok(Self {
            kind,
            statement: statement.into(),
            retryable: !name.ends_with("Many"),
        })
    }
}

/// A document with an `_id`, which drivers add.
pub(super) fn with_id(document: &Bson) -> Result<Bson, String> {
    let document = document.as_document().ok_or("a document is no document")?;
    let mut complete = Document::new();
    if !document.contains_key("_id") {
        complete.insert("_id", ObjectId::new());
    }
    complete.extend(document.clone());
    Ok(complete.into())
}

pub(super) fn write_command(
    collection: &str,
    kind: &str,
    statements: Vec<Bson>,
    ordered: bool,
) -> Document {
    let field = match kind {
        "insert" => "documents",
        "delete" => "deletes",
        _ => "updates",
    };
    doc! { kind: collection, field: statements, "ordered": ordered }
}

pub(super) fn index_name(keys: &Document) -> String {
    let parts = keys.iter().map(|(key, order)| format!("{key}_{order}"));
    parts.collect::<Vec<_>>().join("_")
}

/// Writes in order. Adjacent ones of the same kind form one command.
pub(super) fn bulk_write(
    collection: &str,
    arguments: &Arguments<'_>,
    place: Place<'_>,
) -> Result<Translated, String> {
    let ordered = arguments.flag("ordered")?.unwrap_or(true);
    let mut groups: Vec<(&'static str, Vec<Bson>, bool)> = Vec::new();
    for request in arguments.list("requests")? {
        let request = request.as_document().ok_or("a request is no document")?;
        let (name, own) = request.iter().next().ok_or("an empty request")?;
        let own = own.as_document().ok_or("a request without arguments")?;
        let own = Arguments::new(own);
        let write = Write::read(name, &own)?;
        own.finish(name)?;
        match groups.last_mut() {
            Some((kind, statements, retryable)) if *kind == write.kind => {
                statements.push(write.statement);
                *retryable &= write.retryable;
            }
            _ => groups.push((write.kind, vec![write.statement], write.retryable)),
        }
    }
    let steps = groups.into_iter().map(|(kind, statements, retryable)| {
        let mut command = write_command(collection, kind, statements, ordered);
        arguments.copy(&["bypassDocumentValidation"], &mut command);
        Step {
            database: place.database.to_owned(),
            command,
            kind: Kind::Write { retryable },
        }
    });
    Ok(Translated {
        steps: steps.collect(),
        finish: Finish::Bulk,
        cursor: CursorOptions::default(),
        comment: None,
        ordered,
    })
}
