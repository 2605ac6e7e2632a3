use std::pin::{Pin, pin};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use super::*;
use crate::auth::ScramMechanism;
use crate::auth::scram::{ClientFirst, Nonce};

type Work = Box<dyn FnOnce() + Send>;

/// Keeps the work until it is taken.
#[derive(Clone, Default)]
struct Held(Arc<(Mutex<Vec<Work>>, AtomicUsize)>);

impl BlockingExecutor for Held {
    fn execute(&self, work: Work) {
        self.0.1.fetch_add(1, Ordering::SeqCst);
        self.0.0.lock().expect("not poisoned").push(work);
    }
}

impl Held {
    fn take(&self) -> Vec<Work> {
        std::mem::take(&mut *self.0.0.lock().expect("not poisoned"))
    }

    fn asked(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

fn service() -> (KeyService, Held) {
    let held = Held::default();
    (KeyService::new(Arc::new(held.clone())), held)
}

fn derivation() -> KeyDerivation {
    derivation_with("c2FsdA==")
}

fn derivation_with(salt: &str) -> KeyDerivation {
    let nonce = Nonce::from_text("abc").expect("a nonce");
    let first = ClientFirst::new(ScramMechanism::Sha256, "user", nonce);
    let challenge = format!("r=abcdef,s={salt},i=4096");
    let made = first.server_first(challenge.as_bytes(), "user", "pencil");
    made.expect("within bounds").1
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn is_done<F: Future<Output = Result<Derived>>>(future: Pin<&mut F>) -> bool {
    match poll(future) {
        Poll::Ready(keys) => keys.is_ok(),
        Poll::Pending => false,
    }
}

/// The keys, which must be ready.
fn derived<F: Future<Output = Result<Derived>>>(future: Pin<&mut F>) -> Derived {
    match poll(future) {
        Poll::Ready(Ok(derived)) => derived,
        Poll::Ready(Err(error)) => panic!("{error}"),
        Poll::Pending => panic!("not derived"),
    }
}

#[test]
fn one_derivation_serves_all_waiting_and_later_callers() {
    let (service, executor) = service();
    {
        let mut first = pin!(service.derive(derivation()));
        let mut second = pin!(service.derive(derivation()));
        assert!(!is_done(first.as_mut()));
        assert!(!is_done(second.as_mut()));
        for work in executor.take() {
            work();
        }
        let first = derived(first.as_mut());
        assert!(is_done(second.as_mut()));
        // A caller before the proof gets the same keys.
        assert!(is_done(pin!(service.derive(derivation()))));
        assert!(service.inner.cache.is_empty());
        first.proved();
        assert_eq!(service.inner.cache.len(), 1);
    }
    assert!(is_done(pin!(service.derive(derivation()))));
    assert_eq!(executor.asked(), 1);
    assert!(service.inner.unproven().is_empty());
}

#[test]
fn keys_that_no_server_has_proved_are_not_kept() {
    let (service, executor) = service();
    for salt in ["YQ==", "Yg==", "Yw=="] {
        let mut waiting = pin!(service.derive(derivation_with(salt)));
        assert!(!is_done(waiting.as_mut()));
        for work in executor.take() {
            work();
        }
        drop(derived(waiting.as_mut()));
        assert!(service.inner.unproven().is_empty());
    }
    assert!(service.inner.cache.is_empty());
    let mut again = pin!(service.derive(derivation_with("YQ==")));
    assert!(!is_done(again.as_mut()));
    assert_eq!(executor.asked(), 4);
}

#[test]
fn a_dropped_waiter_does_not_stop_the_derivation() {
    let (service, executor) = service();
    {
        let mut second = pin!(service.derive(derivation()));
        {
            let mut first = pin!(service.derive(derivation()));
            assert!(!is_done(first.as_mut()));
            assert!(!is_done(second.as_mut()));
        }
        for work in executor.take() {
            work();
        }
        assert!(is_done(second.as_mut()));
    }
    assert_eq!(executor.asked(), 1);
    assert!(service.inner.unproven().is_empty());
}

#[test]
fn a_waiter_that_is_not_polled_holds_up_no_other() {
    let (service, executor) = service();
    let mut unpolled = pin!(service.derive(derivation()));
    assert!(!is_done(unpolled.as_mut()));
    for work in executor.take() {
        work();
    }
    assert!(is_done(pin!(service.derive(derivation()))));
    assert_eq!(executor.asked(), 1);
    assert!(is_done(unpolled.as_mut()));
}

#[test]
fn work_that_one_runtime_drops_is_started_anew_by_another_waiter() {
    let (service, executor) = service();
    let mut unpolled = pin!(service.derive(derivation()));
    let mut other = pin!(service.derive(derivation()));
    assert!(!is_done(unpolled.as_mut()));
    assert!(!is_done(other.as_mut()));
    drop(executor.take());
    assert!(!is_done(other.as_mut()), "it has started the work");
    assert_eq!(executor.asked(), 2);
    for work in executor.take() {
        work();
    }
    assert!(is_done(other.as_mut()));
}

/// The real executor, with a runtime that shuts down while the work is queued.
#[test]
fn a_runtime_that_ends_hands_its_derivation_over() {
    let service = KeyService::default();
    let narrow = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .build()
        .expect("a runtime");
    let (begun, is_begun) = std::sync::mpsc::channel();
    let (end, is_over) = std::sync::mpsc::channel::<()>();
    narrow.spawn_blocking(move || {
        let _ = begun.send(());
        let _ = is_over.recv();
    });
    is_begun.recv().expect("the only thread is busy");
    let mut unpolled = Box::pin(service.derive(derivation()));
    {
        let _entered = narrow.enter();
        assert!(!is_done(unpolled.as_mut()));
    }
    narrow.shutdown_background();
    drop(end);
    let other = tokio::runtime::Builder::new_current_thread().build();
    let derived = other
        .expect("a runtime")
        .block_on(service.derive(derivation()));
    derived.expect("keys");
}

#[test]
fn the_capacity_bounds_the_kept_keys() {
    let (service, executor) = service();
    let service = service.with_capacity(0);
    for round in 1..=2 {
        let mut waiting = pin!(service.derive(derivation()));
        assert!(!is_done(waiting.as_mut()));
        for work in executor.take() {
            work();
        }
        derived(waiting.as_mut()).proved();
        assert_eq!(executor.asked(), round);
    }
    assert!(service.inner.cache.is_empty());
}

#[test]
fn work_that_the_executor_drops_is_an_error_and_no_end() {
    let (service, executor) = service();
    {
        let mut first = pin!(service.derive(derivation()));
        assert!(!is_done(first.as_mut()));
        drop(executor.take());
        assert!(matches!(poll(first.as_mut()), Poll::Ready(Err(_))));
    }
    let mut second = pin!(service.derive(derivation()));
    assert!(!is_done(second.as_mut()));
    for work in executor.take() {
        work();
    }
    assert!(is_done(second.as_mut()));
}

/// The work itself removes its entry from the map, whatever its waiters do.
#[test]
fn a_dropped_derivation_leaves_nothing_behind() {
    let (service, executor) = service();
    let barrier = Barrier::new(2);
    let derive_and_drop = || {
        for round in 0..2000 {
            let mut waiting = Box::pin(service.derive(derivation()));
            assert!(!is_done(waiting.as_mut()));
            barrier.wait();
            match round % 2 {
                0 => drop(waiting),
                _ => {
                    drop(executor.take());
                    drop(waiting);
                }
            }
            barrier.wait();
            drop(executor.take());
            barrier.wait();
            assert!(service.inner.unproven().is_empty());
            barrier.wait();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(derive_and_drop);
        scope.spawn(derive_and_drop);
    });
}
