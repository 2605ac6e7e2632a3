//! Classifies errors by the specifications of retryable reads and writes.

use mongo_core::error::{ClosedReason, Wait};
use mongo_core::{Error, ErrorKind};

/// The codes of retryable errors.
const RETRYABLE_CODES: [i32; 12] = [
    6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436,
];

pub(crate) fn is_retryable(code: i32) -> bool {
    RETRYABLE_CODES.contains(&code)
}

/// An operation that failed.
pub(crate) struct Failure {
    /// A short name, for counting.
    pub(crate) kind: String,
    pub(crate) text: String,
    /// Whether the operation may be retried.
    pub(crate) is_retryable: bool,
    /// Whether a write may have been executed anyway.
    pub(crate) is_ambiguous: bool,
}

impl Failure {
    pub(crate) fn of(error: &Error, was_sent: bool) -> Self {
        let (kind, is_retryable, is_answered) = judge(error);
        Self {
            kind,
            text: error.to_string(),
            is_retryable,
            is_ambiguous: was_sent && !is_answered,
        }
    }
}

/// A name, whether the error is retryable, and whether the operation certainly did not execute: the
/// server answered, or nothing was sent.
fn judge(error: &Error) -> (String, bool, bool) {
    match error.kind() {
        ErrorKind::Command(refusal) => {
            (refusal.code_name.clone(), is_retryable(refusal.code), true)
        }
        ErrorKind::NotWritable => ("not sent: not writable".to_owned(), true, true),
        ErrorKind::PoolCleared => ("pool cleared".to_owned(), true, true),
        ErrorKind::ServerSelection(_) => ("server selection".to_owned(), true, true),
        ErrorKind::Network(_) => ("network".to_owned(), true, false),
        ErrorKind::Connect(_) => {
            let is_retryable = error.has_label("RetryableError");
            ("connect".to_owned(), is_retryable, false)
        }
        // A cleared pool interrupts connections in use: this counts as a network failure.
        ErrorKind::ConnectionClosed(ClosedReason::Interrupted) => {
            ("interrupted".to_owned(), true, false)
        }
        ErrorKind::Timeout { wait, .. } => {
            let is_of_network = !matches!(wait, Wait::WaitQueue | Wait::Recycle);
            (format!("timed out {wait}"), is_of_network, false)
        }
        other => (format!("{other:?}"), false, false),
    }
}
