//! Warnings are `tracing` events too.

use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::*;

/// Keeps the messages of events of level WARN.
#[derive(Clone, Default)]
struct Messages(Arc<Mutex<Vec<String>>>);

impl Subscriber for Messages {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Visit for Messages {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        self.0.lock().expect("the lock").push(format!("{value:?}"));
    }
}

#[test]
fn each_warning_is_an_event() {
    let uri = "mongodb://u:MARKED@h/?nope=MARKED&journal=MARKED";
    // `tracing` caches the interest in a message when it is first sent, on whichever thread.
    // Another test's thread, without a subscriber, must not be the first.
    parse(uri);
    let messages = Messages::default();
    let options = tracing::subscriber::with_default(messages.clone(), || parse(uri));
    let expected: Vec<_> = options
        .warnings()
        .iter()
        .map(|warning| format!("connection string: {warning}"))
        .collect();
    assert_eq!(expected.len(), 2);
    assert_eq!(*messages.0.lock().expect("the lock"), expected);
}
