//! Ending a future early.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use mongo_core::Deadline;
use tokio::runtime::{Builder, Handle};

/// The timeout of the operations of a sweep, by the paused clock. It advances only explicitly, or
/// when the runtime is idle.
pub(crate) const BOUND: Duration = Duration::from_secs(1);

/// The limit for the polls of a sweep.
const MOST_POLLS: usize = 100_000;

/// How a future is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The future is dropped.
    Drop,
    /// The future's deadline expires.
    TimeOut,
}

impl Cut {
    /// The deadline for an operation that takes one.
    pub(crate) fn deadline(self) -> Deadline {
        match self {
            Self::Drop => Deadline::never(),
            Self::TimeOut => Deadline::after(BOUND),
        }
    }

    /// The numbers of polls after which to end a future. Before the first poll no deadline is
    /// running.
    pub(crate) fn polls(self) -> Range<usize> {
        match self {
            Self::Drop => 0..MOST_POLLS,
            Self::TimeOut => 1..MOST_POLLS,
        }
    }

    /// Polls a future `polls` times, and then ends it if it is still pending: `None` if it was
    /// dropped.
    pub(crate) async fn after<F: Future>(self, polls: usize, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        for _ in 0..polls {
            if let Poll::Ready(output) = poll_once(future.as_mut()).await {
                return Some(output);
            }
            // Connection attempts run in their own tasks.
            if Handle::current().metrics().num_alive_tasks() > 0 {
                tokio::task::yield_now().await;
            }
        }
        match self {
            Self::Drop => None,
            Self::TimeOut => {
                // Not by much more: a long jump counts as a freeze, which extends deadlines.
                tokio::time::advance(BOUND + Duration::from_millis(1)).await;
                // A future is polled once more after its deadline. No other task runs in between.
                for _ in 0..2 {
                    if let Poll::Ready(output) = poll_once(future.as_mut()).await {
                        return Some(output);
                    }
                }
                Some(future.await)
            }
        }
    }
}

/// Runs a test with a paused clock. Other tasks keep pace with it: between two of its polls they
/// have at most eight.
pub(crate) fn block_on(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .event_interval(8)
        .build();
    runtime.expect("a runtime").block_on(test);
}

pub(crate) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
