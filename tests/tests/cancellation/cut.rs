//! Ending a future early.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use mongo_core::Deadline;
use tokio::runtime::{Builder, Handle};

/// What the operations of a sweep may take, by the paused clock: it moves only when it is told to,
/// or when nothing else is left to do.
pub(crate) const BOUND: Duration = Duration::from_secs(1);

/// No sweep is as long as this.
const MOST_POLLS: usize = 100_000;

/// How a future is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It is dropped.
    Drop,
    /// Its deadline comes.
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

    /// The numbers of polls to end a future after. Without any, no deadline has begun to run.
    pub(crate) fn polls(self) -> Range<usize> {
        match self {
            Self::Drop => 0..MOST_POLLS,
            Self::TimeOut => 1..MOST_POLLS,
        }
    }

    /// Polls a future `polls` times, and ends it then if it is not over: `None` if it was dropped.
    pub(crate) async fn after<F: Future>(self, polls: usize, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        for _ in 0..polls {
            if let Poll::Ready(output) = poll_once(future.as_mut()).await {
                return Some(output);
            }
            // Attempts to make connections have tasks of their own.
            if Handle::current().metrics().num_alive_tasks() > 0 {
                tokio::task::yield_now().await;
            }
        }
        match self {
            Self::Drop => None,
            Self::TimeOut => {
                // Not by much more: that would be a standstill, which gives more time.
                tokio::time::advance(BOUND + Duration::from_millis(1)).await;
                // The first poll after a deadline is not the last. No other task has a turn.
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

/// Runs a test with a paused clock, and with other tasks at a pace near its own: between two polls
/// of it there are at most eight of theirs.
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
