use mongo_core::{Error, ErrorKind};

/// What a client is told of an error: nothing of the deployment, which is for the log.
///
/// A 503 invites to a repeat, though the request may have been carried out already: an answer that
/// got lost tells nothing. That is right because every request of these services may be repeated: a
/// note is put under a name that the client has chosen. One that may not, such as a `POST` that
/// inserts under a new `_id`, had better get a 500, but where nothing was sent: see
/// [`Error::is_retryable_write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status: 503 if the request may well succeed in a moment, else 500.
    pub status: u16,
    /// For the header `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
    /// The body.
    pub text: &'static str,
}

impl Answer {
    /// The answer to a request that this error ended.
    pub fn new(error: &Error) -> Self {
        match may_pass(error) {
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

fn may_pass(error: &Error) -> bool {
    let is_wait = matches!(
        error.kind(),
        ErrorKind::ServerSelection(_)
            | ErrorKind::Timeout { .. }
            | ErrorKind::Dns(_)
            | ErrorKind::PoolClosed
    );
    is_wait || error.is_retryable_read() || error.is_retryable_write()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mongo_core::error::{ClosedReason, Wait};
    use mongo_core::sdam::{RETRYABLE_ERROR, SYSTEM_OVERLOADED_ERROR};

    use super::*;

    #[test]
    fn only_what_may_pass_is_to_be_sent_again() {
        let answer = |error: Error| Answer::new(&error);
        let timed_out = Error::timeout(Wait::WaitQueue, Duration::from_secs(1));
        for error in [
            timed_out,
            ErrorKind::PoolCleared.into(),
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
