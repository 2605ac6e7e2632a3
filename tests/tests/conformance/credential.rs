//! The suite auth, legacy: credentials of connection strings.

use mongo_core::auth::Credential;
use serde_json::Value;

use crate::{Outcome, equal, known_keys, parsed};

/// Runs one case. A missing key asserts nothing. A null asserts absence.
pub(crate) fn run(case: &Value) -> Outcome {
    known_keys("case", case, &["description", "uri", "valid", "credential"])?;
    let Some(found) = parsed(case)? else {
        return Ok(());
    };
    match (&found.credential, case.get("credential")) {
        (_, None) | (None, Some(Value::Null)) => Ok(()),
        (Some(found), Some(expected @ Value::Object(_))) => check(found, expected),
        (found, Some(expected)) => Err(format!("found {found:?}, expected {expected}")),
    }
}

fn check(found: &Credential, expected: &Value) -> Outcome {
    let texts = [
        ("username", found.username().map(|name| &**name)),
        (
            "password",
            found.password().map(|password| password.expose()),
        ),
        ("source", found.source()),
        ("mechanism", found.mechanism().map(|it| it.as_str())),
    ];
    let known = texts.map(|(key, _)| key);
    known_keys(
        "credential",
        expected,
        &[&known[..], &["mechanism_properties"]].concat(),
    )?;
    for (key, value) in texts {
        if let Some(expected) = expected.get(key) {
            equal(key, value, expected.as_str())?;
        }
    }
    match expected.get("mechanism_properties") {
        None => Ok(()),
        Some(Value::Object(properties)) => properties.iter().try_for_each(|(name, value)| {
            equal(name, found.mechanism_property(name), value.as_str())
        }),
        Some(_) => equal(
            "number of mechanism properties",
            found.mechanism_properties().count(),
            0,
        ),
    }
}
