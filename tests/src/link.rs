//! Whether and how fast a server's bytes flow.

use std::time::Duration;

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    is_frozen: bool,
    is_cut: bool,
    delay: Duration,
}

/// What lies between a server and all of its clients.
#[derive(Debug, Default)]
pub(crate) struct Link(watch::Sender<Flow>);

impl Link {
    pub(crate) fn freeze(&self, is_frozen: bool) {
        self.0.send_modify(|flow| flow.is_frozen = is_frozen);
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.0.send_modify(|flow| flow.is_cut = is_cut);
    }

    pub(crate) fn slow(&self, delay: Duration) {
        self.0.send_modify(|flow| flow.delay = delay);
    }

    pub(crate) fn delay(&self) -> Duration {
        self.0.borrow().delay
    }

    /// Waits until the server does anything.
    pub(crate) async fn thawed(&self) {
        self.until(|flow| !flow.is_frozen).await;
    }

    /// Waits until bytes flow.
    pub(crate) async fn flows(&self) {
        self.until(|flow| !flow.is_frozen && !flow.is_cut).await;
    }

    async fn until(&self, condition: impl FnMut(&Flow) -> bool) {
        // The sender lives in `self`, so the wait can't end by its drop.
        let _ = self.0.subscribe().wait_for(condition).await;
    }
}
