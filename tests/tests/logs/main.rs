//! Output to `tracing`: messages, levels and fields of the logging specification.
//!
//! This is a process of its own: `tracing` caches the interest in a callsite at its first use on
//! any thread, and a test without a subscriber would disable it.

mod concerns;
mod connections;
mod length;
mod spans;
mod topology;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};
use tracing_core::span::Current;

#[path = "../topology/support.rs"]
#[expect(dead_code, reason = "the tests of the topology need more of it")]
mod support;

/// One message.
#[derive(Clone, Debug, Default)]
struct Line {
    target: String,
    level: Option<Level>,
    fields: BTreeMap<&'static str, String>,
    /// The metadata of a span.
    span: Option<&'static Metadata<'static>>,
}

impl Line {
    fn message(&self) -> &str {
        self.fields.get("message").map_or("", |text| text)
    }

    fn has(&self, fields: &[&str]) {
        for field in fields {
            assert!(self.fields.contains_key(field), "{field} in {self:?}");
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// Records the driver's messages, and each span as a message with its name.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<Line>>>, Arc<Mutex<Entered>>);

/// The entered spans of one thread, the innermost last.
type Entered = Vec<(span::Id, &'static Metadata<'static>)>;

impl Capture {
    fn lines(&self) -> Vec<Line> {
        self.0.lock().expect("no panic").clone()
    }

    /// The lines of one target.
    fn of(&self, target: &str) -> Vec<Line> {
        let mut lines = self.lines();
        lines.retain(|line| line.target == target);
        lines
    }

    /// The line of a span's parent, by the number in its own line.
    fn parent_of(&self, line: &Line) -> Option<Line> {
        let parent: usize = line.fields.get("parent")?.parse().expect("a number");
        Some(self.lines()[parent - 1].clone())
    }

    fn entered(&self) -> MutexGuard<'_, Entered> {
        self.1.lock().expect("no panic")
    }

    fn keep(&self, metadata: &Metadata<'_>, record: impl FnOnce(&mut Line)) -> u64 {
        let mut line = Line {
            target: metadata.target().to_owned(),
            level: Some(*metadata.level()),
            ..Line::default()
        };
        record(&mut line);
        let mut lines = self.0.lock().expect("no panic");
        lines.push(line);
        lines.len() as u64
    }
}

impl Subscriber for Capture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        target.starts_with("mongodb::")
            || target == "mongo_core::operation"
            || target == "application"
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let metadata = span.metadata();
        span::Id::from_u64(self.keep(metadata, |line| {
            span.record(line);
            line.span = Some(metadata);
            line.fields.insert("message", metadata.name().to_owned());
            let current = || self.entered().last().map(|(id, _)| id.clone());
            let parent = match span.is_contextual() {
                true => current(),
                false => span.parent().cloned(),
            };
            if let Some(parent) = parent {
                let parent = parent.into_u64().to_string();
                line.fields.insert("parent", parent);
            }
        }))
    }

    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        let mut lines = self.0.lock().expect("no panic");
        values.record(&mut lines[span.into_u64() as usize - 1]);
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        self.keep(event.metadata(), |line| event.record(line));
    }

    fn enter(&self, id: &span::Id) {
        let line = self.lines().swap_remove(id.into_u64() as usize - 1);
        let metadata = line.span.expect("a span's line");
        self.entered().push((id.clone(), metadata));
    }

    fn exit(&self, id: &span::Id) {
        self.entered().retain(|(entered, _)| entered != id);
    }

    fn current_span(&self) -> Current {
        match self.entered().last() {
            Some((id, metadata)) => Current::new(id.clone(), metadata),
            None => Current::none(),
        }
    }
}
