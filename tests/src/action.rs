//! Actions of a rule on one reply.

use std::time::Duration;

use bson::{Bson, Document, doc};
use tokio::sync::watch;

use crate::codec::Checksum;
use crate::compression::Compressor;
use crate::scram::ScramAttack;

/// A gate that holds replies back until the test opens it. Use it instead of guessing a delay.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Opens the gate for current and future waiters.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Closes the gate again for future waiters.
    pub fn close(&self) {
        self.0.send_replace(false);
    }

    pub(crate) async fn wait(&self) {
        // The sender lives in `self`, so it is not dropped during the wait.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// How much of the bytes is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// This many bytes from the start, or all if there are fewer.
    Bytes(usize),
    /// The first half.
    Half,
}

/// Whether a server labels a write's error of this code as retryable.
pub(crate) fn is_retryable(code: i32) -> bool {
    const RETRYABLE: [i32; 12] = [
        6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436,
    ];
    RETRYABLE.contains(&code)
}

/// The label that a server adds to this error of this command.
pub(crate) fn error_label(code: i32, command: &Document) -> Option<&'static str> {
    const TRANSIENT: [i32; 5] = [24, 112, 246, 251, 267];
    let is_end = ["commitTransaction", "abortTransaction"]
        .iter()
        .any(|end| command.contains_key(end));
    let in_transaction = command.get_bool("autocommit").is_ok_and(|own| !own);
    if !command.contains_key("txnNumber") {
        return None;
    }
    match (is_retryable(code), in_transaction) {
        (true, true) if !is_end => Some("TransientTransactionError"),
        (true, _) => Some("RetryableWriteError"),
        (false, true) if TRANSIENT.contains(&code) => Some("TransientTransactionError"),
        (false, _) => None,
    }
}

/// An `ok: 0` reply.
#[derive(Clone, Debug)]
pub struct ErrorReply(Document);

impl ErrorReply {
    /// An error with its code and code name, as in `(13, "Unauthorized", "not allowed")`.
    pub fn new(code: i32, code_name: &str, message: &str) -> Self {
        Self(doc! {"ok": 0.0, "errmsg": message, "code": code, "codeName": code_name})
    }

    /// Adds an error label.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        match self.0.get_array_mut("errorLabels") {
            Ok(labels) => labels.push(label.into()),
            Err(_) => {
                self.0.insert("errorLabels", vec![Bson::from(label)]);
            }
        }
        self
    }

    /// Adds or replaces any field, such as `topologyVersion`.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<Bson>) -> Self {
        self.0.insert(name, value);
        self
    }

    /// Adds the label that a server adds to this error, if any.
    pub(crate) fn labelled_for(self, command: &Document) -> Self {
        if self.0.contains_key("errorLabels") {
            return self;
        }
        let code = self.0.get_i32("code").unwrap_or(0);
        match error_label(code, command) {
            Some(label) => self.label(label),
            None => self,
        }
    }

    /// The reply's document.
    pub fn into_document(self) -> Document {
        self.0
    }
}

/// A change to the usual reply, or a replacement for it. A rule's actions are combined from left to
/// right. If two conflict, the later one wins.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Action {
    /// Waits before the command is executed, by tokio's clock, so that a paused clock works.
    Delay(Duration),
    /// Waits until the gate is open before the command is executed.
    WaitFor(Gate),

    /// Replies with this document. The command is not executed.
    Reply(Document),
    /// Replies with an error. The command is not executed.
    Error(ErrorReply),
    /// Replies with a proper message that has these bytes, valid or not, in place of the document.
    /// The command is not executed.
    Body(Vec<u8>),
    /// Writes these bytes instead of a message. The command is not executed.
    Raw(Vec<u8>),
    /// Replies with several messages. All but the last have `moreToCome`, and each names the one
    /// before in `responseTo`. The server pauses between them. The command is not executed.
    Stream(Vec<Document>, Duration),
    /// Merges these fields into the reply, replacing existing ones.
    Merge(Document),
    /// Removes a field from the reply.
    Remove(String),

    /// Writes this id into `responseTo`.
    ResponseTo(i32),
    /// Writes this length into the header instead of the true one.
    Length(i32),
    /// Ends the message with a checksum.
    Checksum(Checksum),
    /// Compresses the reply, regardless of the negotiation. By default the reply uses the
    /// compressor of its request.
    Compress(Compressor),
    /// Sets these OP_MSG flags in addition to the usual ones.
    Flags(u32),

    /// Executes the command and writes nothing.
    NoReply,
    /// Writes the reply this many times.
    Copies(usize),
    /// Writes only the start of the bytes.
    Keep(Cut),
    /// Writes this many bytes at a time, with a pause in between.
    Chunks(usize, Duration),

    /// Then closes the connection in an orderly way (FIN).
    Close,
    /// Then resets the connection (RST; over a Unix socket it closes).
    Reset,
    /// Then sends nothing more, but keeps the connection open until the client closes it.
    Hang,

    /// Runs the SCRAM conversation with this fault. Only for
    /// [`Matcher::scram`](crate::Matcher::scram).
    Scram(ScramAttack),
}

impl Action {
    /// Executes the command and adds a `writeConcernError` to its reply.
    pub fn write_concern_error(code: i32, code_name: &str, message: &str) -> Self {
        Self::Merge(doc! {
            "writeConcernError": {"code": code, "codeName": code_name, "errmsg": message}
        })
    }

    /// Writes one byte each second.
    pub fn byte_per_second() -> Self {
        Self::Chunks(1, Duration::from_secs(1))
    }
}

/// The content of a reply.
#[derive(Clone, Debug, Default)]
pub(crate) enum Content {
    /// The command's own result.
    #[default]
    Normal,
    Document(Document),
    Body(Vec<u8>),
    Raw(Vec<u8>),
    Stream(Vec<Document>, Duration),
}

/// What happens to the connection after the reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Then {
    #[default]
    Serve,
    Close,
    Reset,
    Hang,
}

#[derive(Clone, Debug)]
pub(crate) enum Pause {
    Delay(Duration),
    Gate(Gate),
}

/// A rule's actions put together.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) pauses: Vec<Pause>,
    pub(crate) content: Content,
    pub(crate) merge: Document,
    pub(crate) remove: Vec<String>,
    pub(crate) response_to: Option<i32>,
    pub(crate) length: Option<i32>,
    pub(crate) checksum: Option<Checksum>,
    pub(crate) compressor: Option<Compressor>,
    pub(crate) flags: u32,
    pub(crate) copies: usize,
    pub(crate) keep: Option<Cut>,
    pub(crate) chunks: Option<(usize, Duration)>,
    pub(crate) then: Then,
    pub(crate) scram: Option<ScramAttack>,
}

impl Plan {
    /// The usual reply.
    pub(crate) fn ordinary() -> Self {
        Self {
            pauses: Vec::new(),
            content: Content::Normal,
            merge: Document::new(),
            remove: Vec::new(),
            response_to: None,
            length: None,
            checksum: None,
            compressor: None,
            flags: 0,
            copies: 1,
            keep: None,
            chunks: None,
            then: Then::Serve,
            scram: None,
        }
    }

    pub(crate) fn of(actions: &[Action]) -> Self {
        let mut plan = Self::ordinary();
        for action in actions {
            plan.add(action.clone());
        }
        plan
    }

    fn add(&mut self, action: Action) {
        match action {
            Action::Delay(time) => self.pauses.push(Pause::Delay(time)),
            Action::WaitFor(gate) => self.pauses.push(Pause::Gate(gate)),
            Action::Reply(document) => self.content = Content::Document(document),
            Action::Error(error) => self.content = Content::Document(error.into_document()),
            Action::Body(bytes) => self.content = Content::Body(bytes),
            Action::Raw(bytes) => self.content = Content::Raw(bytes),
            Action::Stream(replies, pause) => self.content = Content::Stream(replies, pause),
            Action::Merge(fields) => self.merge.extend(fields),
            Action::Remove(name) => self.remove.push(name),
            Action::ResponseTo(id) => self.response_to = Some(id),
            Action::Length(length) => self.length = Some(length),
            Action::Checksum(checksum) => self.checksum = Some(checksum),
            Action::Compress(compressor) => self.compressor = Some(compressor),
            Action::Flags(flags) => self.flags |= flags,
            Action::NoReply => self.copies = 0,
            Action::Copies(copies) => self.copies = copies,
            Action::Keep(cut) => self.keep = Some(cut),
            Action::Chunks(size, pause) => self.chunks = Some((size.max(1), pause)),
            Action::Close => self.then = Then::Close,
            Action::Reset => self.then = Then::Reset,
            Action::Hang => self.then = Then::Hang,
            Action::Scram(attack) => self.scram = Some(attack),
        }
    }

    /// The part of the bytes to write.
    pub(crate) fn cut<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let end = match self.keep {
            None => bytes.len(),
            Some(Cut::Bytes(count)) => count.min(bytes.len()),
            Some(Cut::Half) => bytes.len() / 2,
        };
        &bytes[..end]
    }
}
