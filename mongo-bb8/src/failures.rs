use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use mongo_core::Error;
use tokio::sync::Notify;

use crate::manager::is_checking;

/// Far more attempts than end between two steps of bb8's.
const MAX_ANNOUNCED: usize = 1000;

/// Brings a failed connect to one of the callers that wait for a connection: bb8 connects in a task
/// of its own, and tells only its error sink.
///
/// Each failure goes to one caller, the one that waits longest, as if that one had made the attempt
/// itself. No failure is kept for a caller that comes later; and if the attempt that it relied on had
/// begun before it came, it makes another one of its own.
///
/// It is told in two steps, because bb8 counts an attempt as under way until after the manager's
/// `connect` has returned. Told at once, a caller could make room for another one, for whom bb8
/// would then make no attempt, and who would wait in vain.
///
/// Under [`Pools`](crate::Pools) an attempt ends with the caller that it was begun for, as on
/// deadpool: a server that does not answer would hold up those who come later.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// How many callers wait for a connection to be made. Goes down under the lock alone, so that
    /// no failure of somebody who enters just then is cut off.
    waiting: AtomicUsize,
    /// Numbers callers and attempts in the order in which they came.
    next: AtomicU64,
    state: Mutex<State>,
    arrived: Notify,
    /// Told when the last one that waits leaves.
    left: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Whether there is a sink that ends what `connect` begins; there is none in a bare pool.
    has_sink: bool,
    /// Whether a caller that goes without a connection takes an attempt with it.
    gives_up: bool,
    /// Those under way, oldest first.
    attempts: VecDeque<(u64, Arc<Notify>)>,
    /// Of attempts that bb8 still counts.
    announced: Vec<Failure>,
    /// Never more than `waiting`.
    queued: VecDeque<Failure>,
    closed: Option<Error>,
}

#[derive(Debug)]
struct Failure {
    /// The attempt's number; `None` of one that was given up, which is nobody's failure.
    attempt: Option<u64>,
    error: Error,
}

/// An attempt that is under way.
pub(crate) struct Attempt<'a> {
    failures: &'a Failures,
    number: u64,
    given_up: Arc<Notify>,
}

impl Attempt<'_> {
    /// Runs it, unless it is given up first: then nothing.
    pub(crate) async fn unless_given_up<F: Future>(&self, attempt: F) -> Option<F::Output> {
        // Both are safe to drop: an attempt leaves nothing behind.
        tokio::select! {
            biased;
            made = attempt => Some(made),
            () = self.given_up.notified() => None,
        }
    }

    /// It has failed, and bb8 does not know yet.
    pub(crate) fn failed(&self, error: &Error) {
        self.failures.announce(Some(self.number), error);
    }

    /// It was given up: whoever relied on it since has to ask anew.
    pub(crate) fn ended(&self, error: &Error) {
        self.failures.announce(None, error);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut state = self.failures.lock();
        state.attempts.retain(|(number, _)| *number != self.number);
    }
}

/// What a caller that waits has to do.
#[derive(Debug)]
pub(crate) enum Told {
    /// Give up: this is why.
    Failed(Error),
    /// Ask bb8 anew: what it relied on has come to nothing, and was not its own.
    Again,
}

impl Failures {
    /// From now on bb8's sink gives every error to [`push`](Self::push).
    pub(crate) fn expect_sink(&self) {
        self.lock().has_sink = true;
    }

    /// Whether bb8's sink gives every error to [`push`](Self::push).
    pub(crate) fn has_sink(&self) -> bool {
        self.lock().has_sink
    }

    /// From now on a caller that goes without a connection takes an attempt with it, if there are
    /// more of them than callers: the oldest, which has had most time.
    pub(crate) fn give_up(&self) {
        self.lock().gives_up = true;
    }

    /// An attempt begins.
    pub(crate) fn begin(&self) -> Attempt<'_> {
        let (number, given_up) = (self.next.fetch_add(1, Ordering::SeqCst), Arc::default());
        let attempt = (number, Arc::clone(&given_up));
        self.lock().attempts.push_back(attempt);
        Attempt {
            failures: self,
            number,
            given_up,
        }
    }

    /// Whether a connection is wanted: in a closed pool none is, and under `Pools` one that nobody
    /// waits for is not. A pool of bb8's own makes them in advance, too; in a bare one nobody can be
    /// seen to wait.
    pub(crate) fn is_awaited(&self) -> bool {
        let state = self.lock();
        let is_waited_for = !state.gives_up || self.waiting.load(Ordering::SeqCst) > 0;
        state.closed.is_none() && is_waited_for
    }

    /// Ends when [nobody waits](Self::is_awaited).
    pub(crate) async fn unawaited(&self) {
        loop {
            let mut left = pin!(self.left.notified());
            // Before the look, so that nobody leaves between.
            left.as_mut().enable();
            if !self.is_awaited() {
                return;
            }
            left.await;
        }
    }

    /// An attempt is over, and bb8 does not know yet.
    fn announce(&self, attempt: Option<u64>, error: &Error) {
        let mut state = self.lock();
        if state.has_sink {
            let error = error.clone();
            // bb8 does not sink the failure of a dedicated connection.
            if state.announced.len() == MAX_ANNOUNCED {
                state.announced.remove(0);
            }
            state.announced.push(Failure { attempt, error });
        }
    }

    /// Hands a failure to whoever waits longest; nobody waits, nobody is told.
    pub(crate) fn push(&self, error: &Error) {
        let mut state = self.lock();
        let mut announced = state.announced.iter();
        let failure = match announced.position(|own| own.error.is_same(error)) {
            Some(index) => state.announced.swap_remove(index),
            // The connection was made, and then refused by a customizer.
            None => Failure {
                attempt: Some(u64::MAX),
                error: error.clone(),
            },
        };
        if state.queued.len() < self.waiting.load(Ordering::SeqCst) {
            state.queued.push_back(failure);
            self.arrived.notify_one();
        }
    }

    /// Everybody who waits, now or later, is told at once.
    pub(crate) fn close(&self, error: Error) {
        self.lock().closed = Some(error);
        self.arrived.notify_waiters();
        self.left.notify_waiters();
    }

    /// Enters a caller, before it asks bb8, so that no failure of its own attempt is missed.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.enter();
        Waiting {
            failures: self,
            caller: self.next.fetch_add(1, Ordering::SeqCst),
            is_served: false,
        }
    }

    /// Takes a caller out while it checks an idle connection: the failures of others' attempts are
    /// not its own then.
    pub(crate) fn away(&self) -> Away<'_> {
        self.leave(true);
        Away(self)
    }

    fn enter(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    fn leave(&self, is_served: bool) {
        let mut state = self.lock();
        let others = self.waiting.fetch_sub(1, Ordering::SeqCst) - 1;
        state.queued.truncate(others);
        let surplus = !is_served && state.gives_up && state.attempts.len() > others;
        let given_up = surplus.then(|| state.attempts.pop_front()).flatten();
        drop(state);
        if let Some((_, given_up)) = given_up {
            given_up.notify_one();
        }
        if others == 0 {
            self.left.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller that waits.
pub(crate) struct Waiting<'a> {
    failures: &'a Failures,
    /// The caller's number.
    caller: u64,
    is_served: bool,
}

impl Waiting<'_> {
    /// Callers are numbered in the order in which they came.
    pub(crate) fn number(&self) -> u64 {
        self.caller
    }

    /// It has a connection, or was told why there is none.
    pub(crate) fn served(mut self) {
        self.is_served = true;
    }

    /// Waits for the next failure that falls to this caller; none does while it checks a connection.
    ///
    /// Safe to drop: a notification that is not used goes to another one that waits.
    pub(crate) async fn told(&self) -> Told {
        let failures = self.failures;
        let mut arrival = pin!(None);
        std::future::poll_fn(|context| {
            loop {
                if is_checking() {
                    arrival.set(None);
                    return Poll::Pending;
                }
                // Listens before it looks, so that nothing falls between.
                if arrival.is_none() {
                    arrival.set(Some(failures.arrived.notified()));
                }
                let arrived = match arrival.as_mut().as_pin_mut() {
                    Some(arrival) => arrival.poll(context),
                    None => Poll::Pending,
                };
                let mut state = failures.lock();
                if let Some(closed) = &state.closed {
                    return Poll::Ready(Told::Failed(closed.clone()));
                }
                match (state.queued.pop_front(), arrived) {
                    (Some(failure), _) => return Poll::Ready(self.judge(failure)),
                    (None, Poll::Ready(())) => arrival.set(None),
                    (None, Poll::Pending) => return Poll::Pending,
                }
            }
        })
        .await
    }

    fn judge(&self, Failure { attempt, error }: Failure) -> Told {
        match attempt.is_none_or(|attempt| attempt < self.caller) {
            true => Told::Again,
            false => Told::Failed(error),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.failures.leave(self.is_served);
    }
}

/// A caller that checks a connection, and then waits again.
pub(crate) struct Away<'a>(&'a Failures);

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.enter();
    }
}

#[cfg(test)]
mod tests;
