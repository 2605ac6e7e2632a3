//! The trace of a run: its hash, and optionally its lines.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A handle: clones write to the same log.
#[derive(Clone)]
pub(super) struct Log(Arc<Mutex<Inner>>);

struct Inner {
    start: Option<Instant>,
    hash: DefaultHasher,
    entries: u64,
    lines: Option<Vec<String>>,
    violation: Option<String>,
}

impl Log {
    pub(super) fn new(keeps_lines: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            start: None,
            hash: DefaultHasher::new(),
            entries: 0,
            lines: keeps_lines.then(Vec::new),
            violation: None,
        })))
    }

    /// Sets the time origin.
    pub(super) fn start(&self) {
        self.lock().start = Some(Instant::now());
    }

    pub(super) fn write(&self, what: fmt::Arguments<'_>) {
        let mut inner = self.lock();
        let now = inner.now();
        let line = format!("{:>12} {what}", now.as_micros());
        inner.hash.write(line.as_bytes());
        inner.entries += 1;
        let is_whole = inner.violation.is_none();
        if let Some(lines) = inner.lines.as_mut().filter(|_| is_whole) {
            lines.push(line);
        }
    }

    /// Records a violated invariant. Only the first one is kept.
    pub(super) fn violation(&self, what: fmt::Arguments<'_>) {
        let mut inner = self.lock();
        let now = inner.now();
        let text = format!("after {now:?}: {what}");
        inner.violation.get_or_insert(text);
    }

    pub(super) fn require(&self, holds: bool, what: fmt::Arguments<'_>) {
        if !holds {
            self.violation(what);
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.lock().violation.is_some()
    }

    pub(super) fn take_violation(&self) -> Option<String> {
        self.lock().violation.take()
    }

    pub(super) fn take_lines(&self) -> Vec<String> {
        self.lock().lines.take().unwrap_or_default()
    }

    /// The hash of all lines, and their number.
    pub(super) fn digest(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.hash.finish(), inner.entries)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn now(&self) -> Duration {
        self.start.map_or(Duration::ZERO, |start| start.elapsed())
    }
}
