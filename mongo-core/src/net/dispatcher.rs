use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::callback::guard;
use crate::sync::lock;

/// The name of callbacks for topology events in logs.
pub(crate) const SDAM_HANDLER: &str = "topology event handler";

/// The name, in logs, of other code that may panic although the callbacks are guarded.
const OTHERS: &str = "tracing subscriber or generic pool";

/// A handler of events, called one event at a time.
pub(crate) type Handler<E> = Arc<dyn Fn(&E) + Send + Sync>;

/// Delivers events in the order in which they were queued, outside every lock.
///
/// The holder of the lock that orders the events calls [`queue`](Self::queue) under it, and
/// [`deliver`](Self::deliver) once it is released. One thread delivers at a time. It also delivers
/// the events that other threads, or the handler itself, queue in the meantime. So a handler may do
/// everything that other callers may do: select servers, report errors, close the topology. If a
/// handler panics, it loses that event.
pub(crate) struct Dispatcher<E> {
    handler: Option<Handler<E>>,
    queue: Mutex<Queue<E>>,
}

struct Queue<E> {
    waiting: VecDeque<E>,
    delivering: bool,
}

impl<E> Dispatcher<E> {
    pub(crate) fn new(handler: Option<Handler<E>>) -> Self {
        Self {
            handler,
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                delivering: false,
            }),
        }
    }

    /// Appends events to the queue. Without a handler, nothing is queued.
    pub(crate) fn queue(&self, events: impl IntoIterator<Item = E>) {
        if self.handler.is_some() {
            self.lock().waiting.extend(events);
        }
    }

    /// Delivers the queued events, unless another call is already doing so.
    pub(crate) fn deliver(&self) {
        let Some(handler) = &self.handler else { return };
        if std::mem::replace(&mut self.lock().delivering, true) {
            return;
        }
        while let Some(event) = self.next() {
            let _ = guard(OTHERS, || handler(&event));
        }
    }

    /// The next event. If there is none, the delivery ends under the same lock, so that no event is
    /// left behind.
    fn next(&self) -> Option<E> {
        let mut queue = self.lock();
        let event = queue.waiting.pop_front();
        queue.delivering = event.is_some();
        event
    }

    fn lock(&self) -> MutexGuard<'_, Queue<E>> {
        lock(&self.queue)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn events_that_a_handler_causes_come_after_those_that_wait() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let dispatcher = Arc::new_cyclic(|weak: &Weak<Dispatcher<u32>>| {
            let (seen, weak) = (seen.clone(), weak.clone());
            let handler: Handler<u32> = Arc::new(move |event| {
                seen.lock().expect("no panic").push(*event);
                if *event == 1 {
                    let dispatcher = weak.upgrade().expect("alive");
                    dispatcher.queue([10]);
                    dispatcher.deliver();
                }
            });
            Dispatcher::new(Some(handler))
        });
        dispatcher.queue([1, 2]);
        dispatcher.deliver();
        assert_eq!(*seen.lock().expect("no panic"), [1, 2, 10]);
    }

    #[test]
    fn many_threads_lose_nothing_and_keep_the_order() {
        let last = Arc::new(AtomicUsize::new(0));
        let order = Arc::new(Mutex::new(0));
        let handler: Handler<usize> = {
            let last = last.clone();
            Arc::new(move |event| {
                assert_eq!(last.swap(*event, Ordering::SeqCst) + 1, *event);
            })
        };
        let dispatcher = Arc::new(Dispatcher::new(Some(handler)));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        {
                            let mut next = order.lock().expect("no panic");
                            *next += 1;
                            dispatcher.queue([*next]);
                        }
                        dispatcher.deliver();
                    }
                });
            }
        });
        assert_eq!(last.load(Ordering::SeqCst), 2000);
    }

    #[test]
    fn a_handler_that_panics_loses_one_event() {
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = seen.clone();
        let dispatcher = Dispatcher::new(Some(Arc::new(move |event: &u32| {
            assert_ne!(*event, 1, "on purpose");
            counted.fetch_add(1, Ordering::SeqCst);
        })));
        dispatcher.queue([1, 2]);
        dispatcher.deliver();
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    }
}
