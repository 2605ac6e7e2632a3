//! Application hooks that a generic pool calls.

use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::guard;
use crate::error::{Error, ErrorKind};

/// Runs a future of a generic pool that may call the application's code, such as hooks and
/// customizers. `callback` names that code in logs and errors. For adapters.
///
/// # Errors
/// Those of the future; or [`ErrorKind::Pool`]: the callback panicked, which has been logged. The
/// future is not polled again.
pub fn catch_panics<T, E: From<Error>>(
    callback: &'static str,
    future: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>> {
    Caught { callback, future }
}

pin_project! {
    struct Caught<F> {
        callback: &'static str,
        #[pin]
        future: F,
    }
}

impl<T, E: From<Error>, F: Future<Output = Result<T, E>>> Future for Caught<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        guard(this.callback, || this.future.poll(context)).unwrap_or_else(|panicked| {
            let error = Error::new(ErrorKind::Pool(panicked.to_string()));
            Poll::Ready(Err(error.into()))
        })
    }
}
