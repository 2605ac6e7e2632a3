//! The log messages and spans of a case, captured from `tracing`.
//!
//! `tracing` caches the interest in a callsite for the whole process, so that there is one global
//! subscriber. A case runs on one thread, which keeps its own lines.

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bson::{Bson, Document};
use mongo_core::event::set_max_logged_length;
use tracing::field::{Field, Visit};
use tracing::subscriber::{Interest, set_global_default};
use tracing::{Event, Level, Metadata, Subscriber, span};
use tracing_core::LevelFilter;
use tracing_core::span::Current;

/// A log message.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) component: &'static str,
    pub(super) data: Document,
}

/// A span, with its fields.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) id: u64,
    pub(super) name: &'static str,
    pub(super) parent: Option<u64>,
    pub(super) data: Document,
    metadata: &'static Metadata<'static>,
}

#[derive(Default)]
struct Kept {
    lines: Vec<Line>,
    spans: Vec<Span>,
}

thread_local! {
    static KEPT: RefCell<Option<Arc<Mutex<Kept>>>> = const { RefCell::new(None) };
    /// The entered spans of this thread, the innermost last.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Installs the global subscriber. To be called once, before any case runs.
pub(crate) fn install() {
    // An error means that it is installed.
    let _ = set_global_default(Router);
    // Messages are compared as whole documents.
    set_max_logged_length(10_000);
}

/// Captures what this thread logs until it is dropped.
pub(super) struct Capture(Arc<Mutex<Kept>>);

impl Capture {
    pub(super) fn start() -> Self {
        let kept = Arc::<Mutex<Kept>>::default();
        KEPT.with(|slot| *slot.borrow_mut() = Some(Arc::clone(&kept)));
        Self(kept)
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        self.look(|kept| kept.lines.clone())
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        self.look(|kept| kept.spans.clone())
    }

    fn look<R>(&self, look: impl FnOnce(&mut Kept) -> R) -> R {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        KEPT.with(|slot| *slot.borrow_mut() = None);
    }
}

fn keep(keep: impl FnOnce(&mut Kept)) {
    KEPT.with(|slot| {
        if let Some(kept) = &*slot.borrow() {
            keep(&mut kept.lock().unwrap_or_else(PoisonError::into_inner));
        }
    });
}

/// Gives each thread its own lines and spans.
struct Router;

impl Subscriber for Router {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match metadata.target().starts_with("mongodb::") {
            true => Interest::sometimes(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("mongodb::") && KEPT.with(|slot| slot.borrow().is_some())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let metadata = attributes.metadata();
        let parent = match attributes.is_contextual() {
            true => ENTERED.with(|entered| entered.borrow().last().copied()),
            false => attributes.parent().map(span::Id::into_u64),
        };
        keep(|kept| {
            kept.spans.push(Span {
                id,
                name: metadata.name(),
                parent,
                data: fields.0,
                metadata,
            });
        });
        span::Id::from_u64(id)
    }

    fn record(&self, id: &span::Id, values: &span::Record<'_>) {
        let id = id.into_u64();
        keep(|kept| {
            if let Some(span) = kept.spans.iter_mut().find(|span| span.id == id) {
                let mut fields = Fields(std::mem::take(&mut span.data));
                values.record(&mut fields);
                span.data = fields.0;
            }
        });
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let component = match event.metadata().target() {
            "mongodb::topology" => "topology",
            "mongodb::server_selection" => "serverSelection",
            "mongodb::connection" => "connection",
            "mongodb::command" => "command",
            _ => return,
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        keep(|kept| {
            kept.lines.push(Line {
                level: *event.metadata().level(),
                component,
                data: fields.0,
            });
        });
    }

    fn enter(&self, id: &span::Id) {
        ENTERED.with(|entered| entered.borrow_mut().push(id.into_u64()));
    }

    fn exit(&self, id: &span::Id) {
        let id = id.into_u64();
        ENTERED.with(|entered| {
            let mut entered = entered.borrow_mut();
            if let Some(place) = entered.iter().rposition(|one| *one == id) {
                entered.remove(place);
            }
        });
    }

    fn current_span(&self) -> Current {
        let Some(innermost) = ENTERED.with(|entered| entered.borrow().last().copied()) else {
            return Current::none();
        };
        let mut metadata = None;
        keep(|kept| {
            let span = kept.spans.iter().find(|span| span.id == innermost);
            metadata = span.map(|span| span.metadata);
        });
        metadata.map_or_else(Current::none, |metadata| {
            Current::new(span::Id::from_u64(innermost), metadata)
        })
    }
}

/// The fields of a message or a span.
#[derive(Default)]
struct Fields(Document);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let value = i64::try_from(value).map_or(Bson::Double(value as f64), Bson::Int64);
        self.0.insert(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name(), value);
    }
}
