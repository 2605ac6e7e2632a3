//! One operation as its caller describes it.

use std::sync::Arc;
use std::time::Duration;

use bson::Bson;
use bson::raw::RawBson;
use serde::Serialize;

use super::request::{CursorType, OperationKind, Request, TimeoutMode};
use crate::concern::{ReadConcern, WriteConcern};
use crate::error::{ErrorKind, Result};
use crate::select::ReadPreference;

/// A command to be run with a session, options and retries. Await it for its reply, or call
/// `cursor` if it answers with one.
///
/// The reply is `ok: 1`, but a write may have failed all the same: call
/// [`check_write`](crate::OwnedReply::check_write).
#[must_use = "it does nothing unless it is awaited"]
#[derive(Debug)]
pub struct Command<T> {
    pub(crate) request: Result<Box<Request>>,
    pub(crate) target: T,
}

impl<T> Command<T> {
    pub(crate) fn new<C>(target: T, database: &str, command: &C) -> Self
    where
        C: Serialize + ?Sized,
    {
        Self {
            request: Request::new(database, command),
            target,
        }
    }

    pub(crate) fn with(mut self, set: impl FnOnce(&mut Request)) -> Self {
        if let Ok(request) = &mut self.request {
            set(request);
        }
        self
    }

    /// Sets what it does. Default [`OperationKind::Command`].
    pub fn kind(self, kind: OperationKind) -> Self {
        self.with(|request| request.kind = kind)
    }

    /// Declares that it must not be retried after an error, except if an overloaded server refused
    /// it. A write then gets no `txnNumber`: necessary for all that the server can't recognise, such
    /// as `multi: true`, `$out`, `create`.
    pub fn not_retryable(self) -> Self {
        self.with(|request| request.is_retryable = false)
    }

    /// Sets the read preference. Default: see the [module](super).
    pub fn read_preference(self, preference: ReadPreference) -> Self {
        self.with(|request| request.read_preference = Some(preference))
    }

    /// Sets the read concern; the default value is none. Default: see the [module](super).
    pub fn read_concern(self, concern: ReadConcern) -> Self {
        self.with(|request| request.read_concern = Some(concern))
    }

    /// Sets the write concern; the default value is none. Default: see the [module](super).
    ///
    /// With an unacknowledged one, other than of a [`Read`](OperationKind::Read), no reply is awaited:
    /// the command is sent, and the reply is `{ok: 1}`. It can have no session. In a command that has
    /// a `writeConcern` itself this does not apply: its reply is awaited.
    pub fn write_concern(self, concern: WriteConcern) -> Self {
        self.with(|request| request.write_concern = Some(concern))
    }

    /// Sets the comment of the command, and of the cursor's further commands unless
    /// [`get_more_comment`](Self::get_more_comment) sets another one.
    pub fn comment(self, comment: impl Into<Bson>) -> Self {
        self.with_comment(comment.into(), |request| &mut request.comment)
    }

    fn with_comment(
        mut self,
        comment: Bson,
        of: impl FnOnce(&mut Request) -> &mut Option<RawBson>,
    ) -> Self {
        match RawBson::try_from(comment) {
            Ok(comment) => self.with(|request| *of(request) = Some(comment)),
            Err(error) => {
                let error = ErrorKind::Serialization(Arc::new(error));
                self.request = self.request.and(Err(error.into()));
                self
            }
        }
    }

    /// Sets the time limit of the whole operation, with all its waits and retries (`timeoutMS`);
    /// zero is no limit. The server gets what is left of it as `maxTimeMS`. Default: that of the
    /// connection string. Without any, each check-out and each command has its own limit.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|request| request.timeout = Some(timeout))
    }

    /// Sets the operation's name in logs and spans. Default: the command's.
    pub fn operation_name(self, name: impl Into<String>) -> Self {
        self.with(|request| request.name = Some(name.into()))
    }

    /// Sets the type of the cursor. Default [`CursorType::NonTailable`].
    pub fn cursor_type(self, cursor_type: CursorType) -> Self {
        self.with(|request| request.cursor.cursor_type = cursor_type)
    }

    /// Sets what the time limit of the cursor applies to. Needs a time limit.
    pub fn timeout_mode(self, mode: TimeoutMode) -> Self {
        self.with(|request| request.cursor.timeout_mode = Some(mode))
    }

    /// Sets the number of documents of each further batch. Default: the server's. The command itself
    /// has the size of the first one.
    pub fn batch_size(self, size: u32) -> Self {
        self.with(|request| request.cursor.batch_size = Some(size))
    }

    /// Sets how long the server waits for documents of each further batch (`maxTimeMS` of
    /// `getMore`). Not together with a time limit, except for [`CursorType::TailableAwait`].
    pub fn max_await_time(self, time: Duration) -> Self {
        self.with(|request| request.cursor.max_await_time = Some(time))
    }

    /// Sets the comment of the cursor's further commands.
    pub fn get_more_comment(self, comment: impl Into<Bson>) -> Self {
        self.with_comment(comment.into(), |request| &mut request.cursor.comment)
    }
}
