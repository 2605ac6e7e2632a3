//! Matches values with a test's expectations, by the operators of the unified test format.

use bson::{Bson, Document};

use crate::Outcome;

/// Documents may have more fields than expected only if they are root documents, such as a command
/// or a reply: an event, or a field of it.
pub(super) fn matches(expected: &Bson, found: Option<&Bson>, at: &str) -> Outcome {
    compare(expected, found, at, 2)
}

fn compare(expected: &Bson, found: Option<&Bson>, at: &str, root: usize) -> Outcome {
    let wrong = || Err(format!("{at}: found {found:?}, expected {expected}"));
    match (expected, found) {
        (Bson::Document(fields), _) if is_operator(fields) => operator(fields, found, at, root),
        (Bson::Document(expected), Some(Bson::Document(found))) => {
            for (key, value) in expected {
                let at = format!("{at}.{key}");
                compare(value, found.get(key), &at, root.saturating_sub(1))?;
            }
            match found.keys().find(|key| !expected.contains_key(key)) {
                Some(extra) if root == 0 => Err(format!("{at}: unexpected {extra}")),
                _ => Ok(()),
            }
        }
        (Bson::Array(expected), Some(Bson::Array(found))) if expected.len() == found.len() => {
            let pairs = expected.iter().zip(found).enumerate();
            for (index, (expected, found)) in pairs {
                compare(expected, Some(found), &format!("{at}[{index}]"), 0)?;
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

fn operator(fields: &Document, found: Option<&Bson>, at: &str, root: usize) -> Outcome {
    let (name, argument) = fields.iter().next().ok_or("no operator")?;
    let is_so = match (name.as_str(), argument) {
        ("$$exists", Bson::Boolean(exists)) => found.is_some() == *exists,
        ("$$unsetOrMatches", _) if found.is_none() => true,
        ("$$unsetOrMatches", expected) => return compare(expected, found, at, root),
        ("$$type", Bson::Array(types)) => {
            let found = found.map(type_name);
            types.iter().any(|one| one.as_str() == found)
        }
        (name, _) => return Err(format!("{at}: the runner does not know {name}")),
    };
    match is_so {
        true => Ok(()),
        false => Err(format!("{at}: found {found:?}, expected {name} {argument}")),
    }
}

fn type_name(value: &Bson) -> &'static str {
    match value {
        Bson::Int32(_) => "int",
        Bson::Int64(_) => "long",
        Bson::Double(_) => "double",
        Bson::String(_) => "string",
        _ => "another",
    }
}

fn number(value: &Bson) -> Option<f64> {
    match value {
        Bson::Int32(int) => Some(f64::from(*int)),
        Bson::Int64(int) => Some(*int as f64),
        Bson::Double(double) => Some(*double),
        _ => None,
    }
}
