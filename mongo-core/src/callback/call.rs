//! Asynchronous callbacks.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Panicked, guard};

/// The future that `async_trait` returns for an asynchronous callback.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Calls the application's asynchronous code. `callback` names it in logs and errors.
///
/// # Errors
/// It panicked, which has been logged. Its future is not polled again, and has been dropped.
pub(crate) async fn guard_async<'a, T>(
    callback: &'static str,
    begin: impl FnOnce() -> Boxed<'a, T>,
) -> Result<T, Panicked> {
    Call {
        callback,
        future: Some(guard(callback, begin)?),
    }
    .await
}

/// A call under way.
struct Call<'a, T> {
    callback: &'static str,
    /// `None` once it is over.
    future: Option<Boxed<'a, T>>,
}

impl<T> Future for Call<'_, T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let callback = self.callback;
        let Some(future) = &mut self.future else {
            return Poll::Pending;
        };
        let polled = guard(callback, || future.as_mut().poll(context));
        let outcome = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panicked) => Err(panicked),
        };
        self.end();
        Poll::Ready(outcome)
    }
}

impl<T> Call<'_, T> {
    /// Drops the future, whose destructors also belong to the application.
    fn end(&mut self) {
        if let Some(future) = self.future.take() {
            let _ = guard(self.callback, || drop(future));
        }
    }
}

impl<T> Drop for Call<'_, T> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::task::Waker;

    use super::*;

    /// Panics when it is dropped, as a guard of the application may.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_panic_ends_the_call_wherever_it_happens() {
        let call = guard_async("callback", || Box::pin(ready(5)));
        let Poll::Ready(Ok(5)) = poll(std::pin::pin!(call)) else {
            panic!("no panic so far");
        };
        let before = guard_async("callback", || -> Boxed<'_, ()> { panic!("at once") });
        let within = guard_async("callback", || {
            Box::pin(async { panic!("when it is polled") })
        });
        let (mut before, mut within) = (Box::pin(before), Box::pin(within));
        assert!(matches!(poll(before.as_mut()), Poll::Ready(Err(_))));
        assert!(matches!(
            poll::<Result<(), _>>(within.as_mut()),
            Poll::Ready(Err(_))
        ));
    }

    #[test]
    fn a_panicking_destructor_affects_no_other_call() {
        let mut cut = Box::pin(guard_async("callback", || {
            let bomb = Bomb;
            Box::pin(async move {
                let _bomb = bomb;
                pending::<()>().await;
            })
        }));
        assert!(poll(cut.as_mut()).is_pending());
        drop(cut);
    }
}
