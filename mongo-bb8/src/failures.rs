use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mongo_core::Error;
use tokio::sync::Notify;

/// Brings a failed connect to one of the callers that wait for a connection: bb8 connects in a task
/// of its own, and tells only its error sink.
///
/// Each failure goes to one caller, the one that waits longest, as if that one had made the attempt
/// itself. No failure is kept for a caller that comes later.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// How many callers are between [`wait`](Self::wait) and the end of that guard.
    waiting: AtomicUsize,
    /// Never more than `waiting`.
    queued: Mutex<VecDeque<Error>>,
    arrived: Notify,
}

impl Failures {
    /// Hands a failure to whoever waits longest; nobody waits, nobody is told.
    pub(crate) fn push(&self, error: Error) {
        let mut queued = self.lock();
        if queued.len() < self.waiting.load(Ordering::SeqCst) {
            queued.push_back(error);
            self.arrived.notify_one();
        }
    }

    /// Enters a caller, before it asks bb8, so that no failure of its own attempt is missed.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting { failures: self }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Error>> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller that waits.
pub(crate) struct Waiting<'a> {
    failures: &'a Failures,
}

impl Waiting<'_> {
    /// The next failure that falls to this caller.
    ///
    /// Safe to drop: a notification that is not used goes to another one that waits.
    pub(crate) async fn failure(&self) -> Error {
        loop {
            let queued = self.failures.lock().pop_front();
            match queued {
                Some(error) => return error,
                None => self.failures.arrived.notified().await,
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Under the lock: a failure of somebody who enters just now must not be cut off.
        let mut queued = self.failures.lock();
        let others = self.failures.waiting.fetch_sub(1, Ordering::SeqCst) - 1;
        queued.truncate(others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> Error {
        Error::configuration(text)
    }

    #[tokio::test]
    async fn one_failure_reaches_one_caller() {
        let failures = Failures::default();
        failures.push(failure("before anybody waits"));
        let (first, second) = (failures.wait(), failures.wait());
        failures.push(failure("one"));
        assert!(first.failure().await.to_string().contains("one"));
        let mut second = tokio_test(second.failure());
        assert!(second.poll_now().is_none());
        failures.push(failure("two"));
        let told = second.poll_now().expect("told").to_string();
        assert!(told.contains("two"));
    }

    #[tokio::test]
    async fn what_nobody_takes_is_dropped() {
        let failures = Failures::default();
        let caller = failures.wait();
        failures.push(failure("late"));
        failures.push(failure("one too many"));
        drop(caller);
        let next = failures.wait();
        assert!(tokio_test(next.failure()).poll_now().is_none());
    }

    struct Polled<F>(std::pin::Pin<Box<F>>);

    fn tokio_test<F: Future>(future: F) -> Polled<F> {
        Polled(Box::pin(future))
    }

    impl<F: Future> Polled<F> {
        fn poll_now(&mut self) -> Option<F::Output> {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            match self.0.as_mut().poll(&mut context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            }
        }
    }
}
