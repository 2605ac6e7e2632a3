use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Wait};
use crate::net::deadline::{Deadline, Elapsed};
use crate::sync::lock;

/// The deadlines of an attempt to connect: the caller's, and within it `connectTimeoutMS`. The
/// latter is paused while the attempt waits for something that has its own time-out.
pub(crate) struct ConnectClock {
    caller: Deadline,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    own: Deadline,
    paused: Option<Instant>,
}

impl ConnectClock {
    /// `own` must not be later than `caller`.
    pub(crate) fn new(caller: Deadline, own: Deadline) -> Self {
        Self {
            caller,
            state: Mutex::new(State { own, paused: None }),
        }
    }

    /// Runs a future until a deadline passes. It is passed pinned, because an `async fn` would store
    /// it twice.
    ///
    /// # Errors
    /// [`Elapsed`], once the caller's deadline or the attempt's own has passed.
    pub(crate) async fn bound<F: Future>(
        &self,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, Elapsed> {
        loop {
            let deadline = self.current();
            // Also ready when the clock was paused or resumed, which needs another timer.
            let turn = poll_fn(|context| match future.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if self.current().moment() != deadline.moment() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            // Safe to drop: the future is kept.
            if let Some(output) = deadline.bound(turn).await? {
                return Ok(output);
            }
        }
    }

    /// Awaits a future that has its own time-out. `connectTimeoutMS` is paused and then resumes.
    pub(crate) async fn pause<F: Future>(&self, future: F) -> F::Output {
        self.state().paused = Some(Instant::now());
        let output = future.await;
        let mut state = self.state();
        if let Some(paused) = state.paused.take() {
            state.own = state.own.later(paused.elapsed(), self.caller);
        }
        output
    }

    /// The time-out error for a wait that this clock bounds.
    pub(crate) fn timed_out(&self, wait: Wait) -> Error {
        self.current().timed_out(wait)
    }

    fn current(&self) -> Deadline {
        let State { own, paused } = *self.state();
        match paused {
            // Not `Duration::MAX`, which overflows an `Instant`.
            Some(_) => own.later(Duration::from_secs(u64::from(u32::MAX)), self.caller),
            None => own,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;

    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn clock(caller: Deadline) -> ConnectClock {
        ConnectClock::new(caller, caller.within(Some(10 * SECOND)))
    }

    /// The time until an attempt ends that waits 5 s, then 30 s with the clock paused, then
    /// forever.
    async fn ends_after(caller: Deadline) -> Duration {
        let begin = Instant::now();
        let clock = clock(caller);
        let attempt = async {
            sleep(5 * SECOND).await;
            clock.pause(sleep(30 * SECOND)).await;
            pending::<()>().await;
        };
        clock.bound(pin!(attempt)).await.expect_err("it never ends");
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn paused_time_does_not_count() {
        assert_eq!(ends_after(Deadline::never()).await, 40 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_callers_time_counts_all() {
        for (seconds, expected) in [(3, 3), (20, 20), (38, 38), (60, 40)] {
            let ends = ends_after(Deadline::after(seconds * SECOND)).await;
            assert_eq!(ends, expected * SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_pause_it_is_a_deadline() {
        let begin = Instant::now();
        let clock = clock(Deadline::never());
        let output = clock.bound(pin!(sleep(SECOND))).await;
        output.expect("in time");
        clock
            .bound(pin!(pending::<()>()))
            .await
            .expect_err("it never ends");
        assert_eq!(begin.elapsed(), 10 * SECOND);
    }
}
