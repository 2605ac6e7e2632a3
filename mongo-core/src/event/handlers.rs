use std::fmt;
use std::sync::Arc;
#[cfg(feature = "net")]
use std::sync::OnceLock;

use super::{CmapEvent, CommandEvent};
use crate::callback::guard_handler;
#[cfg(feature = "net")]
use crate::event::logs;

/// The variable of the default length of query texts.
#[cfg(feature = "net")]
const QUERY_TEXT: &str = "OTEL_RUST_INSTRUMENTATION_MONGODB_QUERY_TEXT_MAX_LENGTH";

/// An event handler. It is called on the task that causes the event.
pub type EventHandler<E> = Arc<dyn Fn(&E) + Send + Sync>;

/// The handlers of command and pool events. Cheap to clone. Without a handler, no event is
/// constructed.
///
/// A handler is called synchronously, on the task that runs the command or checks out the
/// connection: it must not block. It may use the client, but not wait for it. A panic in a handler
/// is caught and logged (`tracing`, ERROR): that handler misses the event, and nothing else
/// changes.
///
/// ```
/// use mongo_core::event::{CommandEvent, EventHandlers};
///
/// let handlers = EventHandlers::new().on_command(|event| {
///     if let CommandEvent::Failed(event) = event {
///         eprintln!("{} failed after {:?}", event.command_name, event.duration);
///     }
/// });
/// ```
#[derive(Clone, Default)]
pub struct EventHandlers {
    command: Option<EventHandler<CommandEvent>>,
    cmap: Option<EventHandler<CmapEvent>>,
    /// The most characters of a command's text in its span.
    #[cfg(feature = "net")]
    query_text: Option<usize>,
}

impl EventHandlers {
    /// No handlers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler of command events, called after those added before.
    #[must_use]
    pub fn on_command(self, handler: impl Fn(&CommandEvent) + Send + Sync + 'static) -> Self {
        Self {
            command: Some(after(
                self.command,
                guard_handler("command event handler", handler),
            )),
            ..self
        }
    }

    /// Adds the text of commands to their spans (`db.query.text`), up to this number of characters; 0
    /// adds none. It shows parts of the application's documents. Default: the environment variable
    /// `OTEL_RUST_INSTRUMENTATION_MONGODB_QUERY_TEXT_MAX_LENGTH`, else 0.
    ///
    /// Specification: OpenTelemetry.
    #[cfg(feature = "net")]
    #[must_use]
    pub fn with_query_text(self, max_length: usize) -> Self {
        Self {
            query_text: Some(max_length),
            ..self
        }
    }

    /// Adds a handler of pool and connection events, called after those added before.
    #[must_use]
    pub fn on_cmap(self, handler: impl Fn(&CmapEvent) + Send + Sync + 'static) -> Self {
        Self {
            cmap: Some(after(
                self.cmap,
                guard_handler("pool event handler", handler),
            )),
            ..self
        }
    }
}

#[cfg(feature = "net")]
impl EventHandlers {
    /// Whether command events are needed: by a handler, by logs or by spans.
    #[inline]
    pub(crate) fn wants_commands(&self) -> bool {
        self.command.is_some() || logs::wants_commands()
    }

    /// The most characters of a command's text in its span.
    pub(crate) fn query_text_length(&self) -> usize {
        static DEFAULT: OnceLock<usize> = OnceLock::new();
        self.query_text.unwrap_or_else(|| {
            *DEFAULT.get_or_init(|| {
                let length = std::env::var(QUERY_TEXT).ok();
                length
                    .and_then(|text| text.trim().parse().ok())
                    .unwrap_or(0)
            })
        })
    }

    /// Emits a command event. `event` is called only if the event is needed.
    pub(crate) fn emit_command(&self, event: impl FnOnce() -> CommandEvent) {
        if self.command.is_some() || logs::wants_command_events() {
            let event = event();
            logs::command_event(&event);
            if let Some(handler) = &self.command {
                handler(&event);
            }
        }
    }

    /// Whether pool events are needed: by a handler or by logs.
    #[inline]
    pub(crate) fn wants_cmap(&self) -> bool {
        self.cmap.is_some() || logs::wants_cmap_events()
    }

    /// Emits an event of a pool or one of its connections. `event` is called only if the event is
    /// needed. Must be called without a lock.
    #[inline]
    pub(crate) fn emit_cmap(&self, event: impl FnOnce() -> CmapEvent) {
        if self.wants_cmap() {
            let event = event();
            logs::cmap_event(&event);
            if let Some(handler) = &self.cmap {
                handler(&event);
            }
        }
    }
}

fn after<E: 'static>(first: Option<EventHandler<E>>, second: EventHandler<E>) -> EventHandler<E> {
    match first {
        None => second,
        Some(first) => Arc::new(move |event| {
            first(event);
            second(event);
        }),
    }
}

impl fmt::Debug for EventHandlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventHandlers")
            .field("command", &self.command.is_some())
            .field("cmap", &self.cmap.is_some())
            .finish()
    }
}

#[cfg(all(test, feature = "net"))]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::ServerAddress;
    use crate::event::PoolReadyEvent;

    fn ready() -> CmapEvent {
        CmapEvent::PoolReady(PoolReadyEvent {
            address: ServerAddress::tcp("db.example", 27017),
            user: Some("app".into()),
        })
    }

    #[test]
    fn handlers_are_called_in_the_order_of_their_registration() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let teller = |name: &'static str| {
            let told = told.clone();
            move |event: &CmapEvent| {
                let user = event.user().map(ToString::to_string);
                told.lock().expect("no panic").push((name, user));
            }
        };
        let handlers = EventHandlers::new()
            .on_cmap(teller("first"))
            .on_cmap(teller("second"));
        handlers.clone().emit_cmap(ready);
        let app = Some("app".to_owned());
        assert_eq!(
            *told.lock().expect("no panic"),
            [("first", app.clone()), ("second", app)]
        );
    }

    #[test]
    fn an_event_without_a_handler_is_not_constructed() {
        let handlers = EventHandlers::new().on_command(|_| {});
        handlers.emit_cmap(|| panic!("no handler needs it"));
    }
}
