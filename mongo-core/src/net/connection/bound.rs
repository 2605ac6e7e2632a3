//! Bounds of a running command: its deadline, and an interruption by the pool.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::runtime::Id;
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

use crate::net::connection::pool_handle::{ConnectionState, Interrupted};
use crate::net::deadline::{Deadline, Elapsed, Expiry};
use crate::net::runtime;

/// Why a future did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Elapsed,
    Interrupted,
}

/// Runs a future until the deadline, or until the pool interrupts it.
pub(super) async fn bound<F: Future>(
    alarm: &mut Alarm,
    deadline: Deadline,
    link: Option<&ConnectionState>,
    mut future: Pin<&mut F>,
) -> Result<F::Output, Ended> {
    let mut expiry = deadline.moment().map(Expiry::new);
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        let is_known = match link.map(|link| link.register(context.waker())) {
            Some(Err(Interrupted)) => return Poll::Ready(Err(Ended::Interrupted)),
            Some(Ok(is_known)) => is_known,
            None => false,
        };
        alarm.wakes_this_task &= is_known;
        match &mut expiry {
            Some(expiry) => expiry
                .poll(context, |at, context| alarm.poll(at, context))
                .map(|Elapsed| Err(Ended::Elapsed)),
            None => Poll::Pending,
        }
    })
    .await
}

/// One timer for many consecutive waits.
///
/// Setting and resetting a timer costs more than the rest of a short wait, so the timer stays set
/// when a wait ends. If it is too early for a later wait, it is reset only when it fires: if all
/// waits have the same bound, once in the time of that bound. Until then it may wake the task of
/// the last wait once, spuriously.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    timer: Option<(Id, Pin<Box<Sleep>>)>,
    /// Whether the timer is known to wake the waiting task.
    wakes_this_task: bool,
}

impl Alarm {
    /// Whether the timer is still running on the given runtime. A runtime that shuts down fires all
    /// of its timers.
    #[inline]
    pub(super) fn runs_on(&self, runtime: Option<Id>) -> bool {
        let timer = self.timer.as_ref();
        timer.is_some_and(|(there, timer)| Some(*there) == runtime && !timer.is_elapsed())
    }

    /// Ready from `at` on, or if no runtime with a timer polls it.
    fn poll(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        // The same task is on the same runtime.
        if let Some((_, timer)) = &self.timer
            && self.wakes_this_task
            && timer.deadline() <= at
            && !timer.is_elapsed()
        {
            return Poll::Pending;
        }
        // It can't wait without a timer.
        let Some(runtime) = runtime::polling() else {
            return Poll::Ready(());
        };
        let here = runtime.id();
        let timer = match &mut self.timer {
            Some((there, timer)) if *there == here => timer,
            // The timer of another runtime might not fire while this one runs.
            timer => {
                self.wakes_this_task = false;
                match runtime::timer(&runtime, at) {
                    Some(sleep) => &mut timer.insert((here, Box::pin(sleep))).1,
                    None => return Poll::Ready(()),
                }
            }
        };
        if timer.deadline() > at {
            timer.as_mut().reset(at);
            self.wakes_this_task = false;
        }
        self.wakes_this_task = true;
        loop {
            // Regardless of the task's budget: the wait must not outlast its bound.
            ready!(pin!(unconstrained(timer.as_mut())).poll(context));
            if timer.deadline() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn wait(alarm: &mut Alarm, link: Option<&ConnectionState>, bound: Duration) -> Duration {
        let begun = Instant::now();
        let forever = pin!(pending::<()>());
        let ended = super::bound(alarm, Deadline::after(bound), link, forever);
        // Polls once more, in case the task was not woken.
        let ended = timeout(60 * SECOND, ended).await;
        assert_eq!(ended, Ok(Err(Ended::Elapsed)));
        begun.elapsed()
    }

    /// A wait that ends by itself, before the alarm fires.
    async fn short_wait(alarm: &mut Alarm, link: Option<&ConnectionState>, bound: Duration) {
        let sleep = pin!(tokio::time::sleep(SECOND / 10));
        let ended = super::bound(alarm, Deadline::after(bound), link, sleep).await;
        assert_eq!(ended, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_the_time_that_it_is_given() {
        let link = ConnectionState::default();
        for link in [None, Some(&link)] {
            let mut alarm = Alarm::default();
            for bound in [3, 1, 5, 5, 2] {
                let bound = bound * SECOND;
                short_wait(&mut alarm, link, bound).await;
                assert_eq!(wait(&mut alarm, link, bound).await, bound);
                short_wait(&mut alarm, link, 2 * bound).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_that_waits_now_is_woken() {
        let link = std::sync::Arc::new(ConnectionState::default());
        let mut alarm = Alarm::default();
        for bound in [Some(5 * SECOND), Some(5 * SECOND), None, Some(5 * SECOND)] {
            let link = link.clone();
            let task = tokio::spawn(async move {
                if let Some(bound) = bound {
                    assert_eq!(wait(&mut alarm, Some(&link), bound).await, bound);
                }
                // Leaves the timer set, for the next task.
                short_wait(&mut alarm, Some(&link), bound.unwrap_or(Duration::MAX)).await;
                alarm
            });
            alarm = task.await.expect("no panic");
        }
    }

    #[test]
    fn another_runtime_has_a_timer_of_its_own() {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let builder = builder.enable_time().start_paused(true);
            builder.build().expect("a runtime")
        };
        let (first, second) = (runtime(), runtime());
        let mut alarm = Alarm::default();
        first.block_on(short_wait(&mut alarm, None, 5 * SECOND));
        // The first runtime does not run during this wait.
        let waited = second.block_on(wait(&mut alarm, None, 5 * SECOND));
        assert_eq!(waited, 5 * SECOND);
    }

    /// With a new timer, and with one left from an earlier wait.
    #[tokio::test(start_paused = true)]
    async fn a_command_is_polled_once_more_when_its_timer_goes_off() {
        let mut alarm = Alarm::default();
        for bound in [5, 5, 2, 9] {
            short_wait(&mut alarm, None, 5 * SECOND).await;
            let begun = Instant::now();
            let at = begun + bound * SECOND;
            let mut polls = 0;
            let reply = poll_fn(|_| {
                polls += usize::from(Instant::now() >= at);
                match polls {
                    0 | 1 => Poll::Pending,
                    _ => Poll::Ready(()),
                }
            });
            let ended = super::bound(&mut alarm, Deadline::at(at), None, pin!(reply)).await;
            assert_eq!((ended, begun.elapsed()), (Ok(()), bound * SECOND));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_interrupted_command_ends_at_once() {
        let link = std::sync::Arc::new(ConnectionState::default());
        let waits = link.clone();
        let task = tokio::spawn(async move {
            let mut alarm = Alarm::default();
            let later = Deadline::after(SECOND);
            super::bound(&mut alarm, later, Some(&waits), pin!(pending::<()>())).await
        });
        tokio::time::sleep(SECOND / 2).await;
        assert!(!task.is_finished());
        link.interrupt();
        assert_eq!(task.await.expect("no panic"), Err(Ended::Interrupted));
    }
}
