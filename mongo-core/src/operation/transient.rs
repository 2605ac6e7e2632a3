//! Whether the cause of an error may pass.

use crate::error::{Error, ErrorKind, TRANSIENT_TRANSACTION_ERROR};
use crate::select::SelectionError;

impl Error {
    /// Whether the cause may pass: the same operation, run again later, may succeed. That is a
    /// [retryable](Self::is_retryable_read) error, a time-out, a failed lookup of an address, a
    /// selection that found no suitable server in time, or an error with the label
    /// `TransientTransactionError`. An error of `on_connect` counts as what it contains. Closed
    /// pools and topologies, refused credentials and options, and other errors of commands do not
    /// pass.
    ///
    /// For the answer of a service (503 or 500), and for loops over operations that may be executed
    /// twice: this says nothing about whether the operation was executed (see
    /// [`is_retryable_write`](Self::is_retryable_write)). After a commit with the label
    /// `UnknownTransactionCommitResult`, only the commit may be run again.
    pub fn is_transient(&self) -> bool {
        match self.kind() {
            ErrorKind::Timeout { .. } | ErrorKind::Dns(_) => true,
            ErrorKind::ServerSelection(_) => matches!(
                SelectionError::of(self),
                Some(SelectionError::NoSuitableServer(_))
            ),
            ErrorKind::OnConnect(error) => {
                let own = error.downcast_ref::<Self>();
                own.is_some_and(Self::is_transient)
            }
            _ => {
                self.is_retryable_read()
                    || self.is_retryable_write()
                    || self.has_label(TRANSIENT_TRANSACTION_ERROR)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::error::{
        ClosedReason, RETRYABLE_ERROR, SYSTEM_OVERLOADED_ERROR, Wait, refusal, timeout,
    };

    #[test]
    fn a_cause_that_may_pass_is_transient() {
        let on_connect = |error: Error| Error::from(ErrorKind::OnConnect(Arc::new(error)));
        for error in [
            refusal(10107),
            refusal(251).with_label(TRANSIENT_TRANSACTION_ERROR),
            refusal(462)
                .with_label(RETRYABLE_ERROR)
                .with_label(SYSTEM_OVERLOADED_ERROR),
            timeout(Wait::WaitQueue),
            timeout(Wait::Command).caused_by(Some(refusal(11000))),
            ErrorKind::PoolCleared.into(),
            ErrorKind::ConnectionClosed(ClosedReason::Interrupted).into(),
            ErrorKind::Dns(Arc::new(io::Error::other("no answer"))).into(),
            on_connect(refusal(10107)),
        ] {
            assert!(error.is_transient(), "{error}");
        }
        let too_small = SelectionError::MaxStalenessTooSmall {
            limit: Duration::ZERO,
            smallest: Duration::ZERO,
        };
        for error in [
            refusal(11000),
            refusal(251),
            ErrorKind::PoolClosed.into(),
            ErrorKind::TopologyClosed.into(),
            ErrorKind::ServerSelection(Arc::new(too_small)).into(),
            Error::configuration("an option"),
            on_connect(refusal(11000)),
            ErrorKind::OnConnect(Arc::new(io::Error::other("of the application"))).into(),
        ] {
            assert!(!error.is_transient(), "{error}");
        }
    }
}
