//! Environments without the tokio runtime or driver that a future needs.

use std::fmt::Display;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use crate::observe::WAIT_LIMIT;

/// The environment in which a future is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Outside of any runtime, by an executor other than tokio's.
    Outside,
    /// Within a runtime without a timer.
    WithoutTime,
    /// Within a runtime without an I/O driver.
    WithoutIo,
}

impl Place {
    /// All environments.
    pub const ALL: [Self; 3] = [Self::Outside, Self::WithoutTime, Self::WithoutIo];

    /// Runs a future there.
    ///
    /// # Panics
    /// If the future panics, or does not complete within the limit.
    pub fn run<F: Future>(self, future: F) -> F::Output {
        let mut builder = Builder::new_current_thread();
        match self {
            Self::Outside => return block_on(future),
            Self::WithoutTime => builder.enable_io(),
            Self::WithoutIo => builder.enable_time(),
        };
        builder.build().expect("a runtime").block_on(future)
    }

    /// Runs a future there that must fail soon, with an error that names the remedy. Returns the
    /// error.
    ///
    /// # Panics
    /// If it does not.
    pub fn refuses<T, E: Display>(
        self,
        entry: &str,
        future: impl Future<Output = Result<T, E>>,
    ) -> E {
        let begun = Instant::now();
        let Err(error) = self.run(future) else {
            panic!("{entry} in {self:?} succeeds");
        };
        let text = error.to_string();
        assert!(text.contains(self.remedy()), "{entry} in {self:?}: {text}");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{entry} in {self:?}"
        );
        error
    }

    /// The remedy that an error has to name.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Outside => "within a Tokio runtime",
            Self::WithoutTime => "enable_time",
            Self::WithoutIo => "enable_io",
        }
    }
}

/// A runtime that is driven by a worker thread.
///
/// # Panics
/// If the system can't start a thread.
pub fn driven_runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(1).enable_all();
    builder.build().expect("a runtime")
}

/// Runs a future on this thread, without any runtime.
///
/// # Panics
/// If the future panics, or does not complete within the limit.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    let begun = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let left = WAIT_LIMIT.checked_sub(begun.elapsed());
        std::thread::park_timeout(left.expect("the future does not end"));
    }
}
