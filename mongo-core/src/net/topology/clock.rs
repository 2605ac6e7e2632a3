//! The time, and the signals, of the topology's tasks.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::net::deadline::Deadline;

/// Wakes a task of the topology. The topology notifies it without holding its lock.
pub(crate) type Signal = Arc<Notify>;

/// The current time by Tokio's clock, which tests may pause.
pub(crate) fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Completes at a time, and after one more turn of the reactor. So, after the process was
/// suspended, a `select!` that polls a step first receives a reply that is waiting in the socket.
pub(crate) async fn at(time: Option<std::time::Instant>) {
    match time {
        Some(time) => {
            let expiry = Deadline::at(Instant::from_std(time)).bound(pending::<()>());
            let _ = expiry.await;
        }
        None => pending().await,
    }
}
