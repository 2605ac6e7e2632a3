use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Futures that run concurrently on the task that waits for them. Nothing is spawned, and dropping
/// this drops them all.
///
/// Each wake polls all of them, so this is meant for tens of futures, not thousands.
pub(crate) struct Together<K, T> {
    running: Vec<(K, Running<T>)>,
}

type Running<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<K, T> Together<K, T> {
    pub(crate) fn new() -> Self {
        Self {
            running: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    pub(crate) fn push(&mut self, key: K, future: impl Future<Output = T> + Send + 'static) {
        self.running.push((key, Box::pin(future)));
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.running.iter().map(|(key, _)| key)
    }

    /// Drops the futures for which `keep` returns false.
    pub(crate) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.running.retain(|(key, _)| keep(key));
    }

    /// Waits for the next future to complete; `None` if there are none. Safe to drop: all futures
    /// are kept.
    pub(crate) async fn next(&mut self) -> Option<(K, T)> {
        poll_fn(|context| {
            if self.running.is_empty() {
                return Poll::Ready(None);
            }
            for place in 0..self.running.len() {
                if let Poll::Ready(output) = self.running[place].1.as_mut().poll(context) {
                    let (key, _) = self.running.remove(place);
                    return Poll::Ready(Some((key, output)));
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_slow_do_not_delay_the_fast() {
        let begun = Instant::now();
        let mut together = Together::new();
        for seconds in [5, 1, 3, 9] {
            together.push(seconds, sleep(Duration::from_secs(seconds)));
        }
        together.retain(|seconds| *seconds != 9);
        let mut order = Vec::new();
        while let Some((seconds, ())) = together.next().await {
            assert_eq!(begun.elapsed().as_secs(), seconds);
            order.push(seconds);
        }
        assert_eq!(order, [1, 3, 5]);
    }
}
