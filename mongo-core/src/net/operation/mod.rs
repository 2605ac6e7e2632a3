//! Operations: their time, and those on a connection in hand.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Result, Wait};
use crate::net::deadline::{Deadline, sleep_until};
use crate::operation::{Facts, Request, is_time_limit, max_time, may_have_been_sent, timed_out};

pub(super) mod attempt;
pub(super) mod connection;
pub(super) mod cursor;

/// The time limits of an operation.
// Not exported; public for the sealed trait of cursors.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The `timeoutMS`; zero is unlimited.
    timeout: Option<Duration>,
    /// It never passes if there is no limit.
    pub(crate) deadline: Deadline,
}

impl Limits {
    /// Limits by a `timeoutMS`; zero is unlimited.
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        let limit = timeout.filter(|limit| !limit.is_zero());
        Self {
            timeout,
            deadline: limit.map_or_else(Deadline::never, Deadline::after),
        }
    }

    /// The same limits from now on.
    pub(crate) fn renewed(&self) -> Self {
        Self::new(self.timeout)
    }

    /// Whether there is a `timeoutMS`, even an unlimited one.
    pub(crate) fn has_timeout(&self) -> bool {
        self.timeout.is_some()
    }

    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.deadline.remaining()
    }

    /// Runs a future until the deadline.
    pub(crate) async fn bound<F: Future>(&self, future: F) -> Option<F::Output> {
        self.deadline.bound(future).await.ok()
    }

    /// The deadline of a command; `None` leaves it to the connection.
    pub(crate) fn of_command(&self) -> Option<Deadline> {
        self.has_timeout().then_some(self.deadline)
    }

    /// Limits the time of a request's command on the server.
    ///
    /// # Errors
    /// Too little is left for a round trip.
    pub(crate) fn apply(
        &self,
        request: &Request,
        min_rtt: Duration,
        facts: &mut Facts,
    ) -> Result<()> {
        let time = max_time(self.remaining(), min_rtt)
            .map_err(|()| Error::timeout(Wait::Command, self.deadline.elapsed()))?;
        facts.max_time = time.filter(|_| request.sends_max_time());
        facts.has_timeout = self.has_timeout();
        Ok(())
    }

    /// The error of the operation: if its time is over, a time-out.
    pub(crate) fn conclude(&self, error: Error) -> Error {
        match self.has_timeout() && (self.deadline.is_over() || is_time_limit(&error)) {
            true => timed_out(error, self.deadline.elapsed()),
            false => error,
        }
    }
}

/// Whether a command that failed with this error may have reached the server.
pub(crate) fn was_sent(error: &Error, is_closed: bool) -> bool {
    match error.kind() {
        // A command that is too long leaves the connection open.
        crate::ErrorKind::Protocol(_) => is_closed,
        _ => may_have_been_sent(error),
    }
}

/// The random part of a session's id.
pub(crate) fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    // Without the system's randomness nothing else works either: no nonce, no TLS.
    let _ = getrandom::fill(&mut id);
    id
}

/// A random number from 0 to 1.
pub(crate) fn jitter(random: u64) -> f64 {
    f64::from((random >> 32) as u32) / f64::from(u32::MAX)
}

/// The pause before a retry.
pub(crate) async fn wait(pause: Duration) {
    if !pause.is_zero() {
        sleep_until(Instant::now() + pause).await;
    }
}
