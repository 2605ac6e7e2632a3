//! Matches values with a test's expectations, by the operators of the unified test format.

use bson::{Bson, Document};

use super::json;
use crate::Outcome;

/// What the entities of a test say about a value.
pub(super) trait Lookup {
    /// The id of a session entity.
    fn lsid(&self, session: &str) -> Result<Bson, String>;
    /// The BSON value of an entity.
    fn value(&self, entity: &str) -> Result<Bson, String>;
}

/// Matches a value. A root document, such as a command or a reply, may have more fields than
/// expected.
pub(super) fn matches_root(
    expected: &Bson,
    found: Option<&Bson>,
    at: &str,
    lookup: &dyn Lookup,
) -> Outcome {
    compare(expected, found, at, Level::Root, lookup)
}

/// Matches the documents of an iterable, each of which is a root document.
pub(super) fn matches_roots(
    expected: &Bson,
    found: &[Bson],
    at: &str,
    lookup: &dyn Lookup,
) -> Outcome {
    let found = Bson::Array(found.to_vec());
    compare(expected, Some(&found), at, Level::Roots, lookup)
}

/// Matches a value whose documents have exactly the expected fields.
pub(super) fn matches_exactly(
    expected: &Bson,
    found: Option<&Bson>,
    at: &str,
    lookup: &dyn Lookup,
) -> Outcome {
    compare(expected, found, at, Level::Nested, lookup)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// An array of root documents.
    Roots,
    Root,
    Nested,
}

fn compare(
    expected: &Bson,
    found: Option<&Bson>,
    at: &str,
    level: Level,
    lookup: &dyn Lookup,
) -> Outcome {
    let wrong = || Err(format!("{at}: found {found:?}, expected {expected}"));
    match (expected, found) {
        (Bson::Document(fields), _) if is_operator(fields) => {
            operator(fields, found, at, level, lookup)
        }
        (Bson::Document(expected), Some(Bson::Document(found))) => {
            for (key, value) in expected {
                let at = format!("{at}.{key}");
                compare(value, found.get(key), &at, Level::Nested, lookup)?;
            }
            match found.keys().find(|key| !expected.contains_key(key)) {
                Some(extra) if level != Level::Root => Err(format!("{at}: unexpected {extra}")),
                _ => Ok(()),
            }
        }
        (Bson::Array(expected), Some(Bson::Array(found))) if expected.len() == found.len() => {
            let level = match level {
                Level::Roots => Level::Root,
                Level::Root | Level::Nested => Level::Nested,
            };
            let pairs = expected.iter().zip(found).enumerate();
            for (index, (expected, found)) in pairs {
                let at = format!("{at}[{index}]");
                compare(expected, Some(found), &at, level, lookup)?;
            }
            Ok(())
        }
        (expected, Some(found)) => match (number(expected), number(found)) {
            (Some(expected), Some(found)) if expected == found => Ok(()),
            (None, None) if expected == found => Ok(()),
            _ => wrong(),
        },
        (_, None) => wrong(),
    }
}

fn is_operator(fields: &Document) -> bool {
    fields.len() == 1 && fields.keys().all(|key| key.starts_with("$$"))
}

fn operator(
    fields: &Document,
    found: Option<&Bson>,
    at: &str,
    level: Level,
    lookup: &dyn Lookup,
) -> Outcome {
    let (name, argument) = fields.iter().next().ok_or("no operator")?;
    let malformed = || Err(format!("{at}: {name} can't be {argument}"));
    let is_so = match (name.as_str(), argument) {
        ("$$exists", Bson::Boolean(exists)) => found.is_some() == *exists,
        ("$$unsetOrMatches", _) if found.is_none() => true,
        ("$$unsetOrMatches", expected) => return compare(expected, found, at, level, lookup),
        ("$$type", Bson::String(one)) => has_type(found, one),
        ("$$type", Bson::Array(types)) => types
            .iter()
            .any(|one| one.as_str().is_some_and(|one| has_type(found, one))),
        ("$$lte", limit) => match (number(limit), found.and_then(number)) {
            (Some(limit), Some(found)) => found <= limit,
            (None, _) => return malformed(),
            (_, None) => false,
        },
        ("$$sessionLsid", Bson::String(session)) => {
            return compare(&lookup.lsid(session)?, found, at, Level::Nested, lookup);
        }
        ("$$matchesEntity", Bson::String(entity)) => {
            return compare(&lookup.value(entity)?, found, at, level, lookup);
        }
        ("$$matchAsDocument", expected) => {
            let Some(Bson::String(text)) = found else {
                return Err(format!("{at}: found {found:?}, which is no text"));
            };
            let parsed = serde_json::from_str(text);
            let parsed = parsed.map_err(|error| format!("{at}: {error} in {text}"))?;
            let parsed = Bson::Document(json::document(&parsed)?);
            return compare(expected, Some(&parsed), at, Level::Nested, lookup);
        }
        ("$$matchAsRoot", expected @ Bson::Document(_)) => {
            return compare(expected, found, at, Level::Root, lookup);
        }
        _ => return malformed(),
    };
    match is_so {
        true => Ok(()),
        false => Err(format!("{at}: found {found:?}, expected {name} {argument}")),
    }
}

/// Whether a value has a type by its name or alias of the query operator `$type`.
fn has_type(found: Option<&Bson>, name: &str) -> bool {
    let Some(found) = found else { return false };
    match found {
        Bson::Int32(_) => matches!(name, "int" | "number"),
        Bson::Int64(_) => matches!(name, "long" | "number"),
        Bson::Double(_) => matches!(name, "double" | "number"),
        Bson::Decimal128(_) => matches!(name, "decimal" | "number"),
        Bson::String(_) => name == "string",
        Bson::Document(_) => name == "object",
        Bson::Array(_) => name == "array",
        Bson::Binary(_) => name == "binData",
        Bson::ObjectId(_) => name == "objectId",
        Bson::Boolean(_) => name == "bool",
        Bson::DateTime(_) => name == "date",
        Bson::Timestamp(_) => name == "timestamp",
        Bson::Null => name == "null",
        Bson::RegularExpression(_) => name == "regex",
        _ => false,
    }
}

/// Numbers are compared by value, whatever their type.
fn number(value: &Bson) -> Option<f64> {
    match value {
        Bson::Int32(int) => Some(f64::from(*int)),
        Bson::Int64(int) => Some(*int as f64),
        Bson::Double(double) => Some(*double),
        _ => None,
    }
}
