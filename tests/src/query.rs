//! Filters and updates: the small part of the query language that tests need.

use std::cmp::Ordering;

use bson::{Bson, Document};

use crate::action::ErrorReply;
use crate::statement::sleeping;

type Result<T> = std::result::Result<T, ErrorReply>;

fn bad_value(message: &str) -> ErrorReply {
    ErrorReply::new(2, "BadValue", message)
}

/// The value at a dotted path through documents.
pub(crate) fn lookup<'a>(document: &'a Document, path: &str) -> Option<&'a Bson> {
    match path.split_once('.') {
        None => document.get(path),
        Some((first, rest)) => match document.get(first)? {
            Bson::Document(inner) => lookup(inner, rest),
            _ => None,
        },
    }
}

/// The order of two values, if defined: between numbers of any type, and between values of the same
/// simple type.
pub(crate) fn compare(left: &Bson, right: &Bson) -> Option<Ordering> {
    match (left, right) {
        (Bson::String(left), Bson::String(right)) => Some(left.cmp(right)),
        (Bson::Boolean(left), Bson::Boolean(right)) => Some(left.cmp(right)),
        (Bson::DateTime(left), Bson::DateTime(right)) => Some(left.cmp(right)),
        (Bson::ObjectId(left), Bson::ObjectId(right)) => Some(left.cmp(right)),
        _ => match (integer(left), integer(right)) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => number(left)?.partial_cmp(&number(right)?),
        },
    }
}

/// Equality that ignores the type of numbers.
pub(crate) fn equal(left: &Bson, right: &Bson) -> bool {
    left == right || compare(left, right) == Some(Ordering::Equal)
}

pub(crate) fn integer(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(value) => Some(i64::from(*value)),
        Bson::Int64(value) => Some(*value),
        _ => None,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "comparing with a double does the same"
)]
pub(crate) fn number(value: &Bson) -> Option<f64> {
    match value {
        Bson::Double(value) => Some(*value),
        _ => integer(value).map(|value| value as f64),
    }
}

/// Whether a document matches a filter.
pub(crate) fn matches(document: &Document, filter: &Document) -> Result<bool> {
    for (key, condition) in filter {
        let holds = match key.as_str() {
            "$and" => all(document, condition, true)?,
            "$or" => !all(document, condition, false)?,
            "$comment" => true,
            "$where" if sleeping(filter).is_some() => true,
            _ if key.starts_with('$') => {
                return Err(bad_value(&format!("unknown top level operator: {key}")));
            }
            _ => value_matches(lookup(document, key), condition)?,
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether all clauses match (`wanted`), or none does.
fn all(document: &Document, clauses: &Bson, wanted: bool) -> Result<bool> {
    let Bson::Array(clauses) = clauses else {
        return Err(bad_value("$and/$or must be an array"));
    };
    for clause in clauses {
        let clause = clause
            .as_document()
            .ok_or_else(|| bad_value("$and/$or takes documents"))?;
        if matches(document, clause)? != wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

fn value_matches(value: Option<&Bson>, condition: &Bson) -> Result<bool> {
    match condition {
        Bson::Document(operators)
            if operators.keys().next().is_some_and(|k| k.starts_with('$')) =>
        {
            for (operator, operand) in operators {
                if !operator_matches(value, operator, operand)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => Ok(is_equal(value, condition)),
    }
}

/// Equality in a filter: an array equals each of its elements, a missing value equals null.
fn is_equal(value: Option<&Bson>, wanted: &Bson) -> bool {
    let value = value.unwrap_or(&Bson::Null);
    let has = |elements: &Vec<Bson>| elements.iter().any(|element| equal(element, wanted));
    equal(value, wanted) || value.as_array().is_some_and(has)
}

fn operator_matches(value: Option<&Bson>, operator: &str, operand: &Bson) -> Result<bool> {
    let order = || value.and_then(|value| compare(value, operand));
    let one_of = || {
        let list = operand
            .as_array()
            .ok_or_else(|| bad_value("$in needs an array"))?;
        Ok(list.iter().any(|wanted| is_equal(value, wanted)))
    };
    match operator {
        "$eq" => Ok(is_equal(value, operand)),
        "$ne" => Ok(!is_equal(value, operand)),
        "$gt" => Ok(order() == Some(Ordering::Greater)),
        "$gte" => Ok(order().is_some_and(Ordering::is_ge)),
        "$lt" => Ok(order() == Some(Ordering::Less)),
        "$lte" => Ok(order().is_some_and(Ordering::is_le)),
        "$in" => one_of(),
        "$nin" => one_of().map(|holds| !holds),
        "$exists" => Ok(value.is_some() == !matches!(operand, Bson::Boolean(false))),
        _ => Err(bad_value(&format!("unknown operator: {operator}"))),
    }
}

/// The document after a projection that includes or excludes fields by their names.
pub(crate) fn projected(document: &Document, projection: &Document) -> Result<Document> {
    let wants = |value: &Bson| match value {
        Bson::Boolean(wants) => Ok(*wants),
        value => number(value)
            .map(|value| value != 0.0)
            .ok_or_else(|| bad_value("this store only includes or excludes fields")),
    };
    let mut includes = projection.is_empty().then_some(false);
    for (name, value) in projection {
        if name.contains('.') {
            return Err(bad_value("this store only projects top level fields"));
        }
        let wanted = wants(value)?;
        if name == "_id" {
            continue;
        }
        if includes.is_some_and(|includes| includes != wanted) {
            return Err(bad_value("a projection includes or excludes fields"));
        }
        includes = Some(wanted);
    }
    let has_id = projection.get("_id").map(wants).transpose()?;
    // Of `{_id: 1}` alone, nothing else is left.
    let includes = includes.unwrap_or(has_id == Some(true));
    let is_kept = |name: &String| match name.as_str() {
        "_id" => has_id.unwrap_or(true),
        name => projection.contains_key(name) == includes,
    };
    let kept = document.iter().filter(|(name, _)| is_kept(name));
    Ok(kept
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect())
}

/// The document after an update: a replacement, or `$set`, `$unset`, `$inc`, `$push` and (for an
/// upsert) `$setOnInsert`.
pub(crate) fn updated(document: &Document, update: &Document, inserts: bool) -> Result<Document> {
    if !update.keys().any(|key| key.starts_with('$')) {
        let mut replacement = update.clone();
        if let (Some(id), None) = (document.get("_id"), update.get("_id")) {
            replacement = Document::from_iter([("_id".to_owned(), id.clone())]);
            replacement.extend(update.clone());
        }
        return Ok(replacement);
    }
    let mut result = document.clone();
    for (operator, fields) in update {
        let fields = fields
            .as_document()
            .ok_or_else(|| bad_value("an operator takes a document"))?;
        for (path, operand) in fields {
            apply(&mut result, operator, path, operand, inserts)?;
        }
    }
    Ok(result)
}

fn apply(
    document: &mut Document,
    operator: &str,
    path: &str,
    operand: &Bson,
    inserts: bool,
) -> Result<()> {
    let new = match operator {
        "$set" => operand.clone(),
        "$setOnInsert" if inserts => operand.clone(),
        "$setOnInsert" => return Ok(()),
        "$unset" => {
            document.remove(path);
            return Ok(());
        }
        "$inc" => sum(lookup(document, path), operand)?,
        "$push" => {
            let mut array = match lookup(document, path) {
                None => Vec::new(),
                Some(Bson::Array(array)) => array.clone(),
                Some(_) => return Err(bad_value("$push needs an array")),
            };
            array.push(operand.clone());
            array.into()
        }
        _ => {
            return Err(ErrorReply::new(
                9,
                "FailedToParse",
                &format!("Unknown modifier: {operator}"),
            ));
        }
    };
    set(document, path, new);
    Ok(())
}

fn sum(value: Option<&Bson>, step: &Bson) -> Result<Bson> {
    let value = value.unwrap_or(&Bson::Int32(0));
    match (value, step) {
        (Bson::Int32(value), Bson::Int32(step)) => Ok(match value.checked_add(*step) {
            Some(sum) => sum.into(),
            None => (i64::from(*value) + i64::from(*step)).into(),
        }),
        _ => match (integer(value), integer(step)) {
            (Some(value), Some(step)) => Ok(value.wrapping_add(step).into()),
            _ => match (number(value), number(step)) {
                (Some(value), Some(step)) => Ok((value + step).into()),
                _ => Err(ErrorReply::new(14, "TypeMismatch", "$inc needs numbers")),
            },
        },
    }
}

/// Sets a value at a dotted path, and creates missing documents on the path.
fn set(document: &mut Document, path: &str, value: Bson) {
    let Some((first, rest)) = path.split_once('.') else {
        document.insert(path, value);
        return;
    };
    if document.get_document(first).is_err() {
        document.insert(first, Document::new());
    }
    if let Ok(inner) = document.get_document_mut(first) {
        set(inner, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn filters() {
        let document = doc! {"_id": 1, "a": 5, "b": {"c": "x"}, "list": [1, 2]};
        let cases = [
            (doc! {}, true),
            (doc! {"_id": 1_i64}, true),
            (doc! {"a": 5.0}, true),
            (doc! {"a": 6}, false),
            (doc! {"b.c": "x"}, true),
            (doc! {"list": 2}, true),
            (doc! {"missing": null}, true),
            (doc! {"a": {"$gt": 4, "$lte": 5}}, true),
            (doc! {"a": {"$lt": 5}}, false),
            (doc! {"a": {"$gt": "4"}}, false),
            (doc! {"a": {"$in": [1, 5]}}, true),
            (doc! {"a": {"$nin": [1, 5]}}, false),
            (doc! {"a": {"$exists": false}}, false),
            (doc! {"$or": [{"a": 1}, {"a": 5}]}, true),
            (doc! {"$or": [{"a": 1}, {"a": 2}]}, false),
            (doc! {"$and": [{"a": 5}, {"_id": 2}]}, false),
        ];
        for (filter, expected) in cases {
            assert_eq!(matches(&document, &filter).unwrap(), expected, "{filter}");
        }
        assert!(matches(&document, &doc! {"a": {"$regex": "x"}}).is_err());
        assert!(matches(&document, &doc! {"$where": "x"}).is_err());
        assert!(matches(&document, &doc! {"$where": "sleep(5) || true"}).unwrap());
    }

    #[test]
    fn updates() {
        let document = doc! {"_id": 1, "n": 1};
        let cases = [
            (doc! {"$inc": {"n": 2}}, doc! {"_id": 1, "n": 3}),
            (
                doc! {"$inc": {"n": i32::MAX}},
                doc! {"_id": 1, "n": 1_i64 << 31},
            ),
            (
                doc! {"$set": {"a.b": 1}},
                doc! {"_id": 1, "n": 1, "a": {"b": 1}},
            ),
            (doc! {"$unset": {"n": ""}}, doc! {"_id": 1}),
            (doc! {"$push": {"l": 1}}, doc! {"_id": 1, "n": 1, "l": [1]}),
            (doc! {"$setOnInsert": {"l": 1}}, doc! {"_id": 1, "n": 1}),
            (doc! {"x": 1}, doc! {"_id": 1, "x": 1}),
        ];
        for (update, expected) in cases {
            assert_eq!(
                updated(&document, &update, false).unwrap(),
                expected,
                "{update}"
            );
        }
        assert!(updated(&document, &doc! {"$bit": {"n": 1}}, false).is_err());
    }
}
