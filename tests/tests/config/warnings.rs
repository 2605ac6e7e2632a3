//! The warnings of connection strings.

use std::sync::{Arc, Mutex};

/// Records logged warnings.
#[derive(Clone, Default)]
pub(crate) struct Warned(pub(crate) Arc<Mutex<Vec<String>>>);

impl tracing::field::Visit for Warned {
    fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.lock().expect("no panic").push(format!("{value:?}"));
    }
}

impl tracing::Subscriber for Warned {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// A connection string ignores what it can't use, and logs that.
#[test]
fn pool_options_in_a_connection_string_are_used_or_logged_as_unused() {
    let defaults = mongo_core::ClientOptions::parse("mongodb://localhost").expect("a URL");
    for option in [
        "maxPoolSize=-1",
        "maxPoolSize=many",
        "maxPoolSize=4294967296",
        "maxPoolSize=",
        "minPoolSize=-1",
        "minPoolSize=1.5",
        "maxConnecting=0",
        "maxConnecting=-2",
        "maxIdleTimeMS=-5",
        "maxIdleTimeMS=soon",
        "maxIdleTimeMS=99999999999999999999",
        "waitQueueTimeoutMS=-5",
        "waitQueueTimeoutMS=5s",
        "maxPoolSise=5",
    ] {
        let (name, _) = option.split_once('=').expect("a value");
        let url = format!("mongodb://localhost/?{option}");
        match mongo_core::ClientOptions::parse(&url) {
            Ok(options) => {
                let warnings = options.warnings();
                assert_eq!(warnings.len(), 1, "{option}: {warnings:?}");
                assert!(warnings[0].to_string().contains(name), "{warnings:?}");
                assert_eq!(options.max_pool_size, defaults.max_pool_size, "{option}");
                assert_eq!(options.min_pool_size, defaults.min_pool_size, "{option}");
                assert_eq!(options.max_connecting, defaults.max_connecting, "{option}");
                assert_eq!(options.max_idle_time, None, "{option}");
                assert_eq!(options.wait_queue_timeout, None, "{option}");
            }
            Err(error) => assert!(error.to_string().contains(name), "{option}: {error}"),
        }
    }
}
