//! Whether a failed operation is tried again.

use std::time::Duration;

use super::request::{OperationKind, Request};
use crate::ServerAddress;
use crate::error::{ClosedReason, Error, ErrorKind, RETRYABLE_ERROR, SYSTEM_OVERLOADED_ERROR};
use crate::uri::ClientOptions;

/// The label of a server's error that says that nothing was written.
const NO_WRITES_PERFORMED: &str = "NoWritesPerformed";

/// The first pause after an overload, doubled by each further one.
const BASE_BACKOFF: Duration = Duration::from_millis(100);

const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// What the retries of an operation depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryOptions {
    /// What the operation does.
    pub kind: OperationKind,
    /// Whether it is retried after an error that a retry may mend: for a read with `retryReads`, for
    /// a write with `retryWrites` and a `txnNumber`; neither in a transaction nor for `getMore`.
    pub retries_errors: bool,
    /// Whether it is retried if an overloaded server refused it.
    pub retries_overload: bool,
    /// How often it is retried at most once an overloaded server refused it (`maxAdaptiveRetries`).
    pub max_adaptive_retries: u32,
    /// Whether such a retry avoids that server (`enableOverloadRetargeting`).
    pub enable_overload_retargeting: bool,
    /// Whether the operation has a time limit (`timeoutMS`): it is retried as often as there is time,
    /// and otherwise once.
    pub has_timeout: bool,
}

impl RetryOptions {
    /// The retries of an operation outside of transactions, by the options of a client. A write must
    /// have a `txnNumber`.
    pub fn new(kind: OperationKind, options: &ClientOptions) -> Self {
        let has_timeout = options.timeout.is_some();
        Self::of(kind, &super::Defaults::of(options), has_timeout)
    }

    pub(crate) fn of(kind: OperationKind, defaults: &super::Defaults, has_timeout: bool) -> Self {
        let (reads, writes) = (defaults.retry_reads, defaults.retry_writes);
        let (retries_errors, retries_overload) = match kind {
            OperationKind::Command => (false, reads && writes),
            OperationKind::Read => (reads, reads),
            OperationKind::Write => (writes, writes),
        };
        Self {
            kind,
            retries_errors,
            retries_overload,
            max_adaptive_retries: defaults.max_adaptive_retries,
            enable_overload_retargeting: defaults.enable_overload_retargeting,
            has_timeout,
        }
    }

    /// The retries of a request, which may be a command in a transaction.
    pub(crate) fn of_request(
        request: &Request,
        defaults: &super::Defaults,
        has_timeout: bool,
        in_transaction: bool,
    ) -> Self {
        let mut options = Self::of(request.kind, defaults, has_timeout);
        let is_retryable = request.is_retryable && !request.is_unacknowledged(defaults);
        options.retries_errors &= is_retryable && !in_transaction;
        if request.ending.is_some() {
            (options.retries_errors, options.retries_overload) = (true, true);
        }
        options
    }
}

/// A failed attempt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Its error.
    pub error: Error,
    /// The server of the attempt, if one was selected.
    pub server: Option<ServerAddress>,
    /// Whether the deployment is a sharded cluster.
    pub is_sharded: bool,
    /// Whether the command may have reached the server.
    pub was_sent: bool,
    /// The time that is left of the operation's limit.
    pub remaining: Option<Duration>,
    /// A random number from 0 to 1.
    pub jitter: f64,
}

impl Failure {
    /// The failure of a check-out.
    pub fn of_check_out(error: Error) -> Self {
        Self {
            server: error.server().cloned(),
            was_sent: false,
            is_sharded: false,
            remaining: None,
            jitter: 1.0,
            error,
        }
    }

    /// The failure of a command.
    pub fn of_command(error: Error) -> Self {
        Self {
            was_sent: may_have_been_sent(&error),
            ..Self::of_check_out(error)
        }
    }
}

/// Whether a command that failed with this error may have reached the server.
pub(crate) fn may_have_been_sent(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::ConnectionClosed(reason) => matches!(
            reason,
            ClosedReason::Interrupted | ClosedReason::RuntimeEnded
        ),
        ErrorKind::NotWritable
        | ErrorKind::PoolCleared
        | ErrorKind::PoolClosed
        | ErrorKind::ServerSelection(_)
        | ErrorKind::Configuration(_)
        | ErrorKind::Serialization(_) => false,
        _ => true,
    }
}

/// What to do after a failed attempt.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Try again after a pause, and avoid the [deprioritized](Retry::deprioritized) servers. A write
    /// keeps its `txnNumber`.
    Again {
        /// The pause; zero unless the server was overloaded.
        pause: Duration,
    },
    /// The operation has failed with this error, which may be that of an earlier attempt.
    Stop(Error),
}

/// The retries of one operation: a decision for each failed attempt, by the specifications
/// retryable reads, retryable writes and client backpressure.
#[derive(Clone, Debug)]
pub struct Retry {
    options: RetryOptions,
    retries: u32,
    /// Whether an overloaded server has refused an attempt.
    was_overloaded: bool,
    deprioritized: Vec<ServerAddress>,
    kept: Option<Error>,
}

impl Retry {
    /// An operation without failures.
    pub fn new(options: RetryOptions) -> Self {
        Self {
            options,
            retries: 0,
            was_overloaded: false,
            deprioritized: Vec::new(),
            kept: None,
        }
    }

    /// The servers to avoid.
    pub fn deprioritized(&self) -> &[ServerAddress] {
        &self.deprioritized
    }

    /// Avoids a server from the start.
    pub fn deprioritize(&mut self, server: ServerAddress) {
        if !self.deprioritized.contains(&server) {
            self.deprioritized.push(server);
        }
    }

    /// The operation turned out not to be retryable, except after an overload: its write has no
    /// number.
    pub fn forbid(&mut self) {
        self.options.retries_errors = false;
    }

    /// Decides after a failed attempt.
    pub fn failed(&mut self, failure: Failure) -> Verdict {
        let error = failure.error;
        let is_overload = error.has_label(SYSTEM_OVERLOADED_ERROR);
        let is_retryable = match is_overload && error.has_label(RETRYABLE_ERROR) {
            true => self.options.retries_overload,
            false if !self.options.retries_errors => false,
            false => match self.options.kind {
                OperationKind::Command => false,
                OperationKind::Read => error.is_retryable_read(),
                OperationKind::Write => error.is_retryable_write(),
            },
        };
        self.was_overloaded |= is_overload;
        let base = base_backoff(&error);
        let is_attempt = failure.was_sent && !error.has_label(NO_WRITES_PERFORMED);
        // The last error of an attempt that may have had an effect counts, else the first error.
        if is_attempt || self.kept.is_none() {
            self.kept = Some(error.clone());
        }
        if !is_retryable || self.retries >= self.allowed() {
            return Verdict::Stop(self.stop(error));
        }
        self.retries += 1;
        let pause = match is_overload {
            true => backoff(base, self.retries, failure.jitter),
            false => Duration::ZERO,
        };
        if failure.remaining.is_some_and(|left| left <= pause) {
            return Verdict::Stop(self.stop(error));
        }
        let retargets = is_overload && self.options.enable_overload_retargeting;
        if let Some(server) = failure.server.filter(|_| failure.is_sharded || retargets) {
            self.deprioritize(server);
        }
        Verdict::Again { pause }
    }

    /// The error of the operation if no further attempt can be made, with its last error.
    pub fn stop(&self, error: Error) -> Error {
        self.kept.clone().unwrap_or(error)
    }

    fn allowed(&self) -> u32 {
        match (self.was_overloaded, self.options.has_timeout) {
            (true, _) => self.options.max_adaptive_retries,
            (false, true) => u32::MAX,
            (false, false) => 1,
        }
    }
}

/// The server's own base of the pause, if it sent one.
fn base_backoff(error: &Error) -> Duration {
    let reply = error.command().map(|error| &error.reply);
    let number = reply.and_then(|reply| reply.get("baseBackoffMS").ok().flatten());
    let millis = number.and_then(|number| {
        let whole = number.as_i32().map(i64::from).or(number.as_i64());
        whole.or_else(|| number.as_f64().map(|number| number as i64))
    });
    match millis.and_then(|millis| u64::try_from(millis).ok()) {
        Some(millis) if millis > 0 => Duration::from_millis(millis),
        _ => BASE_BACKOFF,
    }
}

/// The pause before a retry; the first retry is number 1.
fn backoff(base: Duration, retry: u32, jitter: f64) -> Duration {
    let factor = 2_u32.checked_pow(retry).unwrap_or(u32::MAX);
    base.saturating_mul(factor)
        .min(MAX_BACKOFF)
        .mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests;
