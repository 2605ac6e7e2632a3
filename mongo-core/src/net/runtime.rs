//! Detects the drivers of the current runtime. tokio has no query for them, and panics if one is
//! missing.

use std::cell::Cell;
use std::io;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::{Error, Result};

/// The maximum number of remembered runtimes without a driver.
const REMEMBERED: usize = 16;

/// Runtimes that lack a driver. Detecting that costs a panic, which the process's panic hook
/// reports; so it is done once for each runtime and driver. tokio numbers runtimes and does not
/// reuse a number.
static LACKING: Mutex<Vec<(Id, Driver)>> = Mutex::new(Vec::new());

/// Whether any runtime lacks a driver.
static IS_ANY_LACKING: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The runtime whose I/O driver this thread has found last: registering a socket costs several
    /// system calls.
    static HAS_IO: Cell<Option<Id>> = const { Cell::new(None) };
}

/// A driver that a runtime's builder may leave out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    Time,
    Io,
}

/// The current runtime, if it has a timer.
///
/// # Errors
/// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if there is no runtime, or if it
/// has no timer.
pub(crate) fn current() -> Result<Handle> {
    let runtime = within_tokio()?;
    match timer(&runtime, Instant::now()) {
        Some(_) => Ok(runtime),
        None => Err(Error::configuration(
            "the Tokio runtime has no timer; call `enable_time` or `enable_all` on its builder",
        )),
    }
}

/// Checks that sockets can be opened on the current runtime.
///
/// # Errors
/// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if there is no runtime, or if it
/// has no I/O driver.
pub(super) fn check_io() -> Result<()> {
    let runtime = within_tokio()?;
    let id = Some(runtime.id());
    if HAS_IO.get() == id {
        return Ok(());
    }
    match Driver::Io.of(&runtime, register) {
        Some(_) => {
            HAS_IO.set(id);
            Ok(())
        }
        None => Err(Error::configuration(
            "the Tokio runtime has no I/O driver; call `enable_io` or `enable_all` on its builder",
        )),
    }
}

/// A timer of a runtime; `None` if the runtime has no timer. Must be called within that runtime.
pub(super) fn timer(runtime: &Handle, at: Instant) -> Option<Sleep> {
    Driver::Time.of(runtime, move || sleep_until(at))
}

/// The current runtime, if there is one.
pub(super) fn polling() -> Option<Handle> {
    Handle::try_current().ok()
}

fn within_tokio() -> Result<Handle> {
    polling().ok_or_else(|| Error::configuration("must be called within a Tokio runtime"))
}

/// Registers an unused socket with the reactor. It does not matter whether it can be opened.
fn register() -> io::Result<()> {
    #[cfg(unix)]
    return tokio::net::UnixDatagram::unbound().map(drop);
    #[cfg(not(unix))]
    {
        let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        tokio::net::UdpSocket::from_std(socket).map(drop)
    }
}

impl Driver {
    /// The result of `ask`, which uses this driver of a runtime; `None` if it panics because the
    /// driver is missing.
    fn of<R>(
        self,
        runtime: &Handle,
        ask: impl FnOnce() -> R + std::panic::UnwindSafe,
    ) -> Option<R> {
        let lacking = (runtime.id(), self);
        if IS_ANY_LACKING.load(Ordering::Acquire) && remembered().contains(&lacking) {
            return None;
        }
        let asked = catch_unwind(ask);
        if asked.is_err() {
            let mut remembered = remembered();
            if remembered.len() >= REMEMBERED {
                remembered.remove(0);
            }
            remembered.push(lacking);
            IS_ANY_LACKING.store(true, Ordering::Release);
        }
        asked.ok()
    }
}

fn remembered() -> MutexGuard<'static, Vec<(Id, Driver)>> {
    LACKING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    fn found(build: impl FnOnce(&mut Builder) -> &mut Builder) -> (Option<String>, Option<String>) {
        let runtime = build(&mut Builder::new_current_thread())
            .build()
            .expect("a runtime");
        let text = |error: Error| error.to_string();
        runtime.block_on(async {
            // Twice, because the second call uses the remembered result.
            let _ = (current(), check_io());
            (current().err().map(text), check_io().err().map(text))
        })
    }

    #[test]
    fn a_missing_driver_is_named() {
        let says =
            |text: &Option<String>, what| text.as_ref().is_some_and(|text| text.contains(what));
        assert_eq!(found(|builder| builder.enable_all()), (None, None));
        let (time, io) = found(|builder| builder);
        assert!(says(&time, "enable_time") && says(&io, "enable_io"));
        let (time, io) = found(|builder| builder.enable_io());
        assert!(says(&time, "enable_time") && io.is_none());
        let (time, io) = found(|builder| builder.enable_time());
        assert!(time.is_none() && says(&io, "enable_io"));
    }

    #[test]
    fn outside_of_a_runtime_that_is_said() {
        for error in [current().err(), check_io().err()] {
            let text = error.expect("no runtime").to_string();
            assert!(text.contains("within a Tokio runtime"), "{text}");
        }
    }
}
