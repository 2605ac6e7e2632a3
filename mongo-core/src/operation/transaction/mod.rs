//! Transactions.

use std::sync::Arc;
use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf};

use super::budget::MAX_TIME_EXPIRED;
use super::defaults::Defaults;
use crate::ServerAddress;
use crate::concern::{Acknowledgment, ReadConcern, WriteConcern};
use crate::error::{
    Error, ErrorKind, RETRYABLE_WRITE, Result, TRANSIENT_TRANSACTION_ERROR, is_network_error,
};
use crate::select::ReadPreference;

/// The label of an error of a commit that may have been done: it can be run again.
pub const UNKNOWN_COMMIT_RESULT: &str = "UnknownTransactionCommitResult";

/// The server's time for the write concern of a repeated commit.
const REPEATED_COMMIT: Duration = Duration::from_secs(10);

/// The longest recovery token that is kept, in bytes.
const MAX_TOKEN: usize = 1024;

/// The codes of write concerns that can never be met: `UnknownReplWriteConcern` and
/// `UnsatisfiableWriteConcern`.
const UNSATISFIABLE: [i32; 2] = [79, 100];

/// The options of a transaction. An option that is not set comes from the session's defaults, and
/// then from the connection string.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TransactionOptions {
    /// The read concern, sent with the first command.
    pub read_concern: Option<ReadConcern>,
    /// The write concern of the commit or abort. It must be acknowledged.
    pub write_concern: Option<WriteConcern>,
    /// The read preference. Servers only accept primary.
    pub read_preference: Option<ReadPreference>,
    /// The time limit of the commit on the server (`maxTimeMS`). Default: none. Ignored with a
    /// `timeoutMS`.
    pub max_commit_time: Option<Duration>,
}

impl TransactionOptions {
    /// Sets the read concern.
    #[must_use]
    pub fn with_read_concern(mut self, concern: ReadConcern) -> Self {
        self.read_concern = Some(concern);
        self
    }

    /// Sets the write concern.
    #[must_use]
    pub fn with_write_concern(mut self, concern: WriteConcern) -> Self {
        self.write_concern = Some(concern);
        self
    }

    /// Sets the read preference.
    #[must_use]
    pub fn with_read_preference(mut self, preference: ReadPreference) -> Self {
        self.read_preference = Some(preference);
        self
    }

    /// Sets the time limit of the commit on the server.
    #[must_use]
    pub fn with_max_commit_time(mut self, limit: Duration) -> Self {
        self.max_commit_time = Some(limit);
        self
    }

    /// These options, and the others where they are not set.
    pub(super) fn or(self, other: &Self) -> Self {
        Self {
            read_concern: self.read_concern.or_else(|| other.read_concern.clone()),
            write_concern: self.write_concern.or_else(|| other.write_concern.clone()),
            read_preference: self
                .read_preference
                .or_else(|| other.read_preference.clone()),
            max_commit_time: self.max_commit_time.or(other.max_commit_time),
        }
    }

    pub(super) fn or_client(self, defaults: &Defaults) -> Self {
        self.or(&Self {
            read_concern: Some(defaults.read_concern.clone()),
            write_concern: Some(defaults.write_concern.clone()),
            read_preference: Some(defaults.read_preference.clone()),
            max_commit_time: None,
        })
    }
}

/// The state of a session's transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransactionState {
    /// There is none.
    #[default]
    None,
    /// It was started; no command was sent yet.
    Starting,
    /// Its first command was sent.
    InProgress,
    /// It was committed, or a commit was tried.
    Committed {
        /// Whether it had no command, so that nothing was sent.
        empty: bool,
    },
    /// It was aborted.
    Aborted,
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Commit,
    Abort,
}

/// Where a transaction stands before a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point(TransactionState, Option<i64>);

/// A session's transaction.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(super) state: TransactionState,
    /// All set.
    pub(super) options: TransactionOptions,
    pub(super) recovery_token: Option<RawDocumentBuf>,
    pub(super) pinned: Option<ServerAddress>,
    /// The principal of its first command. Another one can't go on with it.
    principal: Option<Arc<str>>,
    /// The number of the transaction that the server may have open: its first command was sent, and
    /// since then neither a commit was, nor was an abort answered.
    pub(super) open: Option<i64>,
    /// Whether a commit may have been carried out: the next one waits for a majority.
    is_repeated: bool,
}

impl Transaction {
    pub(crate) fn is_active(&self) -> bool {
        matches!(
            self.state,
            TransactionState::Starting | TransactionState::InProgress
        )
    }

    /// Pins it to a mongos.
    pub(crate) fn pin(&mut self, server: &ServerAddress) {
        self.pinned.get_or_insert_with(|| server.clone());
    }

    pub(crate) fn unpin(&mut self) {
        self.pinned = None;
    }

    /// Keeps the newest recovery token, also that of a commit's reply. One over 1 KiB is not kept:
    /// servers send about 50 bytes.
    pub(super) fn keep_token(&mut self, token: &RawDocument) {
        if self.state != TransactionState::None && token.as_bytes().len() <= MAX_TOKEN {
            self.recovery_token = Some(token.to_owned());
        }
    }

    pub(super) fn start(&mut self, options: TransactionOptions) -> Result<()> {
        if self.is_active() {
            return Err(Error::configuration("Transaction already in progress"));
        }
        let concern = options.write_concern.as_ref();
        if concern.is_some_and(|concern| !concern.is_acknowledged()) {
            return Err(Error::configuration(
                "transactions do not support unacknowledged write concerns",
            ));
        }
        *self = Self {
            state: TransactionState::Starting,
            options,
            ..self.forgotten()
        };
        Ok(())
    }

    /// An operation that is neither a commit nor an abort begins: a transaction that is over is
    /// forgotten. Returns whether the operation is part of a transaction.
    pub(crate) fn enter(&mut self) -> bool {
        if !self.is_active() {
            *self = self.forgotten();
        }
        self.is_active()
    }

    /// None, except for what the server may still have open.
    fn forgotten(&self) -> Self {
        Self {
            open: self.open,
            ..Self::default()
        }
    }

    /// A command of the transaction of this number is about to be sent. Returns whether it is the
    /// first.
    pub(super) fn advance(&mut self, number: i64) -> bool {
        let is_first = self.state == TransactionState::Starting;
        if is_first {
            self.state = TransactionState::InProgress;
            // The server ends an earlier one for it.
            self.open = Some(number);
        }
        is_first
    }

    /// Its first command binds it to a principal. Returns whether this one can run the next command.
    pub(super) fn bind(&mut self, principal: Option<&Arc<str>>) -> bool {
        if self.state == TransactionState::Starting {
            self.principal = principal.cloned();
        }
        self.principal.as_ref() == principal
    }

    /// Where it stands, for [`rewind`](Self::rewind).
    pub(super) fn point(&self) -> Point {
        Point(self.state, self.open)
    }

    /// The last command had no effect: it was not sent, or an overloaded server refused it.
    pub(super) fn rewind(&mut self, to: Point) {
        Point(self.state, self.open) = to;
    }

    /// A commit or abort begins. Returns whether its command must be sent.
    ///
    /// # Errors
    /// There is no transaction, or it has ended in the other way.
    pub(crate) fn end(&mut self, ending: Ending) -> Result<bool> {
        use TransactionState::{Aborted, Committed, InProgress, None, Starting};
        let text = match (ending, self.state) {
            (_, None) => "No transaction started",
            (Ending::Commit, Aborted) => {
                "Cannot call commitTransaction after calling abortTransaction"
            }
            (Ending::Abort, Committed { .. }) => {
                "Cannot call abortTransaction after calling commitTransaction"
            }
            (Ending::Abort, Aborted) => "Cannot call abortTransaction twice",
            (Ending::Commit, Committed { empty }) => {
                self.is_repeated = true;
                return Ok(!empty);
            }
            (Ending::Commit, Starting | InProgress) => {
                let empty = self.state == Starting;
                self.state = Committed { empty };
                return Ok(!empty);
            }
            (Ending::Abort, Starting | InProgress) => {
                let is_sent = self.state == InProgress;
                self.state = Aborted;
                return Ok(is_sent);
            }
        };
        Err(Error::configuration(text))
    }

    /// Labels the error of a command of the transaction, and unpins it if the next one may go to
    /// another server. After a commit that an overloaded server has not refused, the next one waits
    /// for a majority.
    pub(crate) fn failed(&mut self, error: Error, ending: Option<Ending>) -> Error {
        let error = match ending {
            None => label_transient(error),
            Some(Ending::Commit) => {
                self.is_repeated |= !error.is_retryable_overload();
                label_commit(error, false)
            }
            Some(Ending::Abort) => error,
        };
        if is_unpinned(&error, ending) {
            self.unpin();
        }
        error
    }

    /// The commit was answered; the outcome is that of its write concern.
    pub(crate) fn committed(&mut self, outcome: Result<()>) -> Result<()> {
        outcome.map_err(|error| {
            self.is_repeated = true;
            let error = label_commit(error, true);
            if is_unpinned(&error, Some(Ending::Commit)) {
                self.unpin();
            }
            error
        })
    }

    /// The write concern of the commit or abort, if it is not the server's default.
    ///
    /// Specification: transactions, "writeConcern for commitTransaction attempts".
    pub(super) fn write_concern(&self, ending: Ending) -> Option<WriteConcern> {
        let mut concern = self.options.write_concern.clone().unwrap_or_default();
        if ending == Ending::Commit && self.is_repeated {
            concern.w = Some(Acknowledgment::MAJORITY);
            concern.w_timeout.get_or_insert(REPEATED_COMMIT);
        }
        (!concern.is_default()).then_some(concern)
    }
}

/// Whether the command after one that failed may go to another server.
pub(crate) fn is_unpinned(error: &Error, ending: Option<Ending>) -> bool {
    ending == Some(Ending::Abort)
        || error.has_label(TRANSIENT_TRANSACTION_ERROR)
        || error.has_label(UNKNOWN_COMMIT_RESULT)
}

/// Labels the error of a command in a transaction: one that leaves the outcome unknown can be
/// repaired by running the whole transaction again.
///
/// Specification: transactions, "Transient Transaction Error".
fn label_transient(error: Error) -> Error {
    let is_transient = is_network_error(&error)
        || matches!(
            error.kind(),
            ErrorKind::ConnectionClosed(_)
                | ErrorKind::PoolCleared
                | ErrorKind::NotWritable
                | ErrorKind::ServerSelection(_)
        );
    // It is for writes that can be retried by themselves.
    let error = error.without_label(RETRYABLE_WRITE);
    match is_transient {
        true => error.with_label(TRANSIENT_TRANSACTION_ERROR),
        false => error,
    }
}

/// Labels the error of a commit that may have been carried out.
///
/// Specification: transactions, "UnknownTransactionCommitResult".
fn label_commit(error: Error, is_of_write_concern: bool) -> Error {
    let is_unknown = match error.kind() {
        ErrorKind::Command(_) if is_of_write_concern => error
            .code()
            .is_some_and(|code| !UNSATISFIABLE.contains(&code)),
        ErrorKind::Command(_) => {
            error.has_label(RETRYABLE_WRITE) || error.code() == Some(MAX_TIME_EXPIRED)
        }
        ErrorKind::ServerSelection(_) | ErrorKind::Timeout { .. } => true,
        _ => error.is_retryable_write(),
    };
    match is_unknown {
        true => error.with_label(UNKNOWN_COMMIT_RESULT),
        false => error,
    }
}

/// The pause before a transaction is run again; `attempt` counts from 1, `jitter` is from 0 to 1.
///
/// Specification: convenient API for transactions, "Sequence of Actions".
pub(crate) fn transaction_backoff(attempt: u32, jitter: f64) -> Duration {
    const INITIAL: f64 = 0.005;
    const LONGEST: f64 = 0.5;
    let attempt = i32::try_from(attempt).unwrap_or(i32::MAX);
    Duration::from_secs_f64(jitter * (INITIAL * 1.5_f64.powi(attempt)).min(LONGEST))
}

#[cfg(test)]
mod tests;
