//! Check-outs that do not wait.

use std::cell::Cell;
use std::ptr;
use std::time::Duration;

use crate::Timeouts;

/// Makes deadpool try without waiting for a slot, and without timers of its own.
pub(crate) const AT_ONCE: Timeouts = Timeouts {
    wait: Some(Duration::ZERO),
    create: None,
    recycle: None,
};

thread_local! {
    /// The manager of the pool whose non-waiting check-out is being polled.
    static NOW: Cell<*const ()> = const { Cell::new(ptr::null()) };
}

/// Restores the former value: a handler may call this pool or another one during the check-out.
struct Restore(*const ());

impl Drop for Restore {
    fn drop(&mut self) {
        NOW.set(self.0);
    }
}

/// Polls a check-out of a manager's pool that does not wait.
#[inline]
pub(crate) fn poll_at_once<M, R>(manager: &M, poll: impl FnOnce() -> R) -> R {
    let _restore = Restore(NOW.replace(ptr::from_ref(manager).cast()));
    poll()
}

/// Polls a check-out that may wait, even if a handler polls it during one that does not.
pub(crate) fn may_wait<R>(poll: impl FnOnce() -> R) -> R {
    let _restore = Restore(NOW.replace(ptr::null()));
    poll()
}

/// Whether the current thread polls a non-waiting check-out of this manager's pool.
#[inline]
pub(crate) fn is_at_once<M>(manager: &M) -> bool {
    ptr::eq(NOW.get(), ptr::from_ref(manager).cast())
}
