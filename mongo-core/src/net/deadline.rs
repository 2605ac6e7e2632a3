use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::runtime::{Handle, Id};
use tokio::task::{unconstrained, yield_now};
use tokio::time::{Instant, Sleep};

use super::runtime;
use crate::error::{Error, Wait};

/// A timer that fires late by this much indicates that the process, or its runtime, was suspended.
const STANDSTILL: Duration = Duration::from_millis(10);

/// The maximum grace time of a future after a suspension.
const MAX_GRACE: Duration = Duration::from_secs(1);

/// The time by which all parts of a call must complete.
///
/// It is created once and passed down, from the wait for a connection to the last read on its
/// socket, so that no retry or later phase restarts the clock. It also holds its time of creation,
/// for errors that report the elapsed time.
///
/// `Duration` and `Instant` convert into it.
///
/// # Suspended processes
/// An expired timer does not prove that the server is silent: the process may have been suspended
/// or starved of CPU time, and the reply may be waiting in the socket. Therefore a future that is
/// [bound](Self::bound) by a deadline is polled once more before it fails, after the reactor's next
/// turn. If the timer fired at least 10 ms late, the future gets as much additional time as the
/// timer was late, at most 1 s, so that a handshake of several round trips can also complete.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    since: Instant,
    at: Option<Instant>,
}

/// The deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl Deadline {
    /// A deadline that never passes, for callers that set their own.
    pub fn never() -> Self {
        Self {
            since: Instant::now(),
            at: None,
        }
    }

    /// A deadline `bound` from now; [`never`](Self::never) if that overflows the clock.
    pub fn after(bound: Duration) -> Self {
        let since = Instant::now();
        Self {
            since,
            at: since.checked_add(bound),
        }
    }

    /// A deadline at `at`.
    pub fn at(at: Instant) -> Self {
        Self {
            since: Instant::now(),
            at: Some(at),
        }
    }

    /// A deadline `bound` from now, but no later than this one. `None` adds no bound.
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

    /// Like [`within`](Self::within), for one of several rounds of a wait:
    /// [`elapsed`](Self::elapsed) counts all rounds.
    #[must_use]
    pub(crate) fn round(self, bound: Option<Duration>) -> Self {
        Self {
            since: self.since,
            ..self.within(bound)
        }
    }

    /// The earlier of this deadline and a time, which may have passed already.
    #[must_use]
    pub(crate) fn no_later_than(self, moment: Instant) -> Self {
        Self {
            since: Instant::now(),
            at: Some(self.at.map_or(moment, |at| at.min(moment))),
        }
    }

    /// This deadline moved later by `by`, but no later than `outer`.
    #[must_use]
    pub(super) fn later(self, by: Duration, outer: Deadline) -> Self {
        let at = self.at.and_then(|at| at.checked_add(by));
        Self {
            since: self.since,
            at: match (at, outer.at) {
                (Some(own), Some(outer)) => Some(own.min(outer)),
                (own, outer) => own.or(outer),
            },
        }
    }

    /// The time since the deadline was created.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// The remaining time; `None` if the deadline never passes.
    pub fn remaining(&self) -> Option<Duration> {
        self.at
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// The time of the deadline; `None` if it never passes.
    pub(crate) fn moment(&self) -> Option<Instant> {
        self.at
    }

    /// Whether the deadline has passed.
    pub fn is_over(&self) -> bool {
        self.at.is_some_and(|at| at <= Instant::now())
    }

    /// Runs `future` until the deadline, and then polls it once more (see
    /// [above](Self#suspended-processes)). Sets no timer if the future does not have to wait.
    ///
    /// A bounded wait needs the timer of the Tokio runtime that polls it (`enable_time`). Without a
    /// timer the wait ends at once, because the deadline can't be enforced.
    ///
    /// # Errors
    /// [`Elapsed`] once the deadline has passed.
    pub fn bound<F: Future>(self, future: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
        Bounded {
            future,
            expiry: self.at.map(Expiry::new),
            timer: None,
            runtime: None,
        }
    }

    /// The error of a wait that this deadline ended: a time-out that names the wait, unless there
    /// was no timer.
    pub(crate) fn timed_out(&self, wait: Wait) -> Error {
        match runtime::current() {
            Err(error) if !self.is_over() => error,
            Ok(_) | Err(_) => Error::timeout(wait, self.elapsed()),
        }
    }
}

/// Completes at a time. Without a timer it never completes; the deadline around it ends it.
pub(crate) async fn sleep_until(at: Instant) {
    let deadline = Deadline::at(at);
    let _ = deadline.bound(pending::<()>()).await;
    if !deadline.is_over() {
        pending().await
    }
}

/// The expiry of a future's time. When the timer fires, the future is polled once more before its
/// time is over.
///
/// In its last turn, the reactor may have processed timers but no I/O (a signal, such as `SIGCONT`,
/// interrupts the wait for I/O), or the I/O may have arrived between the reactor's turn and this
/// poll.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    at: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not polled yet.
    New,
    /// The timer runs.
    Waiting,
    /// The timer has fired, and the next poll of the future is its last.
    Last,
}

impl Expiry {
    #[inline]
    pub(super) fn new(at: Instant) -> Self {
        Self {
            at,
            stage: Stage::New,
        }
    }

    /// Ready once the time is over. Must be polled after the future. `timer` polls a timer that
    /// fires at a given time.
    #[inline]
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut timer: impl FnMut(Instant, &mut Context<'_>) -> Poll<()>,
    ) -> Poll<Elapsed> {
        if timer(self.at, context).is_pending() {
            if self.stage == Stage::New {
                self.stage = Stage::Waiting;
            }
            return Poll::Pending;
        }
        self.went_off(context, timer)
    }

    /// Handles the timer's firing.
    fn went_off(
        &mut self,
        context: &mut Context<'_>,
        mut timer: impl FnMut(Instant, &mut Context<'_>) -> Poll<()>,
    ) -> Poll<Elapsed> {
        let has_waited = match self.stage {
            Stage::Last => return Poll::Ready(Elapsed),
            Stage::Waiting => true,
            // The time was over from the start, which says nothing about the process.
            Stage::New => false,
        };
        self.stage = Stage::Last;
        let now = Instant::now();
        let late = now.saturating_duration_since(self.at);
        if has_waited && late >= STANDSTILL {
            // The timer can't fire before the reactor has processed pending I/O.
            self.at = now + late.min(MAX_GRACE);
            return timer(self.at, context).map(|()| Elapsed);
        }
        // Wakes the task after the reactor's next turn. With a paused clock, no time passes.
        let _ = pin!(yield_now()).poll(context);
        Poll::Pending
    }
}

pin_project! {
    /// A future that is not polled after a deadline. It is a separate type, because an `async fn`
    /// would store its argument twice, and each nested wait would double the size.
    struct Bounded<F> {
        #[pin]
        future: F,
        expiry: Option<Expiry>,
        #[pin]
        timer: Option<Sleep>,
        // The runtime of the timer: another runtime's timer might not fire while this one runs.
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
        let Some(expiry) = this.expiry else {
            return Poll::Pending;
        };
        let timer = |at, context: &mut Context<'_>| {
            let runtime = runtime::polling();
            let here = runtime.as_ref().map(Handle::id);
            if here.is_none() || *this.runtime != here {
                let timer = runtime.and_then(|runtime| runtime::timer(&runtime, at));
                this.timer.set(timer);
                *this.runtime = here;
            }
            // It can't wait without a timer.
            let Some(mut timer) = this.timer.as_mut().as_pin_mut() else {
                return Poll::Ready(());
            };
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            // Regardless of the task's budget: the future must not outlast its time.
            pin!(unconstrained(timer)).poll(context)
        };
        expiry.poll(context, timer).map(Err)
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
    async fn a_bound_ends_a_future_that_uses_up_its_budget() {
        let busy = std::future::poll_fn(|context| {
            // Like a socket that is always readable.
            while let Poll::Ready(proceed) = tokio::task::coop::poll_proceed(context) {
                proceed.made_progress();
            }
            Poll::<()>::Pending
        });
        let deadline = Deadline::after(Duration::ZERO);
        assert_eq!(pin!(deadline.bound(busy)).await, Err(Elapsed));
    }

    /// A result that arrived by the deadline, but is ready only after more polls.
    async fn late_by_polls(at: Instant, polls: usize) {
        let mut left = polls;
        std::future::poll_fn(|_| {
            if Instant::now() < at {
                return Poll::Pending;
            }
            left -= 1;
            match left {
                0 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_is_polled_once_more_when_its_timer_goes_off() {
        let begun = Instant::now();
        let deadline = Deadline::after(Duration::from_secs(3));
        let at = begun + Duration::from_secs(3);
        assert_eq!(deadline.bound(late_by_polls(at, 2)).await, Ok(()));
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
        // Also with nested waits.
        let deadline = Deadline::after(Duration::from_secs(3));
        let at = Instant::now() + Duration::from_secs(3);
        let within = async { deadline.bound(late_by_polls(at, 2)).await };
        assert_eq!(deadline.bound(within).await, Ok(Ok(())));
        // Also with a deadline that had already passed.
        let over = Deadline::at(begun);
        assert_eq!(over.bound(late_by_polls(begun, 2)).await, Ok(()));
        assert_eq!(over.bound(late_by_polls(begun, 3)).await, Err(Elapsed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_standstill_gives_time_for_another_round_trip() {
        let second = Duration::from_secs(1);
        for (stands_still, takes, grace) in [(4000, 900, 900), (4000, 1900, 1000), (1030, 900, 30)]
        {
            let begun = Instant::now();
            let stands_still = Duration::from_millis(stands_still);
            let deadline = Deadline::after(second);
            let bounded = tokio::spawn(async move {
                let steps = async move {
                    sleep_until(begun + stands_still).await;
                    tokio::time::sleep(Duration::from_millis(takes)).await;
                };
                (deadline.bound(steps).await.is_ok(), begun.elapsed())
            });
            tokio::task::yield_now().await;
            tokio::time::advance(stands_still).await;
            let (is_done, waited) = bounded.await.expect("no panic");
            assert_eq!(is_done, grace == takes);
            assert_eq!(waited, stands_still + Duration::from_millis(grace));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_ends_an_endless_future() {
        let deadline = Deadline::after(Duration::from_secs(3));
        let outcome = deadline.bound(std::future::pending::<()>()).await;
        assert_eq!(outcome, Err(Elapsed));
        assert!(deadline.is_over());
        assert_eq!(deadline.elapsed(), Duration::from_secs(3));
    }
}
