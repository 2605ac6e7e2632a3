//! Checks all output as it is produced, and records the secrets in it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

use crate::forms::Needle;

/// Searches texts for needles. Texts are not kept, so that their number is not limited.
pub(crate) struct Capture {
    needles: Vec<Needle>,
    /// The payload, which only commands may contain.
    payload: &'static str,
    /// The user name, which must appear, to prove that output is captured.
    user: &'static str,
    lines: AtomicU64,
    saw_user: AtomicBool,
    saw_payload: AtomicBool,
    found: Mutex<Vec<String>>,
}

impl Capture {
    pub(crate) fn new(needles: Vec<Needle>, payload: &'static str, user: &'static str) -> Self {
        Self {
            needles,
            payload,
            user,
            lines: AtomicU64::new(0),
            saw_user: AtomicBool::new(false),
            saw_payload: AtomicBool::new(false),
            found: Mutex::new(Vec::new()),
        }
    }

    /// Checks a text that contains no command.
    pub(crate) fn see(&self, from: &str, text: &str) {
        if text.contains(self.payload) {
            self.find("the payload", from, text);
        }
        self.see_command(from, text);
    }

    /// Checks a text that may contain a command and its payload.
    pub(crate) fn see_command(&self, from: &str, text: &str) {
        for line in text.lines() {
            self.lines.fetch_add(1, Ordering::Relaxed);
            if line.contains(self.user) {
                self.saw_user.store(true, Ordering::Relaxed);
            }
            if line.contains(self.payload) {
                self.saw_payload.store(true, Ordering::Relaxed);
            }
        }
        for needle in &self.needles {
            if text.contains(&needle.form) {
                self.find(&needle.name, from, text);
            }
        }
    }

    /// Checks both forms of `Debug`.
    pub(crate) fn see_debug(&self, from: &str, shown: &dyn fmt::Debug) {
        self.see(from, &format!("{shown:?}"));
        self.see(from, &format!("{shown:#?}"));
    }

    /// Checks all texts of an error and its causes.
    pub(crate) fn see_error(&self, from: &str, error: &(dyn std::error::Error + 'static)) {
        let mut next = Some(error);
        while let Some(error) = next {
            self.see(from, &error.to_string());
            self.see_debug(from, error_debug(&error));
            next = error.source();
        }
    }

    fn find(&self, what: &str, from: &str, text: &str) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        // Enough to find the source.
        if found.len() < 20 {
            found.push(format!("{what}: {from}: {text}"));
        }
    }

    pub(crate) fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    pub(crate) fn found(&self) -> Vec<String> {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether the permitted texts were seen: the user's name, and a payload.
    pub(crate) fn saw(&self) -> (bool, bool) {
        let seen = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        (seen(&self.saw_user), seen(&self.saw_payload))
    }
}

fn error_debug<'a>(error: &'a &(dyn std::error::Error + 'static)) -> &'a dyn fmt::Debug {
    error
}

/// Passes all spans and messages to a capture, of all targets and levels.
pub(crate) struct Logs(pub(crate) &'static Capture);

impl Logs {
    fn tell(&self, metadata: &Metadata<'_>, record: impl FnOnce(&mut Line)) {
        let mut line = Line(String::new());
        record(&mut line);
        let text = line.0;
        match metadata.target() {
            // By the specification this target shows commands and replies.
            "mongodb::command" => self.0.see_command("mongodb::command", &text),
            target => self.0.see(target, &text),
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0 += &format!("{}={value} ", field.name());
    }
}

impl Subscriber for Logs {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        self.tell(span.metadata(), |line| span.record(line));
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        let mut line = Line(String::new());
        values.record(&mut line);
        self.0.see("a span", &line.0);
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        self.tell(event.metadata(), |line| event.record(line));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
