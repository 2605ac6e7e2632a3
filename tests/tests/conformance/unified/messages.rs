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
    let known = [
        "client",
        "messages",
        "ignoreMessages",
        "ignoreExtraMessages",
    ];
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
    failure.contains("REDACTED")
}

/// The span of a check-out, which the specification does not have.
const CHECK_OUT: &str = "mongodb.check_out";

/// Compares the spans of a client.
pub(super) fn compare_spans(expected: &Document, spans: &[Span], lookup: &dyn Lookup) -> Outcome {
    let known = ["client", "ignoreExtraSpans", "spans"];
    let expected = Fields::new(expected, "expectTracingMessages", &known)?;
    let ignores_extra = expected.flag("ignoreExtraSpans")?;
    let tree = Tree {
        spans,
        ignores_extra,
        lookup,
    };
    tree.compare(expected.list("spans")?, None)
}

struct Tree<'a> {
    spans: &'a [Span],
    ignores_extra: bool,
    lookup: &'a dyn Lookup,
}

impl Tree<'_> {
    /// Compares the spans within a span, in order.
    fn compare(&self, expected: &[Bson], parent: Option<u64>) -> Outcome {
        let children = self.children(parent);
        let mut rest = children.iter();
        for expected in expected {
            let expected = expected.as_document().ok_or("a span is no document")?;
            let mut mismatches = Vec::new();
            loop {
                let Some(span) = rest.next() else {
                    return Err(format!("no span {expected}: {mismatches:#?}"));
                };
                match self.fit(expected, span) {
                    Ok(()) => break,
                    Err(text) if self.ignores_extra => mismatches.push(text),
                    Err(text) => return Err(text),
                }
            }
        }
        match rest.next() {
            Some(extra) if !self.ignores_extra => Err(format!("unexpected {extra:?}")),
            _ => Ok(()),
        }
    }

    /// The spans within a span; those of check-outs are left out.
    fn children(&self, parent: Option<u64>) -> Vec<&Span> {
        let mut children = Vec::new();
        for span in self.spans.iter().filter(|span| span.parent == parent) {
            match span.name == CHECK_OUT {
                true => children.extend(self.children(Some(span.id))),
                false => children.push(span),
            }
        }
        children
    }

    fn fit(&self, expected: &Document, span: &Span) -> Outcome {
        let expected = Fields::new(expected, "span", &["name", "attributes", "nested"])?;
        let name = span.data.get_str("otel.name").unwrap_or(span.name);
        crate::equal("the span's name", name, expected.text("name")?)?;
        let data = Bson::Document(span.data.clone());
        let attributes = expected.get("attributes").ok_or("no attributes")?;
        matches_root(attributes, Some(&data), name, self.lookup)?;
        self.compare(expected.list("nested")?, Some(span.id))
    }
}
