use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::runtime::{Handle, Id};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

use super::runtime;
use crate::error::{Error, Wait};

/// The one moment by which everything below a call has to end.
///
/// It is made once and handed down, from the wait for a connection to the last read on its socket,
/// so that no retry or second phase starts the clock anew. It keeps the moment it was made, for
/// errors that say how long was waited.
///
/// `Duration` and `Instant` convert into it.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    since: Instant,
    at: Option<Instant>,
}

/// The deadline has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl Deadline {
    /// No bound. For callers that set one of their own.
    pub fn never() -> Self {
        Self {
            since: Instant::now(),
            at: None,
        }
    }

    /// From now on for `bound`; [`never`](Self::never) where that is past what a clock can tell.
    pub fn after(bound: Duration) -> Self {
        let since = Instant::now();
        Self {
            since,
            at: since.checked_add(bound),
        }
    }

    /// At `at`.
    pub fn at(at: Instant) -> Self {
        Self {
            since: Instant::now(),
            at: Some(at),
        }
    }

    /// From now on for `bound`, but never past this deadline. `None` adds no bound.
    #[must_use]
    pub fn within(self, bound: Option<Duration>) -> Self {
        let Some(bound) = bound else { return self };
        let own = Self::after(bound);
        match (self.at, own.at) {
            (Some(outer), Some(inner)) if outer < inner => Self {
                since: own.since,
                at: Some(outer),
            },
            (_, Some(_)) => own,
            (_, None) => self,
        }
    }

    /// How long has been waited.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// What is left, `None` without a bound.
    pub fn remaining(&self) -> Option<Duration> {
        self.at
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// When it comes, `None` if never.
    pub(super) fn moment(&self) -> Option<Instant> {
        self.at
    }

    /// Whether it has come.
    pub fn is_over(&self) -> bool {
        self.at.is_some_and(|at| at <= Instant::now())
    }

    /// Runs `future` until the deadline. Costs no timer where it does not have to wait.
    ///
    /// A bounded wait needs the timer of the Tokio runtime that polls it (`enable_time`). Where there is
    /// none the wait is over at once: the deadline could not be kept.
    ///
    /// # Errors
    /// [`Elapsed`] once the deadline has come.
    pub fn bound<F: Future>(self, future: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
        Bounded {
            future,
            at: self.at,
            timer: None,
            runtime: None,
        }
    }

    /// Why what this bounds is over: a time-out that names the wait, unless there was no timer to
    /// wait with.
    pub(crate) fn timed_out(&self, wait: Wait) -> Error {
        match runtime::current() {
            Err(error) if !self.is_over() => error,
            Ok(_) | Err(_) => Error::timeout(wait, self.elapsed()),
        }
    }
}

/// Ends at a moment. Where there is no timer it does not end: whatever bounds it does then.
pub(crate) async fn sleep_until(at: Instant) {
    let deadline = Deadline::at(at);
    let _ = deadline.bound(pending::<()>()).await;
    if !deadline.is_over() {
        pending().await
    }
}

pin_project! {
    /// A future that is not polled past a deadline. A type of its own, because an `async fn` would
    /// keep its argument twice, and each wait within a wait would double.
    struct Bounded<F> {
        #[pin]
        future: F,
        at: Option<Instant>,
        #[pin]
        timer: Option<Sleep>,
        // The one that the timer is of: another's might not go off while this one runs.
        runtime: Option<Id>,
    }
}

impl<F: Future> Future for Bounded<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Ok(output));
        }
        let Some(at) = *this.at else {
            return Poll::Pending;
        };
        let runtime = runtime::polling();
        let here = runtime.as_ref().map(Handle::id);
        if here.is_none() || *this.runtime != here {
            let timer = runtime.and_then(|runtime| runtime::timer(&runtime, at));
            this.timer.set(timer);
            *this.runtime = here;
        }
        if let Some(timer) = this.timer.as_pin_mut() {
            // Whatever the future has left of the task's budget: it is not to outlast its time.
            ready!(pin!(unconstrained(timer)).poll(context));
        }
        Poll::Ready(Err(Elapsed))
    }
}

impl From<Duration> for Deadline {
    fn from(bound: Duration) -> Self {
        Self::after(bound)
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Self {
        Self::at(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_earlier_bound_holds() {
        let outer = Deadline::after(Duration::from_secs(10));
        let inner = outer.within(Some(Duration::from_secs(60)));
        assert_eq!(inner.remaining(), Some(Duration::from_secs(10)));
        let inner = outer.within(Some(Duration::from_secs(1)));
        assert_eq!(inner.remaining(), Some(Duration::from_secs(1)));
        assert_eq!(outer.within(None).remaining(), outer.remaining());
        let unbounded = Deadline::never().within(Some(Duration::from_secs(1)));
        assert_eq!(unbounded.remaining(), Some(Duration::from_secs(1)));
        assert_eq!(Deadline::after(Duration::MAX).remaining(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_ends_what_uses_up_its_budget() {
        let busy = std::future::poll_fn(|context| {
            // As a socket does that always has something to read.
            while let Poll::Ready(proceed) = tokio::task::coop::poll_proceed(context) {
                proceed.made_progress();
            }
            Poll::<()>::Pending
        });
        let deadline = Deadline::after(Duration::ZERO);
        assert_eq!(pin!(deadline.bound(busy)).await, Err(Elapsed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_ends_what_never_would() {
        let deadline = Deadline::after(Duration::from_secs(3));
        let outcome = deadline.bound(std::future::pending::<()>()).await;
        assert_eq!(outcome, Err(Elapsed));
        assert!(deadline.is_over());
        assert_eq!(deadline.elapsed(), Duration::from_secs(3));
    }
}
