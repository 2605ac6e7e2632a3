//! Common parts of the store's commands: fields, errors and replies.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use crate::action::ErrorReply;
use crate::query::{integer, number};

type Result<T> = std::result::Result<T, ErrorReply>;

/// A number of any BSON number type. Negative values count as 0.
pub(crate) fn size(command: &Document, name: &str) -> Option<usize> {
    let value = command.get(name)?;
    #[expect(clippy::cast_possible_truncation, reason = "saturates, which is meant")]
    let value = integer(value).or_else(|| number(value).map(|value| value as i64))?;
    Some(usize::try_from(value).unwrap_or(0))
}

/// Whether a field is true.
pub(crate) fn is_set(document: &Document, name: &str) -> bool {
    document.get_bool(name).unwrap_or(false)
}

/// Whether a command is a part of a transaction, or ends one.
pub(crate) fn is_in_transaction(command: &Document) -> bool {
    command.get_bool("autocommit").is_ok_and(|own| !own)
}

/// Whether a command is a retryable write: a write outside of a transaction, with a `txnNumber`.
/// Its name is in lower case.
pub(crate) fn is_retryable_write(name: &str, command: &Document) -> bool {
    matches!(
        name,
        "insert" | "update" | "delete" | "findandmodify" | "bulkwrite"
    ) && command.contains_key("txnNumber")
        && !is_in_transaction(command)
}

/// Whether a field is this string.
pub(crate) fn is_text(document: &Document, name: &str, wanted: &str) -> bool {
    document.get_str(name).is_ok_and(|text| text == wanted)
}

/// How long a filter's `$where: "sleep(<milliseconds>) || true"` takes.
pub(crate) fn sleeping(filter: &Document) -> Option<Duration> {
    let script = filter.get_str("$where").ok()?;
    let millis = script.strip_prefix("sleep(")?.strip_suffix(") || true")?;
    millis.parse().ok().map(Duration::from_millis)
}

/// A command's `maxTimeMS`, if it is positive.
pub(crate) fn max_time(command: &Document) -> Option<Duration> {
    let millis = size(command, "maxTimeMS").filter(|&millis| millis > 0)?;
    u64::try_from(millis).ok().map(Duration::from_millis)
}

pub(crate) fn document<'a>(command: &'a Document, name: &str) -> Result<&'a Document> {
    command.get_document(name).map_err(|_| missing(name))
}

/// The documents of a write command's required array.
pub(crate) fn statements<'a>(command: &'a Document, name: &str) -> Result<Vec<&'a Document>> {
    let array = command.get_array(name).map_err(|_| missing(name))?;
    array
        .iter()
        .map(|one| one.as_document().ok_or_else(|| missing(name)))
        .collect()
}

pub(crate) fn missing(name: &str) -> ErrorReply {
    ErrorReply::new(
        40414,
        "IDLFailedToParse",
        &format!("field '{name}' is missing or of the wrong type"),
    )
}

pub(crate) fn is_ordered(command: &Document) -> bool {
    command.get_bool("ordered").unwrap_or(true)
}

pub(crate) fn write_error(index: usize, error: ErrorReply) -> Bson {
    let mut error = error.into_document();
    error.remove("ok");
    error.remove("codeName");
    let mut entry = doc! {"index": i32::try_from(index).unwrap_or(i32::MAX)};
    entry.extend(error);
    entry.into()
}

pub(crate) fn duplicate_key(namespace: &str, id: &Bson) -> ErrorReply {
    let message = format!(
        "E11000 duplicate key error collection: {namespace} index: _id_ dup key: {{ _id: {id} }}"
    );
    ErrorReply::new(11000, "DuplicateKey", &message)
        .field("keyPattern", doc! {"_id": 1})
        .field("keyValue", doc! {"_id": id.clone()})
}

pub(crate) fn count_of(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

pub(crate) fn with_id(document: &Document) -> Document {
    if document.contains_key("_id") {
        return document.clone();
    }
    let mut complete = doc! {"_id": ObjectId::new()};
    complete.extend(document.clone());
    complete
}

pub(crate) fn write_reply(mut reply: Document, errors: Vec<Bson>) -> Document {
    if !errors.is_empty() {
        reply.insert("writeErrors", errors);
    }
    reply
}
