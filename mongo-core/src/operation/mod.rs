//! Operations: commands with sessions, transactions, retries, cursors and a time-out.
//!
//! This module decides, and does no I/O: it takes replies, errors, the time and randomness, and
//! returns fields of commands and decisions. `Pools::command` and `Connection::command` carry them
//! out. [`Retry`] is the decision to retry, for frameworks with a loop of their own.
//!
//! # Options of the connection string
//! | kind of operation | read preference | `readConcernLevel` | `w`, `journal`, `wTimeoutMS` |
//! |---|---|---|---|
//! | [`Command`](OperationKind::Command) | no | no | no |
//! | [`Read`](OperationKind::Read) | yes | yes | no |
//! | [`Write`](OperationKind::Write) | no | no | yes |
//! | any, in a transaction | by [`TransactionOptions`], else yes | with the first command | with the commit or abort |
//!
//! An option of the builder overrides the connection string, and a field that the command itself
//! has stays as it is; the session's `afterClusterTime` or `atClusterTime` is added to its
//! `readConcern`. `run_command` applies none of them; it sends the command unchanged. Where options
//! of the connection string do not reach the commands of `Pools`, there is a warning, once: for a
//! read or write that `command` runs without a kind, and after a while if no command had them.
//!
//! Specifications: driver sessions, causal consistency, snapshot sessions, transactions, retryable
//! reads, retryable writes, client backpressure, client side operations timeout, run-command.

#![cfg_attr(
    not(feature = "net"),
    allow(
        dead_code,
        unreachable_pub,
        unused_imports,
        reason = "the shell in `net` and `pools` drives it"
    )
)]

mod budget;
mod command;
mod cursor;
mod defaults;
mod fields;
mod request;
mod retry;
mod session;
mod transaction;
mod transient;

pub(crate) use budget::{is_time_limit, max_time, timed_out};
pub use command::Command;
pub use cursor::Batch;
pub(crate) use cursor::{CursorState, get_more_time, only_empty};
pub(crate) use defaults::Defaults;
pub(crate) use fields::Facts;
pub(crate) use request::Request;
pub use request::{CursorType, OperationKind, TimeoutMode};
pub(crate) use retry::may_have_been_sent;
pub use retry::{Failure, Retry, RetryOptions, Verdict};
pub(crate) use session::{ClientContext, Leftover, ServerSession};
pub use session::{ClientSession, ClusterTime, SessionOptions};
pub(crate) use transaction::{Ending, Point, is_unpinned, transaction_backoff};
pub use transaction::{TransactionOptions, TransactionState, UNKNOWN_COMMIT_RESULT};

pub use crate::error::TRANSIENT_TRANSACTION_ERROR;
