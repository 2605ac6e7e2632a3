//! Whether and how fast a server's bytes flow.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    is_frozen: bool,
    is_cut: bool,
    delay: Duration,
}

/// The network between a server and all of its clients.
#[derive(Debug, Default)]
pub(crate) struct Link {
    flow: Mutex<Flow>,
    /// Wakes waiters in the order of waiting, unlike a watch.
    changed: Notify,
}

impl Link {
    pub(crate) fn freeze(&self, is_frozen: bool) {
        self.change(|flow| flow.is_frozen = is_frozen);
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.change(|flow| flow.is_cut = is_cut);
    }

    pub(crate) fn slow(&self, delay: Duration) {
        self.change(|flow| flow.delay = delay);
    }

    pub(crate) fn delay(&self) -> Duration {
        self.lock().delay
    }

    /// Waits until the server is not frozen.
    pub(crate) async fn thawed(&self) {
        self.until(|flow| !flow.is_frozen).await;
    }

    /// Waits until bytes flow.
    pub(crate) async fn flows(&self) {
        self.until(|flow| !flow.is_frozen && !flow.is_cut).await;
    }

    async fn until(&self, condition: impl Fn(Flow) -> bool) {
        loop {
            // Created before the check, so that no change between the two is missed.
            let changed = self.changed.notified();
            let flow = *self.lock();
            if condition(flow) {
                return;
            }
            changed.await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Flow)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
