//! The aggregation stages that counting and paging need.

use std::cmp::Ordering;

use bson::{Bson, Document, doc};

use crate::action::ErrorReply;
use crate::query::{compare, integer, lookup, matches, number, projected};
use crate::statement::{count_of, missing, size};

type Result<T> = std::result::Result<T, ErrorReply>;

/// The order of two documents by a sort specification.
pub(crate) fn order(left: &Document, right: &Document, sort: &Document) -> Ordering {
    for (path, direction) in sort {
        let (left, right) = (lookup(left, path), lookup(right, path));
        let order = match (left, right) {
            (Some(left), Some(right)) => compare(left, right).unwrap_or(Ordering::Equal),
            (left, right) => left.is_some().cmp(&right.is_some()),
        };
        let is_descending = number(direction).is_some_and(|direction| direction < 0.0);
        if order != Ordering::Equal {
            return if is_descending {
                order.reverse()
            } else {
                order
            };
        }
    }
    Ordering::Equal
}

pub(crate) fn run_stage(mut found: Vec<Document>, stage: &Document) -> Result<Vec<Document>> {
    let (name, argument) = stage.iter().next().ok_or_else(|| missing("pipeline"))?;
    match (name.as_str(), argument) {
        ("$match", Bson::Document(filter)) => {
            let mut kept = Vec::new();
            for document in found {
                if matches(&document, filter)? {
                    kept.push(document);
                }
            }
            Ok(kept)
        }
        ("$sort", Bson::Document(sort)) => {
            found.sort_by(|left, right| order(left, right, sort));
            Ok(found)
        }
        ("$skip", _) => Ok(found
            .into_iter()
            .skip(size(stage, "$skip").unwrap_or(0))
            .collect()),
        ("$limit", _) => Ok(found
            .into_iter()
            .take(size(stage, "$limit").unwrap_or(0))
            .collect()),
        ("$count", Bson::String(_)) if found.is_empty() => Ok(Vec::new()),
        ("$count", Bson::String(field)) => Ok(vec![doc! {field: count_of(found.len())}]),
        ("$project", Bson::Document(projection)) => {
            let project = |document: &Document| projected(document, projection);
            found.iter().map(project).collect()
        }
        ("$addFields" | "$set", Bson::Document(fields)) => with_constants(found, fields),
        ("$group", Bson::Document(group)) => counted(&found, group),
        _ => {
            let message = format!("this store has no such pipeline stage: {name}");
            Err(ErrorReply::new(40324, "Location40324", &message))
        }
    }
}

/// Adds constant fields.
fn with_constants(mut found: Vec<Document>, fields: &Document) -> Result<Vec<Document>> {
    let is_constant = |value: &Bson| match value {
        Bson::String(text) => !text.starts_with('$'),
        value => !matches!(value, Bson::Document(_) | Bson::Array(_)),
    };
    if !fields.values().all(is_constant) {
        let message = "this store only adds constants";
        return Err(ErrorReply::new(238, "NotImplemented", message));
    }
    for document in &mut found {
        document.extend(fields.clone());
    }
    Ok(found)
}

/// `{_id: <constant>, <name>: {$sum: 1}}`, by which drivers count documents.
fn counted(found: &[Document], group: &Document) -> Result<Vec<Document>> {
    let mut reply = Document::new();
    for (name, value) in group {
        let is_count = value
            .as_document()
            .and_then(|sum| sum.get("$sum"))
            .and_then(integer);
        match (name.as_str(), is_count) {
            ("_id", _) if !matches!(value, Bson::Document(_) | Bson::String(_)) => {
                reply.insert("_id", value.clone());
            }
            (_, Some(1)) => {
                reply.insert(name, count_of(found.len()));
            }
            _ => {
                return Err(ErrorReply::new(
                    238,
                    "NotImplemented",
                    "this store only counts groups",
                ));
            }
        }
    }
    Ok(if found.is_empty() {
        Vec::new()
    } else {
        vec![reply]
    })
}
