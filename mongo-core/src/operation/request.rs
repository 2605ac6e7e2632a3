//! One operation: the command and its options.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bson::raw::{RawBson, RawBsonRef};
use bson::{Document, RawDocument, RawDocumentBuf};
use serde::Serialize;

use super::defaults::{Defaults, READ_CONCERN, READ_PREFERENCE, WRITE_OPTIONS};
use super::transaction::Ending;
use crate::ServerAddress;
use crate::concern::{ReadConcern, WriteConcern};
use crate::error::{Error, ErrorKind, Result};
use crate::select::{ReadPreference, ReadPreferenceMode};
use crate::wire::find_elements;

/// What an operation does, as the caller says; it is not guessed from the command. It decides on
/// retries, and on the options of the connection string that are applied (see the
/// [module](super)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationKind {
    /// A generic command: retried only if an overloaded server refused it, with both `retryReads`
    /// and `retryWrites`. The default.
    #[default]
    Command,
    /// A read: retried with `retryReads`. Do not run `mapReduce` as one.
    Read,
    /// A write: retried with `retryWrites`, if the server supports retryable writes. It then gets a
    /// `txnNumber`, which only `insert`, `update`, `delete`, `findAndModify` and `bulkWrite` accept,
    /// and only if no statement affects many documents. All other writes must be
    /// [`not_retryable`](super::Command::not_retryable).
    Write,
}

/// The type of a cursor. The command must have the matching fields (`tailable`, `awaitData`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CursorType {
    /// It ends with its last document. The default.
    #[default]
    NonTailable,
    /// It stays open at the end of a capped collection.
    Tailable,
    /// Likewise; the server waits for new documents.
    TailableAwait,
}

/// What the time limit (`timeoutMS`) of a cursor applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeoutMode {
    /// To the first command and all batches together. The default, except for tailable cursors.
    CursorLifetime,
    /// To the first command, and again to each call that fetches batches.
    Iteration,
}

/// The options of a cursor.
#[derive(Clone, Debug, Default)]
pub(crate) struct CursorOptions {
    pub(crate) cursor_type: CursorType,
    pub(crate) timeout_mode: Option<TimeoutMode>,
    pub(crate) batch_size: Option<u32>,
    pub(crate) max_await_time: Option<Duration>,
    pub(crate) comment: Option<RawBson>,
    /// Whether the server may send batches without a request for each.
    pub(crate) exhaust: bool,
}

/// The fields of a command that have a meaning for the operation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OwnFields {
    /// One that is no document: it is sent as it is.
    pub(super) read_concern: bool,
    pub(super) write_concern: bool,
    pub(super) read_preference: bool,
    pub(super) max_time: bool,
    pub(super) comment: bool,
}

static NEXT_ID: AtomicI64 = AtomicI64::new(1);

/// An operation: the command and its options. It is large and handed on, so it is boxed.
// Not exported; public for the sealed trait of cursors.
pub struct Request {
    /// Its number within the process.
    pub(crate) id: i64,
    pub(crate) database: String,
    /// The caller's command, and behind it what is added for the current attempt.
    pub(super) body: RawDocumentBuf,
    /// The length of the caller's command.
    pub(super) own_length: usize,
    pub(super) own: OwnFields,
    /// The caller's own read concern, which is sent with what the session adds.
    pub(super) own_concern: Option<Document>,
    pub(crate) kind: OperationKind,
    pub(crate) read_preference: Option<ReadPreference>,
    pub(super) read_concern: Option<ReadConcern>,
    pub(super) write_concern: Option<WriteConcern>,
    pub(super) comment: Option<RawBson>,
    pub(crate) timeout: Option<Duration>,
    /// Whether it may be retried after an error other than an overload.
    pub(crate) is_retryable: bool,
    /// Whether it has a session.
    pub(crate) has_session: bool,
    /// Whether it is a command on a cursor: concerns and read preferences do not apply.
    pub(crate) is_bare: bool,
    /// Whether the server gets the operation's time limit.
    pub(crate) limits_server: bool,
    pub(crate) name: Option<String>,
    pub(crate) cursor: CursorOptions,
    pub(crate) ending: Option<Ending>,
    /// The servers to be avoided from the start.
    pub(crate) deprioritized: Vec<ServerAddress>,
    /// The number of the retryable write, the same for all attempts.
    pub(super) txn_number: Option<i64>,
    /// The principal of the first attempt. The server does not know the number of another one.
    principal: Option<Arc<str>>,
}

/// Shows no field of the command: it may hold a password.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("database", &self.database)
            .field("command", &self.command_name())
            .finish_non_exhaustive()
    }
}

impl Request {
    pub(crate) fn new<C>(database: &str, command: &C) -> Result<Box<Self>>
    where
        C: Serialize + ?Sized,
    {
        let serialization = |error| ErrorKind::Serialization(Arc::new(error));
        let mut bytes = Vec::with_capacity(256);
        bson::serialize_to_buffer(&command, &mut bytes).map_err(serialization)?;
        let mut body = RawDocumentBuf::from_bytes(bytes).map_err(serialization)?;
        let mut own = inspect(&body)?;
        let own_concern = match own.read_concern {
            true => take_read_concern(&mut body).map_err(serialization)?,
            false => None,
        };
        own.read_concern &= own_concern.is_none();
        let mut request = Self::on_cursor(database, body);
        (request.own, request.own_concern) = (own, own_concern);
        request.kind = OperationKind::default();
        (request.is_retryable, request.limits_server) = (true, true);
        request.is_bare = false;
        Ok(request)
    }

    /// A command on a cursor.
    pub(crate) fn on_cursor(database: &str, command: RawDocumentBuf) -> Box<Self> {
        Box::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            database: database.to_owned(),
            own_length: command.as_bytes().len(),
            own: OwnFields::default(),
            own_concern: None,
            body: command,
            kind: OperationKind::Read,
            read_preference: None,
            read_concern: None,
            write_concern: None,
            comment: None,
            timeout: None,
            is_retryable: false,
            has_session: true,
            is_bare: true,
            limits_server: false,
            name: None,
            cursor: CursorOptions::default(),
            ending: None,
            deprioritized: Vec::new(),
            txn_number: None,
            principal: None,
        })
    }

    /// The command that closes a cursor. It needs no session.
    pub(crate) fn kill_cursor(database: &str, command: RawDocumentBuf) -> Box<Self> {
        let mut request = Self::on_cursor(database, command);
        request.has_session = false;
        request
    }

    /// The end of sessions, with their ids.
    pub(crate) fn end_sessions(ids: &[RawDocumentBuf]) -> Box<Self> {
        let mut sessions = bson::raw::RawArrayBuf::new();
        ids.iter().for_each(|id| sessions.push(id.clone()));
        let mut command = RawDocumentBuf::new();
        command.append(bson::raw::cstr!("endSessions"), sessions);
        let preferred = ReadPreference::new(ReadPreferenceMode::PrimaryPreferred);
        let mut request = Self::on_cursor("admin", command);
        request.read_preference = Some(preferred);
        request.has_session = false;
        request
    }

    /// The end of a transaction.
    pub(crate) fn end_transaction(ending: Ending) -> Box<Self> {
        let mut command = RawDocumentBuf::new();
        let name = match ending {
            Ending::Commit => bson::raw::cstr!("commitTransaction"),
            Ending::Abort => bson::raw::cstr!("abortTransaction"),
        };
        command.append(name, 1);
        let mut request = Self::on_cursor("admin", command);
        request.kind = OperationKind::Write;
        request.is_retryable = true;
        request.ending = Some(ending);
        request
    }

    /// The command with what was added for the current attempt.
    pub(crate) fn body(&self) -> &RawDocument {
        &self.body
    }

    /// The operation is about to be sent: notes whether it applies the options of the connection
    /// string, and warns once if it should.
    pub(super) fn note_usage(&self, defaults: &Defaults) {
        let usage = &defaults.usage;
        if self.kind != OperationKind::Command {
            if !self.is_bare || self.ending.is_some() {
                usage.applied();
            }
            return;
        }
        if !usage.may_warn() || defaults.given().next().is_none() {
            return;
        }
        if let Some(option) = self.lost_option(defaults).filter(|_| usage.warn()) {
            let name = self.command_name();
            tracing::warn!(
                target: "mongo_core::operation",
                "`{name}` was run by `command` without a kind: {option} of the connection string \
                 does not apply to it. Set `OperationKind::Read` or `Write`, or a concern"
            );
        }
    }

    /// An option of the connection string that this command lacks because it has no kind.
    pub(super) fn lost_option(&self, defaults: &Defaults) -> Option<&'static str> {
        let is_write = match self.command_name() {
            "insert" | "update" | "delete" | "findAndModify" | "findandmodify" | "bulkWrite" => {
                true
            }
            "find" | "aggregate" | "count" | "distinct" => false,
            _ => return None,
        };
        let has_write = self.write_concern.is_some() || self.own.write_concern;
        let has_read = self.read_concern.is_some() || self.own_concern.is_some();
        let has_preference = self.read_preference.is_some() || self.own.read_preference;
        defaults.given().find(|name| match *name {
            WRITE_OPTIONS => is_write && !has_write,
            READ_CONCERN => !is_write && !has_read,
            READ_PREFERENCE => !is_write && !has_preference,
            _ => false,
        })
    }

    /// The command's name.
    pub(crate) fn command_name(&self) -> &str {
        let first = self.body.iter_elements().next();
        first
            .and_then(Result::ok)
            .map_or("", |own| own.key().as_str())
    }

    /// Whether the server gets the operation's time limit: not with the batches of a cursor.
    pub(crate) fn sends_max_time(&self) -> bool {
        self.ending.is_some() || self.limits_server && !self.is_bare
    }

    /// The collection that the command is for, if it names one.
    pub(crate) fn collection(&self) -> Option<&str> {
        let own = self.body.iter().next()?.ok()?.1.as_str();
        own.filter(|_| self.database != "admin")
    }

    /// The operation's name.
    pub(crate) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.command_name())
    }

    /// Binds a retryable write to a principal with its first attempt: a server would execute it once
    /// more for another one.
    ///
    /// # Errors
    /// It is bound to another one.
    pub(crate) fn bind(&mut self, principal: Option<&Arc<str>>) -> Result<()> {
        if !self.is_numbered() {
            self.principal = principal.cloned();
            return Ok(());
        }
        match self.principal.as_ref() == principal {
            true => Ok(()),
            false => Err(Error::configuration(
                "the credential was rotated to another user, who can't repeat the write: its result \
                 is unknown",
            )),
        }
    }

    /// Whether the retryable write has its number.
    pub(crate) fn is_numbered(&self) -> bool {
        self.txn_number.is_some() || self.ending.is_some()
    }
}

/// The fields of a command that count here.
///
/// # Errors
/// It is empty, or has a field that only the session may set.
fn inspect(command: &RawDocument) -> Result<OwnFields> {
    let (mut own, mut is_empty, mut refused) = (OwnFields::default(), true, None);
    find_elements(command.as_bytes(), |name, _, _| {
        is_empty = false;
        match name {
            b"readConcern" => own.read_concern = true,
            b"writeConcern" => own.write_concern = true,
            b"$readPreference" => own.read_preference = true,
            b"maxTimeMS" => own.max_time = true,
            b"comment" => own.comment = true,
            b"lsid" | b"txnNumber" | b"autocommit" | b"startTransaction" | b"$clusterTime"
            | b"$db" => refused = Some(String::from_utf8_lossy(name).into_owned()),
            _ => {}
        }
    })
    .map_err(|error| ErrorKind::Serialization(Arc::new(serde::ser::Error::custom(error))))?;
    match (is_empty, refused) {
        (true, _) => Err(Error::configuration("the command is empty")),
        (false, Some(name)) => Err(Error::configuration(format!(
            "the command has the field `{name}`, which `command` adds itself: remove it, set a \
             session, or use `run_command`"
        ))),
        (false, None) => Ok(own),
    }
}

/// Takes the read concern out of a command, unless it is no document.
fn take_read_concern(command: &mut RawDocumentBuf) -> Result<Option<Document>, bson::error::Error> {
    let (mut rest, mut concern) = (RawDocumentBuf::new(), None);
    for element in command.iter() {
        match element? {
            (name, RawBsonRef::Document(own)) if name == "readConcern" => {
                concern = Some(Document::try_from(own)?);
            }
            (name, value) => rest.append(name, value),
        }
    }
    if concern.is_some() {
        *command = rest;
    }
    Ok(concern)
}
