//! The time limit of an operation.
//!
//! Specification: client side operations timeout.

use std::time::Duration;

use crate::error::{Error, Wait};
use crate::reply;

/// `MaxTimeMSExpired`.
pub(super) const MAX_TIME_EXPIRED: i32 = 50;

/// The time that the server has for a command (`maxTimeMS`), of what is left of the operation's time.
/// `None` if there is no limit; an error if the reply can't arrive in time.
pub(crate) fn max_time(
    remaining: Option<Duration>,
    min_round_trip_time: Duration,
) -> Result<Option<i64>, ()> {
    let Some(remaining) = remaining else {
        return Ok(None);
    };
    let left = remaining.saturating_sub(min_round_trip_time).as_millis();
    match i32::try_from(left) {
        // Zero would be no limit.
        Ok(0) => Err(()),
        Ok(left) => Ok(Some(left.into())),
        // The most that a server accepts.
        Err(_) => Ok(Some(i32::MAX.into())),
    }
}

/// Whether the server gave up because of `maxTimeMS`, as a whole or in the write concern.
pub(crate) fn is_time_limit(error: &Error) -> bool {
    let Some(command) = error.command() else {
        return false;
    };
    let in_reply = || {
        let concern = reply::write_concern_error(&command.reply);
        concern.is_some_and(|concern| concern.code == MAX_TIME_EXPIRED)
    };
    command.code == MAX_TIME_EXPIRED || in_reply()
}

/// The error of an operation whose time is over; the cause is the error that it had.
pub(crate) fn timed_out(error: Error, after: Duration) -> Error {
    if error.is_timeout() {
        return error;
    }
    let mut timed_out = Error::timeout(Wait::Command, after);
    if let Some(server) = error.server() {
        timed_out = timed_out.at(server);
    }
    for label in error.labels() {
        timed_out = timed_out.with_label(label.to_owned());
    }
    timed_out.caused_by(Some(error))
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::error::{CommandError, ErrorKind};

    #[test]
    fn the_server_gets_the_remaining_time_less_the_round_trip() {
        let millis = Duration::from_millis;
        for (remaining, rtt, expected) in [
            (None, 5, Ok(None)),
            (Some(100), 5, Ok(Some(95))),
            (Some(100), 0, Ok(Some(100))),
            (Some(5), 5, Err(())),
            (Some(4), 5, Err(())),
        ] {
            let left = max_time(remaining.map(millis), millis(rtt));
            assert_eq!(left, expected);
        }
        let fraction = max_time(Some(Duration::from_micros(5_900)), millis(5));
        assert_eq!(fraction, Err(()), "zero milliseconds would be no limit");
    }

    #[test]
    fn code_50_is_a_time_limit() {
        let error = |code, reply| {
            Error::from(CommandError {
                code,
                code_name: String::new(),
                message: String::new(),
                reply,
            })
        };
        let nested = rawdoc! { "ok": 1, "writeConcernError": { "code": 50 } };
        assert!(is_time_limit(&error(50, rawdoc! {})));
        assert!(is_time_limit(&error(64, nested)));
        assert!(!is_time_limit(&error(11000, rawdoc! { "ok": 0 })));
        assert!(!is_time_limit(&ErrorKind::PoolCleared.into()));
    }

    #[test]
    fn a_time_out_keeps_labels_and_names_its_cause() {
        let error = Error::from(ErrorKind::PoolCleared).with_label("RetryableWriteError");
        let timed_out = timed_out(error, Duration::from_secs(1));
        assert!(timed_out.is_timeout() && timed_out.has_label("RetryableWriteError"));
        let cause = timed_out.cause().map(Error::kind);
        assert!(matches!(cause, Some(ErrorKind::PoolCleared)));
    }
}
