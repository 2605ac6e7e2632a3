use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

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

    /// Whether it has come.
    pub fn is_over(&self) -> bool {
        self.at.is_some_and(|at| at <= Instant::now())
    }

    /// Runs `future` until the deadline; drops it there.
    ///
    /// # Errors
    /// [`Elapsed`] once the deadline has come.
    pub async fn bound<F: Future>(self, future: F) -> Result<F::Output, Elapsed> {
        match self.at {
            Some(at) => timeout_at(at, future).await.map_err(|_| Elapsed),
            None => Ok(future.await),
        }
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
    async fn a_bound_ends_what_never_would() {
        let deadline = Deadline::after(Duration::from_secs(3));
        let outcome = deadline.bound(std::future::pending::<()>()).await;
        assert_eq!(outcome, Err(Elapsed));
        assert!(deadline.is_over());
        assert_eq!(deadline.elapsed(), Duration::from_secs(3));
    }
}
