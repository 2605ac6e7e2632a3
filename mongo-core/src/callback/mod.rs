//! Calls into the application's code. A panic in a callback is caught and logged, and has no other
//! effect.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::text::printable;

#[cfg(feature = "net")]
mod call;
#[cfg(feature = "net")]
mod hook;

#[cfg(feature = "net")]
pub(crate) use call::guard_async;
#[cfg(feature = "net")]
pub use hook::catch_panics;

/// The longest panic message that is logged and shown in an error, in bytes.
const MAX_MESSAGE: usize = 256;

/// A callback of the application panicked.
#[derive(Clone, Debug)]
pub(crate) struct Panicked {
    callback: &'static str,
    /// Empty if the payload is not a string.
    message: String,
}

/// The name of a task's waker in logs: it is code of the application.
#[cfg(feature = "net")]
pub(crate) const WAKER: &str = "waker";

/// Calls the application's code. `callback` names it in logs and errors.
///
/// The call must be made outside of all locks: the callback may use the client.
///
/// # Errors
/// It panicked, which has been logged.
pub(crate) fn guard<R>(callback: &'static str, call: impl FnOnce() -> R) -> Result<R, Panicked> {
    // State that the callback leaves behind belongs to the application. It borrows none of ours
    // mutably, except what the caller discards after an error.
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| Panicked::log(callback, payload))
}

/// Wraps an event handler. If it panics, this handler loses the event.
pub(crate) fn guard_handler<E>(
    callback: &'static str,
    handler: impl Fn(&E) + Send + Sync + 'static,
) -> std::sync::Arc<dyn Fn(&E) + Send + Sync> {
    std::sync::Arc::new(move |event| {
        let _ = guard(callback, || handler(event));
    })
}

impl Panicked {
    #[cold]
    fn log(callback: &'static str, payload: Box<dyn Any + Send>) -> Self {
        let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref()) {
            (Some(message), _) => message,
            (None, Some::<&String>(message)) => message.as_str(),
            (None, None) => "",
        };
        let panicked = Self {
            callback,
            message: printable(message, MAX_MESSAGE),
        };
        discard(payload);
        // A subscriber may panic, too.
        let log = || tracing::error!(callback, message = panicked.message, "{panicked}");
        if let Err(payload) = catch_unwind(AssertUnwindSafe(log)) {
            discard(payload);
        }
        panicked
    }

    /// Converts it to an I/O error.
    #[cfg(feature = "net")]
    pub(crate) fn into_io(self) -> std::io::Error {
        std::io::Error::other(self)
    }
}

/// Drops the payload of a panic, whose destructor may panic too.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(another);
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the application's {} panicked", self.callback)?;
        match &*self.message {
            "" => Ok(()),
            message => write!(f, ": {message}"),
        }
    }
}

impl std::error::Error for Panicked {}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    #[test]
    fn a_value_passes_through() {
        assert_eq!(guard("callback", || 5).expect("no panic"), 5);
    }

    #[test]
    fn the_message_is_bounded_and_printable() {
        let text = |call: fn()| {
            let panicked = guard("callback", call).expect_err("a panic");
            panicked.to_string()
        };
        assert_eq!(
            text(|| panic!("on\n{}", "purpose")),
            "the application's callback panicked: on\\npurpose"
        );
        assert_eq!(text(|| panic_any(5)), "the application's callback panicked");
        let long = text(|| panic!("{}", "\u{e4}".repeat(10_000)));
        assert!(long.len() < MAX_MESSAGE + 64, "{}", long.len());
    }

    #[test]
    fn a_payload_whose_destructor_panics_is_discarded() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic_any(Bomb);
            }
        }
        guard("callback", || panic_any(Bomb)).expect_err("a panic");
    }

    #[test]
    fn a_handler_that_panics_loses_one_event() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        static SEEN: AtomicUsize = AtomicUsize::new(0);
        let handler = guard_handler("event handler", |event: &u32| {
            assert_ne!(*event, 1, "on purpose");
            SEEN.fetch_add(1, Ordering::SeqCst);
        });
        [0, 1, 2].iter().for_each(|event| handler(event));
        assert_eq!(SEEN.load(Ordering::SeqCst), 2);
    }
}
