//! The results of a driver's helpers, from the replies to their commands.

use bson::{Bson, Document, doc};

use super::crud::Finish;

/// The result of an operation, and how it is compared.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// A value. A document is a root document.
    Value(Bson),
    /// The documents of an iterable, each a root document.
    Documents(Vec<Bson>),
    Nothing,
}

/// A command and the reply to it, with all documents of its cursor.
pub(super) struct Answer {
    pub(super) command: Document,
    pub(super) reply: Document,
    pub(super) documents: Vec<Bson>,
}

/// The result of an operation from the replies to its commands.
pub(super) fn result(finish: &Finish, answers: &[Answer]) -> Result<Found, String> {
    let last = || answers.last().ok_or("no reply");
    let field = |name: &str| {
        let value = last()?.reply.get(name);
        value
            .cloned()
            .ok_or_else(|| format!("a reply without {name}"))
    };
    let listed = |name: &str| match field(name)? {
        Bson::Array(items) => Ok(items),
        other => Err(format!("{name} is {other}")),
    };
    Ok(match finish {
        Finish::Reply => Found::Value(last()?.reply.clone().into()),
        Finish::Documents => Found::Documents(last()?.documents.clone()),
        Finish::Names => Found::Value(names(&last()?.documents)),
        Finish::First => Found::Value(last()?.documents.first().cloned().unwrap_or(Bson::Null)),
        Finish::Counted => {
            let first = last()?.documents.first().and_then(Bson::as_document);
            let count = first.and_then(|first| first.get("n")).cloned();
            Found::Value(count.unwrap_or(Bson::Int32(0)))
        }
        Finish::Field(name) => Found::Value(field(name)?),
        Finish::Listed(name) => Found::Documents(listed(name)?),
        Finish::ListedNames(name) => Found::Value(names(&listed(name)?)),
        Finish::One => one(last()?),
        Finish::Many => {
            let inserted = inserted_ids(&last()?.command);
            Found::Value(doc! { "insertedIds": numbered(&inserted) }.into())
        }
        Finish::Bulk => Found::Value(bulk(answers).into()),
        Finish::Value(value) => Found::Value(value.clone()),
        Finish::Nothing => Found::Nothing,
    })
}

fn names(documents: &[Bson]) -> Bson {
    let name = |document: &Bson| document.as_document()?.get("name").cloned();
    Bson::Array(documents.iter().filter_map(name).collect())
}

fn number(reply: &Document, name: &str) -> i64 {
    match reply.get(name) {
        Some(Bson::Int32(number)) => (*number).into(),
        Some(Bson::Int64(number)) => *number,
        Some(Bson::Double(number)) => *number as i64,
        _ => 0,
    }
}

fn inserted_ids(command: &Document) -> Vec<Bson> {
    let documents = command.get_array("documents").into_iter().flatten();
    let ids = documents.filter_map(|document| document.as_document()?.get("_id").cloned());
    ids.collect()
}

fn numbered(values: &[Bson]) -> Document {
    let numbered = values.iter().enumerate();
    numbered
        .map(|(index, value)| (index.to_string(), value.clone()))
        .collect()
}

/// The result of an unacknowledged write says so alone.
fn one(answer: &Answer) -> Found {
    let (command, reply) = (&answer.command, &answer.reply);
    if reply.is_empty() {
        return Found::Value(doc! { "acknowledged": false }.into());
    }
    let mut result = doc! { "acknowledged": true };
    if command.contains_key("insert") {
        let id = inserted_ids(command).into_iter().next();
        result.insert("insertedId", id.unwrap_or(Bson::Null));
    } else if command.contains_key("delete") {
        result.insert("deletedCount", number(reply, "n"));
    } else {
        let upserted = upserted(reply);
        result.insert("matchedCount", number(reply, "n") - upserted.len() as i64);
        result.insert("modifiedCount", number(reply, "nModified"));
        result.insert("upsertedCount", upserted.len() as i64);
        if let Some((_, id)) = upserted.into_iter().next() {
            result.insert("upsertedId", id);
        }
    }
    Found::Value(result.into())
}

/// The index and the id of each upserted document.
fn upserted(reply: &Document) -> Vec<(i64, Bson)> {
    let upserted = reply.get_array("upserted").into_iter().flatten();
    let entry = |entry: &Bson| {
        let entry = entry.as_document()?;
        Some((number(entry, "index"), entry.get("_id")?.clone()))
    };
    upserted.filter_map(entry).collect()
}

/// The result of a bulk of writes, so far.
pub(super) fn bulk(answers: &[Answer]) -> Document {
    let mut counts = [0; 5];
    let (mut inserted, mut upserts) = (Document::new(), Document::new());
    let mut index = 0;
    for Answer { command, reply, .. } in answers {
        let written = number(reply, "n");
        let statements = if command.contains_key("insert") {
            counts[0] += written;
            let ids = inserted_ids(command);
            for (place, id) in ids.iter().enumerate() {
                inserted.insert((index + place as i64).to_string(), id.clone());
            }
            ids.len()
        } else if command.contains_key("delete") {
            counts[1] += written;
            command.get_array("deletes").map_or(0, Vec::len)
        } else {
            let new = upserted(reply);
            counts[2] += written - new.len() as i64;
            counts[3] += number(reply, "nModified");
            counts[4] += new.len() as i64;
            for (place, id) in new {
                upserts.insert((index + place).to_string(), id);
            }
            command.get_array("updates").map_or(0, Vec::len)
        };
        index += statements as i64;
    }
    let [inserted_count, deleted, matched, modified, upserted] = counts;
    doc! {
        "insertedCount": inserted_count,
        "deletedCount": deleted,
        "matchedCount": matched,
        "modifiedCount": modified,
        "upsertedCount": upserted,
        "insertedIds": inserted,
        "upsertedIds": upserts,
    }
}
