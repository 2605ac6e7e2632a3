//! Whether a failed operation can be retried.

use bson::{RawBsonRef, RawDocument};

use super::{AuthError, CommandError, Error, ErrorKind, HandshakeError, is_network_error};

/// The server's error codes after which a read can be retried.
const RETRYABLE_READ: [i32; 13] = [
    6, 7, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436,
];

/// The label of an error that an overloaded server caused.
pub const SYSTEM_OVERLOADED_ERROR: &str = "SystemOverloadedError";

/// The label of an error after which any operation can be retried.
pub const RETRYABLE_ERROR: &str = "RetryableError";

/// The label of an error after which the whole transaction can be run again.
pub const TRANSIENT_TRANSACTION_ERROR: &str = "TransientTransactionError";

/// The server's error codes for a duplicate key, also those of old servers.
const DUPLICATE_KEY: [i32; 3] = [11000, 11001, 12582];

/// The label of errors after which a write can be retried.
pub(crate) const RETRYABLE_WRITE: &str = "RetryableWriteError";

/// The code of an error that only reads can get.
#[cfg(feature = "net")]
const READ_CONCERN_MAJORITY_NOT_AVAILABLE_YET: i32 = 134;

/// From this wire version on (MongoDB 4.4) servers label their errors themselves.
#[cfg(feature = "net")]
pub(crate) const LABELS_WRITE_ERRORS: i32 = 9;

impl Error {
    /// Whether a read that failed with this error can be retried, after another server selection:
    /// the network failed, a connection was closed, a pool was cleared, or the server's error code
    /// is retryable. A time-out of the wait for a connection or for a server is not retryable.
    ///
    /// The label `RetryableError` counts only beside `SystemOverloadedError`.
    ///
    /// Specifications: retryable reads, "Retryable Error"; client backpressure.
    pub fn is_retryable_read(&self) -> bool {
        match self.kind() {
            _ if self.is_retryable_overload() => true,
            ErrorKind::ConnectionClosed(_) | ErrorKind::PoolCleared | ErrorKind::NotWritable => {
                true
            }
            ErrorKind::Command(CommandError { code, .. })
            | ErrorKind::Handshake(HandshakeError::Refused { code, .. })
            | ErrorKind::Authentication(AuthError::Refused { code, .. }) => {
                RETRYABLE_READ.contains(code)
            }
            _ => is_network_error(self),
        }
    }

    /// Whether a write that failed with this error can be retried, after another server selection.
    /// It is as with [`is_retryable_read`](Self::is_retryable_read), but an error reply of the
    /// server counts only with the label `RetryableWriteError`. Network errors have that label as
    /// the specification requires: those of a check-out always, those of a command if it is a
    /// retryable write, and none with `retryWrites=false`.
    ///
    /// The server prevents a second execution only if the command has an `lsid` and a `txnNumber`.
    /// Any other write may have been executed, except with [`ErrorKind::PoolCleared`],
    /// [`ErrorKind::NotWritable`], [`ErrorKind::ConnectionClosed`] for any reason but
    /// [`Interrupted`](super::ClosedReason::Interrupted) and
    /// [`RuntimeEnded`](super::ClosedReason::RuntimeEnded), and the errors of a check-out: with
    /// those, nothing was sent.
    ///
    /// Specification: retryable writes, "Determining Retryable Errors".
    pub fn is_retryable_write(&self) -> bool {
        match self.kind() {
            ErrorKind::Command(_) => {
                self.has_label(RETRYABLE_WRITE) || self.is_retryable_overload()
            }
            _ => self.has_label(RETRYABLE_WRITE) || self.is_retryable_read(),
        }
    }

    /// Whether a write failed because of a duplicate key (codes 11000, 11001 and 12582). For the
    /// error of [`check_write`](crate::Reply::check_write) it is so if any of the reply's
    /// `writeErrors` has such a code, not only the first.
    pub fn is_duplicate_key(&self) -> bool {
        self.command().is_some_and(|error| {
            DUPLICATE_KEY.contains(&error.code) || has_duplicate_key(&error.reply)
        })
    }

    /// Whether the server was overloaded and allows a retry of any command, after a backoff.
    ///
    /// Specification: client backpressure, "Retryable Overload Error".
    pub(crate) fn is_retryable_overload(&self) -> bool {
        self.has_label(SYSTEM_OVERLOADED_ERROR) && self.has_label(RETRYABLE_ERROR)
    }

    /// Whether the client adds the label `RetryableWriteError` if a retryable write fails with this
    /// error, on a server of this wire version.
    ///
    /// Specification: retryable writes, "RetryableWriteError Labels".
    #[cfg(feature = "net")]
    pub(crate) fn fails_writes_retryably(&self, max_wire_version: i32) -> bool {
        match self.kind() {
            ErrorKind::PoolCleared => true,
            ErrorKind::ConnectionClosed(reason) => {
                matches!(reason, super::ClosedReason::Interrupted)
            }
            ErrorKind::Command(CommandError { code, .. }) => {
                max_wire_version < LABELS_WRITE_ERRORS && is_retryable_write(*code)
            }
            _ => is_network_error(self),
        }
    }

    /// Labels the `writeConcernError` of a server that labels none itself.
    #[cfg(feature = "net")]
    pub(crate) fn of_write_concern(self) -> Self {
        match self.code().is_some_and(is_retryable_write) {
            true => self.with_label(RETRYABLE_WRITE),
            false => self,
        }
    }

    /// Labels the error of a check-out, if the write that it was for can be retried.
    #[cfg(feature = "net")]
    pub(crate) fn of_check_out(self, retries_writes: bool) -> Self {
        match retries_writes && self.fails_writes_retryably(LABELS_WRITE_ERRORS) {
            true => self.with_label(RETRYABLE_WRITE),
            false => self,
        }
    }
}

/// Whether one of a reply's `writeErrors` is that of a duplicate key.
fn has_duplicate_key(reply: &RawDocument) -> bool {
    let Ok(errors) = reply.get_array("writeErrors") else {
        return false;
    };
    let mut errors = errors.into_iter().map_while(Result::ok);
    errors.any(|error| {
        let code = error
            .as_document()
            .and_then(|error| error.get("code").ok()?);
        let code = code.and_then(|code| match code {
            RawBsonRef::Int32(code) => Some(code),
            RawBsonRef::Int64(code) => i32::try_from(code).ok(),
            RawBsonRef::Double(code) => Some(code as i32),
            _ => None,
        });
        code.is_some_and(|code| DUPLICATE_KEY.contains(&code))
    })
}

/// Whether a write can be tried again after a code of a server before 4.4.
#[cfg(feature = "net")]
fn is_retryable_write(code: i32) -> bool {
    code != READ_CONCERN_MAJORITY_NOT_AVAILABLE_YET && RETRYABLE_READ.contains(&code)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use bson::{RawBson, rawdoc};

    use super::*;
    use crate::error::{ClosedReason, Wait};

    pub(crate) fn refusal(code: i32) -> Error {
        ErrorKind::Command(CommandError {
            code,
            code_name: String::new(),
            message: String::new(),
            reply: rawdoc! {},
        })
        .into()
    }

    pub(crate) fn timeout(wait: Wait) -> Error {
        Error::timeout(wait, Duration::from_secs(1))
    }

    #[test]
    fn answers_are_retried_by_code_and_by_label() {
        let not_primary = refusal(10107);
        assert!(not_primary.is_retryable_read() && !not_primary.is_retryable_write());
        let labelled = refusal(10107).with_label(RETRYABLE_WRITE);
        assert!(labelled.is_retryable_write());
        let duplicate_key = refusal(11000);
        assert!(!duplicate_key.is_retryable_read() && !duplicate_key.is_retryable_write());
        let no_majority = refusal(134);
        assert!(no_majority.is_retryable_read() && !no_majority.is_retryable_write());
    }

    #[test]
    fn failures_of_the_network_are_retried() {
        let reset = || Arc::new(io::Error::from(io::ErrorKind::ConnectionReset));
        let kinds = [
            ErrorKind::Network(reset()),
            ErrorKind::Connect(reset()),
            ErrorKind::ConnectionClosed(ClosedReason::Interrupted),
            ErrorKind::PoolCleared,
            ErrorKind::NotWritable,
        ];
        for error in kinds.map(Error::from).into_iter().chain([
            timeout(Wait::Command),
            timeout(Wait::Handshake),
            ErrorKind::Pool(String::new()).into(),
        ]) {
            let expected = !matches!(error.kind(), ErrorKind::Pool(_));
            assert_eq!(error.is_retryable_read(), expected, "{error}");
            assert_eq!(error.is_retryable_write(), expected, "{error}");
        }
    }

    #[test]
    fn time_outs_of_the_clients_own_waits_are_not_retried() {
        for wait in [Wait::WaitQueue, Wait::Dns, Wait::Credential] {
            assert!(!timeout(wait).is_retryable_read(), "{wait}");
            assert!(!timeout(wait).is_retryable_write(), "{wait}");
        }
        let half = timeout(Wait::WaitQueue).with_label(RETRYABLE_ERROR);
        assert!(!half.is_retryable_read() && !half.is_retryable_write());
        let overloaded = half.with_label(SYSTEM_OVERLOADED_ERROR);
        assert!(overloaded.is_retryable_read() && overloaded.is_retryable_write());
    }

    #[test]
    fn any_write_error_may_be_that_of_a_duplicate_key() {
        for code in [11000, 11001, 12582] {
            assert!(refusal(code).is_duplicate_key());
        }
        assert!(!refusal(121).is_duplicate_key());
        assert!(!Error::from(ErrorKind::PoolCleared).is_duplicate_key());
        let written = |codes: [i32; 2]| {
            let [first, second] = codes.map(|code| rawdoc! { "index": 0, "code": code });
            let reply = rawdoc! { "ok": 1, "n": 0, "writeErrors": [first, second] };
            crate::reply::check_write(&reply).expect_err("write errors")
        };
        assert!(written([11000, 121]).is_duplicate_key());
        let second = written([121, 11000]);
        assert!(second.code() == Some(121) && second.is_duplicate_key());
        assert!(!written([121, 2]).is_duplicate_key());
        let concern = rawdoc! { "ok": 1, "writeConcernError": { "code": 64 } };
        let concern = crate::reply::check_write(&concern).expect_err("a write concern");
        assert!(!concern.is_duplicate_key());
    }

    #[test]
    fn any_number_may_be_the_code_of_a_duplicate_key() {
        let codes = [
            RawBson::Int32(11000),
            RawBson::Int64(11000),
            RawBson::Double(11000.0),
        ];
        for code in codes {
            let duplicate = || rawdoc! { "index": 1, "code": code.clone() };
            let invalid = rawdoc! { "index": 0, "code": 121 };
            let first = rawdoc! { "ok": 1, "n": 0, "writeErrors": [duplicate()] };
            let second = rawdoc! { "ok": 1, "n": 0, "writeErrors": [invalid, duplicate()] };
            for reply in [first, second] {
                let error = crate::reply::check_write(&reply).expect_err("write errors");
                assert!(error.is_duplicate_key(), "{error:?}");
            }
        }
    }

    #[test]
    fn an_answer_to_the_handshake_counts_by_its_code() {
        let refused = |code| {
            Error::from(ErrorKind::Handshake(HandshakeError::Refused {
                code,
                code_name: String::new(),
                message: String::new(),
                labels: Vec::new(),
            }))
        };
        assert!(refused(91).is_retryable_read() && refused(91).is_retryable_write());
        assert!(!refused(13).is_retryable_read());
    }
}
