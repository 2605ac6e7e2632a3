//! Compares log messages and spans with a test's expectations.

use bson::{Bson, Document};
use mongo_core::pools::Backend;

use super::case::Fields;
use super::client::severity;
use super::entities::Entities;
use super::logs::{Line, Span};
use super::matching::{Lookup, matches_root};
use crate::Outcome;

/// Compares the log messages of a client.
pub(super) fn compare<B: Backend>(
    expected: &Document,
    lines: &[Line],
    entities: &Entities<B>,
) -> Outcome {
    let known = ["client", "messages", "ignoreMessages", "ignoreExtraMessages"];
    let expected = Fields::new(expected, "expectLogMessages", &known)?;
    let client = entities.client(expected.text("client")?)?;
    let ignored = expected.list("ignoreMessages")?;
    let is_observed = |line: &&Line| {
        let mut logs = client.logs.iter();
        logs.any(|(component, least)| component == line.component && line.level <= *least)
    };
    let is_ignored = |line: &&Line| {
        let mut ignored = ignored.iter();
        ignored.any(|one| fit(one, line, entities).is_ok())
    };
    let found: Vec<&Line> = lines
        .iter()
        .filter(is_observed)
        .filter(|line| !is_ignored(line))
        .collect();
    let shown = || {
        let shown = found.iter().map(|line| line.data.to_string());
        shown.collect::<Vec<_>>()
    };
    let messages = expected.list("messages")?;
    for (index, message) in messages.iter().enumerate() {
        let line = found
            .get(index)
            .ok_or_else(|| format!("no message {index} {message}: {:#?}", shown()))?;
        fit(message, line, entities)
            .map_err(|text| format!("message {index}: {text}; all: {:#?}", shown()))?;
    }
    match expected.flag("ignoreExtraMessages")? || found.len() == messages.len() {
        true => Ok(()),
        false => Err(format!(
            "{} messages, expected {}: {:#?}",
            found.len(),
            messages.len(),
            shown()
        )),
    }
}

fn fit(expected: &Bson, line: &Line, lookup: &dyn Lookup) -> Outcome {
    let expected = expected.as_document().ok_or("a message is no document")?;
    let known = ["level", "component", "data", "failureIsRedacted"];
    let expected = Fields::new(expected, "message", &known)?;
    let level = severity(expected.get("level").unwrap_or(&Bson::Null))?;
    crate::equal("level", line.level, level)?;
    crate::equal("component", line.component, expected.text("component")?)?;
    let data = Bson::Document(line.data.clone());
    let wanted = expected.get("data").ok_or("a message without data")?;
    matches_root(wanted, Some(&data), "data", lookup)?;
    match expected.get("failureIsRedacted").and_then(Bson::as_bool) {
        None => Ok(()),
        Some(redacted) => {
            let failure = line.data.get_str("failure");
            let failure = failure.map_err(|_| "a message without failure")?;
            crate::equal("redacted", is_redacted(failure), redacted)
        }
    }
}

/// A redacted failure has no message of the server's.
fn is_redacted(failure: &str) -> bool {
    failure.contains("redacted")
}

/// Compares the spans of a client.
pub(super) fn compare_spans(
    expected: &Document,
    _spans: &[Span],
    _lookup: &dyn Lookup,
) -> Outcome {
    Err(format!("the runner compares no spans: {expected}"))
}
