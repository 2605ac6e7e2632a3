use mongo_core::{Error, ErrorKind};

/// The HTTP response to an error. It says nothing about the deployment; details are only in the
/// log.
///
/// A 503 invites the client to retry, although the request may have been executed: its reply may
/// have been lost. This is safe because all requests of these services are idempotent: the client
/// chooses the name of a note. A request that is not idempotent, such as a `POST` that inserts
/// under a new `_id`, should get a 500, unless nothing was sent: see [`Error::is_retryable_write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status: 503 if the error is transient, else 500.
    pub status: u16,
    /// For the header `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
    /// The body.
    pub text: &'static str,
}

impl Answer {
    /// The response to a request that failed with this error.
    pub fn new(error: &Error) -> Self {
        // The pools are closed at shutdown: another instance may answer.
        let is_closed = matches!(error.kind(), ErrorKind::PoolClosed);
        match is_closed || error.is_transient() {
            true => Self {
                status: 503,
                retry_after: Some(1),
                text: "the database is not available\n",
            },
            false => Self {
                status: 500,
                retry_after: None,
                text: "the request failed\n",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mongo_core::error::{ClosedReason, Wait};
    use mongo_core::sdam::{RETRYABLE_ERROR, SYSTEM_OVERLOADED_ERROR};

    use super::*;

    #[test]
    fn only_temporary_errors_ask_for_another_request() {
        let answer = |error: Error| Answer::new(&error);
        let timed_out = Error::timeout(Wait::WaitQueue, Duration::from_secs(1));
        for error in [
            timed_out,
            ErrorKind::PoolCleared.into(),
            ErrorKind::PoolClosed.into(),
            ErrorKind::ConnectionClosed(ClosedReason::Interrupted).into(),
            Error::configuration("x")
                .with_label(RETRYABLE_ERROR)
                .with_label(SYSTEM_OVERLOADED_ERROR),
        ] {
            let answer = answer(error);
            assert_eq!((answer.status, answer.retry_after), (503, Some(1)));
        }
        let answer = answer(Error::configuration("the password is s3cret"));
        assert_eq!((answer.status, answer.retry_after), (500, None));
        assert!(!answer.text.contains("s3cret"));
    }
}
