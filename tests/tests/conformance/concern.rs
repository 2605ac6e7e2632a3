//! The suites of read-write-concern: parsing connection strings, and serializing to documents.

use mongo_core::concern::{Acknowledgment, ReadConcern, WriteConcern};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Outcome, equal, known_keys, parsed};

/// Runs one case of connection-string.
pub(crate) fn run_connection_string(case: &Value) -> Outcome {
    let known = [
        "description",
        "uri",
        "valid",
        "warning",
        "readConcern",
        "writeConcern",
    ];
    known_keys("case", case, &known)?;
    let Some(found) = parsed(case)? else {
        return Ok(());
    };
    if let Some(warning) = case["warning"].as_bool() {
        equal("warning", !found.warnings().is_empty(), warning)?;
    }
    if let Some(expected) = case["readConcern"].as_object() {
        let level = found.read_concern.level.as_deref();
        known_keys("readConcern", &case["readConcern"], &["level"])?;
        equal(
            "level",
            level,
            expected.get("level").and_then(Value::as_str),
        )?;
    }
    if let Some(expected) = case["writeConcern"].as_object() {
        let concern = &found.write_concern;
        let w = match &concern.w {
            Some(Acknowledgment::Nodes(number)) => json!(number),
            Some(Acknowledgment::Tag(tag)) => json!(tag),
            _ => Value::Null,
        };
        let journal = json!(concern.journal);
        let timeout = json!(
            concern
                .w_timeout
                .map(|timeout| u64::try_from(timeout.as_millis()).ok())
        );
        known_keys(
            "writeConcern",
            &case["writeConcern"],
            &["w", "journal", "wtimeoutMS"],
        )?;
        for (key, value) in [("w", w), ("journal", journal), ("wtimeoutMS", timeout)] {
            equal(key, &value, expected.get(key).unwrap_or(&Value::Null))?;
        }
    }
    Ok(())
}

/// Runs one case of document.
pub(crate) fn run_document(case: &Value) -> Outcome {
    let known = [
        "description",
        "valid",
        "readConcern",
        "readConcernDocument",
        "writeConcern",
        "writeConcernDocument",
        "isServerDefault",
        "isAcknowledged",
    ];
    known_keys("case", case, &known)?;
    let valid = case["valid"].as_bool().ok_or("valid is no truth value")?;
    match (case.get("readConcern"), case.get("writeConcern")) {
        (Some(given), None) => {
            let concern =
                ReadConcern::deserialize(given).map_err(|error| format!("refused: {error}"))?;
            equal("valid", true, valid)?;
            check_flag(case, "isServerDefault", concern.is_default())?;
            check_document(case, "readConcernDocument", &concern.to_document())
        }
        (None, Some(given)) => {
            let concern = match WriteConcern::deserialize(given) {
                Ok(concern) => concern,
                Err(error) => return equal(&format!("valid ({error})"), false, valid),
            };
            equal("valid", concern.validate().is_ok(), valid)?;
            check_flag(case, "isServerDefault", concern.is_default())?;
            check_flag(case, "isAcknowledged", concern.is_acknowledged())?;
            check_document(case, "writeConcernDocument", &concern.to_document())
        }
        _ => Err("there is neither a read nor a write concern, or both".to_owned()),
    }
}

fn check_flag(case: &Value, key: &str, found: bool) -> Outcome {
    match case[key].as_bool() {
        Some(expected) => equal(key, found, expected),
        None => Ok(()),
    }
}

fn check_document(case: &Value, key: &str, found: &bson::Document) -> Outcome {
    let found = serde_json::to_value(found).map_err(|error| error.to_string())?;
    match &case[key] {
        Value::Null => Ok(()),
        expected => equal(key, &found, expected),
    }
}
