use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Brings what comes back to the caller that waits longest for a connection to be made. bb8 would
/// give it to whoever asks next, and have the one that it woke wait anew.
#[derive(Debug)]
pub(crate) struct Handover<T> {
    /// How many wait, for those who only want to know that.
    asking: AtomicUsize,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    /// With ascending tickets.
    waiters: VecDeque<(u64, oneshot::Sender<T>)>,
    next_ticket: u64,
}

impl<T> Default for Handover<T> {
    fn default() -> Self {
        Self {
            asking: AtomicUsize::new(0),
            state: Mutex::new(State {
                waiters: VecDeque::new(),
                next_ticket: 0,
            }),
        }
    }
}

impl<T> Handover<T> {
    /// Whether somebody waits.
    #[inline]
    pub(crate) fn is_asked(&self) -> bool {
        self.asking.load(Ordering::Relaxed) > 0
    }

    /// Gives it to whoever waits longest; nobody waits, it comes back.
    pub(crate) fn offer(&self, mut returned: T) -> Option<T> {
        loop {
            let Some((_, waiter)) = self.change(|state| state.waiters.pop_front()) else {
                return Some(returned);
            };
            match waiter.send(returned) {
                Ok(()) => return None,
                // It has just gone.
                Err(unsent) => returned = unsent,
            }
        }
    }

    /// Waits for what comes back. Safe to drop: what it was given goes to the next one, and is
    /// dropped where there is none.
    pub(crate) async fn ask(&self) -> T {
        let (waiter, given) = oneshot::channel();
        let ticket = self.change(|state| {
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.waiters.push_back((ticket, waiter));
            ticket
        });
        let mut asking = Asking {
            handover: self,
            ticket,
            given,
        };
        match (&mut asking.given).await {
            Ok(returned) => returned,
            // It is sent something or kept.
            Err(_) => std::future::pending().await,
        }
    }

    fn change<R>(&self, change: impl FnOnce(&mut State<T>) -> R) -> R {
        let mut state = self.lock();
        let changed = change(&mut state);
        self.asking.store(state.waiters.len(), Ordering::Relaxed);
        changed
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those who wait.
struct Asking<'a, T> {
    handover: &'a Handover<T>,
    ticket: u64,
    given: oneshot::Receiver<T>,
}

impl<T> Drop for Asking<'_, T> {
    fn drop(&mut self) {
        self.handover.change(|state| {
            let own = |waiter: &(u64, _)| waiter.0;
            if let Ok(place) = state.waiters.binary_search_by_key(&self.ticket, own) {
                state.waiters.remove(place);
            }
        });
        self.given.close();
        if let Ok(given) = self.given.try_recv() {
            drop(self.handover.offer(given));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn who_waits_longest_is_served_first() {
        let handover = Handover::default();
        assert_eq!(handover.offer(0), Some(0));
        let mut first = pin!(handover.ask());
        let mut second = pin!(handover.ask());
        assert!(!handover.is_asked(), "nobody was polled");
        assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
        assert_eq!((handover.offer(1), handover.offer(2)), (None, None));
        assert!(!handover.is_asked());
        assert_eq!(handover.offer(3), Some(3));
        assert_eq!(poll(second), Poll::Ready(2));
        assert_eq!(poll(first), Poll::Ready(1));
    }

    #[test]
    fn who_goes_leaves_what_it_was_given_to_the_next() {
        let handover = Handover::default();
        let mut first = Box::pin(handover.ask());
        let mut gone = Box::pin(handover.ask());
        let mut last = Box::pin(handover.ask());
        for waiting in [&mut first, &mut gone, &mut last] {
            assert!(poll(waiting.as_mut()).is_pending());
        }
        drop(gone);
        assert!(handover.offer(Arc::new(1)).is_none());
        drop(first);
        assert_eq!(poll(last.as_mut()), Poll::Ready(Arc::new(1)));
        let mut only = Box::pin(handover.ask());
        assert!(poll(only.as_mut()).is_pending());
        let given = Arc::new(2);
        assert!(handover.offer(given.clone()).is_none());
        drop(only);
        assert_eq!(Arc::strong_count(&given), 1, "nobody has it");
        assert!(!handover.is_asked());
    }
}
