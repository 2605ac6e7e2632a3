use mongo_core::sdam::RETRYABLE_ERROR;
use mongo_core::{Error, ErrorKind};

/// Of servers that step down, shut down or recover: not the right one now.
const STATE_CHANGES: [i32; 8] = [91, 189, 10058, 10107, 11600, 11602, 13435, 13436];

/// What a client is told of an error: nothing of the deployment, which is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status: 503 if the request may be sent again, else 500.
    pub status: u16,
    /// For the header `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
    /// The body.
    pub text: &'static str,
}

impl Answer {
    /// The answer to a request that this error ended.
    pub fn new(error: &Error) -> Self {
        match is_transient(error) {
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

/// Whether the same request may well succeed in a moment. It may have been carried out already: what
/// is sent again had better be idempotent.
fn is_transient(error: &Error) -> bool {
    let labels = [RETRYABLE_ERROR, "RetryableReadError", "RetryableWriteError"];
    match error.kind() {
        ErrorKind::ServerSelection(_)
        | ErrorKind::Timeout { .. }
        | ErrorKind::Connect(_)
        | ErrorKind::Network(_)
        | ErrorKind::ConnectionClosed(_)
        | ErrorKind::NotWritable
        | ErrorKind::PoolCleared
        | ErrorKind::PoolClosed => true,
        ErrorKind::Command(error) if STATE_CHANGES.contains(&error.code) => true,
        _ => labels.iter().any(|label| error.has_label(label)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mongo_core::error::Wait;

    use super::*;

    #[test]
    fn only_what_may_pass_is_to_be_sent_again() {
        let answer = |error: Error| Answer::new(&error);
        let timed_out = Error::timeout(Wait::WaitQueue, Duration::from_secs(1));
        for error in [
            timed_out,
            ErrorKind::PoolCleared.into(),
            Error::configuration("x").with_label(RETRYABLE_ERROR),
        ] {
            let answer = answer(error);
            assert_eq!((answer.status, answer.retry_after), (503, Some(1)));
        }
        let answer = answer(Error::configuration("the password is s3cret"));
        assert_eq!((answer.status, answer.retry_after), (500, None));
        assert!(!answer.text.contains("s3cret"));
    }
}
