//! The handle of a connection to its pool, and the state that both share.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use bson::RawDocument;
use tokio::time::Instant;

use super::Identity;
use crate::error::{ClosedReason, Error, ErrorKind};
use crate::event::logs::CheckOutSpan;
use crate::operation::{ClientContext, ClusterTime};
use crate::sync::lock;

/// The connection is perished: it must not be handed out again, whatever its generation.
const DOOMED: u8 = 1;

/// The operation in progress on the connection must fail.
const INTERRUPTED: u8 = 2;

/// The connection has left the pool.
const DETACHED: u8 = 4;

/// The connection's server has changed.
const OUTDATED: u8 = 8;

/// The notifications from connections to their pool.
pub(crate) trait PoolHooks: Send + Sync {
    /// A command failed, or a reply with `ok: 1` contains an error. Returns whether the error
    /// allows the connection to be handed out again.
    fn failed(&self, identity: &Identity, error: &Error) -> bool;

    /// A reply contains a `$clusterTime`.
    fn cluster_time(&self, cluster_time: &RawDocument);

    /// The newest `$clusterTime` of the deployment.
    fn newest_cluster_time(&self) -> Option<Arc<ClusterTime>>;

    /// The options and the sessions of operations.
    fn client(&self) -> &Arc<ClientContext>;

    /// A random number from 0 to 1, which replays in a simulation.
    fn jitter(&self) -> f64;

    /// A guard checks the connection in.
    fn checked_in(&self, identity: &Identity);

    /// The connection becomes idle. If this returns false, it must not be handed out again.
    fn enter_idle(&self, identity: &Identity, link: &Arc<ConnectionState>) -> bool;

    /// The connection is about to be handed out. If this returns false, it must not be.
    fn leave_idle(&self, link: &ConnectionState) -> bool;

    /// The connection leaves the pool and stays open.
    fn detached(&self, identity: &Identity, link: &ConnectionState);

    /// The connection was dropped.
    fn dropped(&self, identity: &Identity, link: &ConnectionState, reason: Option<ClosedReason>);
}

/// The state of a connection that its pool can access from other tasks.
#[derive(Debug, Default)]
pub(crate) struct ConnectionState {
    flags: AtomicU8,
    /// Wakes the task that runs a command.
    waker: Mutex<Option<Waker>>,
    /// Its place among the idle connections of its server, by use; 0 while it is in use.
    pub(crate) idle_place: AtomicU64,
}

/// The pool interrupted the operation in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupted;

impl ConnectionState {
    /// Marks the connection as perished: it is not handed out again.
    pub(crate) fn mark_perished(&self) {
        self.flags.fetch_or(DOOMED, Ordering::AcqRel);
    }

    pub(crate) fn is_doomed(&self) -> bool {
        self.flags.load(Ordering::Acquire) & (DOOMED | INTERRUPTED | OUTDATED) != 0
    }

    /// Marks the connection as perished because its server has changed.
    pub(crate) fn outdate(&self) {
        self.flags.fetch_or(OUTDATED, Ordering::AcqRel);
    }

    pub(crate) fn is_outdated(&self) -> bool {
        self.flags.load(Ordering::Acquire) & OUTDATED != 0
    }

    /// Whether the connection is idle and perished, and so still occupies a slot.
    pub(crate) fn is_to_make_room(&self) -> bool {
        self.is_doomed() && self.idle_place.load(Ordering::Acquire) != 0
    }

    /// The connection leaves its pool, and lives on.
    pub(crate) fn detach(&self) {
        self.flags.fetch_or(DETACHED, Ordering::AcqRel);
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.flags.load(Ordering::Acquire) & DETACHED != 0
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.flags.load(Ordering::Acquire) & INTERRUPTED != 0
    }

    /// Fails the operation in progress on the connection, and all later ones.
    pub(crate) fn interrupt(&self) {
        self.flags.fetch_or(DOOMED | INTERRUPTED, Ordering::AcqRel);
        let waker = self.waker().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Runs a future until it completes or is [interrupted](Self::interrupt). Costs nothing if the
    /// future does not wait.
    pub(crate) async fn interruptible<F: Future>(
        &self,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, Interrupted> {
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            match self.register(context.waker()) {
                Ok(_) => Poll::Pending,
                Err(interrupted) => Poll::Ready(Err(interrupted)),
            }
        })
        .await
    }

    /// Sets the waker for an interruption. Returns whether it was registered already.
    pub(crate) fn register(&self, waker: &Waker) -> Result<bool, Interrupted> {
        // Registered before the flag is checked, so that no interruption is missed.
        let is_known = matches!(&*self.waker(), Some(known) if wakes_the_same(known, waker));
        if !is_known {
            // Cloned and dropped without the lock: a waker is application code, and may call this
            // again.
            let waker = waker.clone();
            let former = self.waker().replace(waker);
            drop(former);
        }
        match self.is_interrupted() {
            true => Err(Interrupted),
            false => Ok(is_known),
        }
    }

    fn waker(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        lock(&self.waker)
    }
}

/// `will_wake` compares vtables by address. A compiler may duplicate a vtable, and does so for the
/// task of tokio's `block_on`. So this compares their contents.
#[inline]
fn wakes_the_same(one: &Waker, other: &Waker) -> bool {
    one.data() == other.data() && one.vtable() == other.vtable()
}

/// A connection's handle to its pool.
pub(crate) struct PoolHandle {
    pub(crate) owner: Arc<dyn PoolHooks>,
    pub(crate) link: Arc<ConnectionState>,
    /// After this the connection is too old.
    pub(crate) expires: Option<Instant>,
    /// Whether the server is writable now.
    pub(crate) takes_writes: Arc<AtomicBool>,
    /// Whether it was checked out for writes.
    pub(crate) for_writes: bool,
    /// The span of the current check-out, if spans are enabled.
    pub(crate) span: Option<CheckOutSpan>,
}

impl PoolHandle {
    /// The state by which the pool, if there is one, interrupts the connection.
    #[inline]
    pub(super) fn link(this: &Option<Self>) -> Option<&ConnectionState> {
        this.as_ref().map(|this| &*this.link)
    }

    /// Checks that a command may be sent.
    #[inline]
    pub(crate) fn admit(&self) -> Result<(), Error> {
        if self.link.is_interrupted() {
            return Err(ErrorKind::ConnectionClosed(ClosedReason::Interrupted).into());
        }
        if self.for_writes && !self.takes_writes.load(Ordering::Acquire) {
            return Err(ErrorKind::NotWritable.into());
        }
        Ok(())
    }
}

impl fmt::Debug for PoolHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolHandle")
            .field("link", &self.link)
            .field("for_writes", &self.for_writes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_interrupted_at_once() {
        let link = Arc::new(ConnectionState::default());
        let (waits, interrupts) = (link.clone(), link.clone());
        let task = tokio::spawn(async move {
            waits
                .interruptible(pin!(std::future::pending::<()>()))
                .await
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!task.is_finished());
        interrupts.interrupt();
        assert_eq!(task.await.expect("no panic"), Err(Interrupted));
        let over = link.interruptible(pin!(std::future::ready(5))).await;
        assert_eq!(over, Ok(5), "what is over is not lost");
    }

    /// Interrupts the connection when it is dropped, like a waker that holds the last handle of its
    /// pool.
    struct Interrupting(Arc<ConnectionState>);

    impl std::task::Wake for Interrupting {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Interrupting {
        fn drop(&mut self) {
            self.0.interrupt();
        }
    }

    #[test]
    fn a_former_waker_is_dropped_without_the_lock() {
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let link = Arc::new(ConnectionState::default());
            let former = Waker::from(Arc::new(Interrupting(link.clone())));
            assert_eq!(link.register(&former), Ok(false));
            assert_eq!(link.register(&former), Ok(true));
            drop(former);
            done.send(link.register(Waker::noop()))
        });
        let registered = ended.recv_timeout(Duration::from_secs(10));
        assert_eq!(registered, Ok(Err(Interrupted)), "no deadlock");
    }
}
