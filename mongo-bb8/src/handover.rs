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
    waiters: Mutex<Waiters<T>>,
}

/// By the numbers of the callers, in ascending order.
type Waiters<T> = VecDeque<(u64, oneshot::Sender<T>)>;

impl<T> Default for Handover<T> {
    fn default() -> Self {
        Self {
            asking: AtomicUsize::new(0),
            waiters: Mutex::default(),
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
    pub(crate) fn offer(&self, returned: T) -> Option<T> {
        self.offer_before(u64::MAX, returned)
    }

    /// The same, but only to those who came before a caller.
    fn offer_before(&self, caller: u64, mut returned: T) -> Option<T> {
        loop {
            let first = self.change(|waiters| {
                let (first, _) = waiters.front()?;
                (*first < caller).then(|| waiters.pop_front())?
            });
            let Some((_, waiter)) = first else {
                return Some(returned);
            };
            match waiter.send(returned) {
                Ok(()) => return None,
                // It has just gone.
                Err(unsent) => returned = unsent,
            }
        }
    }

    fn enter(&self, caller: u64) -> oneshot::Receiver<T> {
        let (waiter, given) = oneshot::channel();
        self.change(|waiters| {
            let place = waiters.partition_point(|own| own.0 < caller);
            waiters.insert(place, (caller, waiter));
        });
        given
    }

    /// The place of a caller, which counts from its first wait on.
    pub(crate) fn turn(&self, caller: u64) -> Turn<'_, T> {
        Turn {
            handover: self,
            caller,
            given: None,
        }
    }

    fn change<R>(&self, change: impl FnOnce(&mut Waiters<T>) -> R) -> R {
        let mut waiters = self.lock();
        let changed = change(&mut waiters);
        self.asking.store(waiters.len(), Ordering::Relaxed);
        changed
    }

    fn lock(&self) -> MutexGuard<'_, Waiters<T>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those who wait. Dropped, what it was given goes to the next one.
pub(crate) struct Turn<'a, T> {
    handover: &'a Handover<T>,
    caller: u64,
    given: Option<oneshot::Receiver<T>>,
}

impl<T> Turn<'_, T> {
    /// Waits for what comes back. May be asked again, in the same place, and safe to drop.
    pub(crate) async fn given(&mut self) -> T {
        let (handover, caller) = (self.handover, self.caller);
        let given = self.given.get_or_insert_with(|| handover.enter(caller));
        match given.await {
            Ok(returned) => {
                self.given = None;
                returned
            }
            // A sender that is not used is kept.
            Err(_) => std::future::pending().await,
        }
    }

    /// Gives it to whoever has waited for longer than this one; nobody has, it comes back.
    pub(crate) fn unless_others_are_before(&self, taken: T) -> Option<T> {
        self.handover.offer_before(self.caller, taken)
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        let Some(mut given) = self.given.take() else {
            return;
        };
        self.handover.change(|waiters| {
            let own = |waiter: &(u64, _)| waiter.0;
            if let Ok(place) = waiters.binary_search_by_key(&self.caller, own) {
                waiters.remove(place);
            }
        });
        given.close();
        if let Ok(given) = given.try_recv() {
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
        let (mut first, mut second) = (handover.turn(1), handover.turn(2));
        assert!(!handover.is_asked(), "nobody waits");
        {
            // In the order of their turns, whoever is polled first.
            let (mut later, mut sooner) = (pin!(second.given()), pin!(first.given()));
            assert!(poll(later.as_mut()).is_pending() && poll(sooner.as_mut()).is_pending());
            assert_eq!((handover.offer(1), handover.offer(2)), (None, None));
            assert!(!handover.is_asked());
            assert_eq!(handover.offer(3), Some(3));
            assert_eq!(
                (poll(later), poll(sooner)),
                (Poll::Ready(2), Poll::Ready(1))
            );
        }
        // It was of no use: it asks again, and is before the other still.
        let (mut later, mut again) = (pin!(second.given()), pin!(first.given()));
        assert!(poll(later.as_mut()).is_pending() && poll(again.as_mut()).is_pending());
        assert_eq!(handover.offer(4), None);
        assert_eq!(poll(again), Poll::Ready(4));
    }

    #[test]
    fn who_comes_late_gives_it_to_those_before() {
        let handover = Handover::default();
        let (mut first, mut late) = (handover.turn(1), handover.turn(2));
        assert_eq!(late.unless_others_are_before(0), Some(0), "none waits yet");
        {
            let mut given = pin!(first.given());
            assert!(poll(given.as_mut()).is_pending());
            assert_eq!(late.unless_others_are_before(1), None);
            assert_eq!(poll(given), Poll::Ready(1));
        }
        assert!(poll(pin!(late.given())).is_pending());
        assert_eq!(first.unless_others_are_before(2), Some(2));
    }

    #[test]
    fn who_goes_leaves_what_it_was_given_to_the_next() {
        let handover = Handover::default();
        let mut turns = [1, 2, 3].map(|caller| handover.turn(caller));
        for turn in &mut turns {
            assert!(poll(pin!(turn.given())).is_pending());
        }
        let [first, gone, mut last] = turns;
        drop(gone);
        assert!(handover.offer(Arc::new(1)).is_none());
        drop(first);
        assert_eq!(poll(pin!(last.given())), Poll::Ready(Arc::new(1)));
        assert!(poll(pin!(last.given())).is_pending());
        let given = Arc::new(2);
        assert!(handover.offer(given.clone()).is_none());
        drop(last);
        assert_eq!(Arc::strong_count(&given), 1, "nobody has it");
        assert!(!handover.is_asked());
    }
}
