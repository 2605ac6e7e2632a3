//! The real server behind a scripted one.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bson::{Bson, Document, doc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::action::ErrorReply;
use crate::codec::{self, CHECKSUM_PRESENT, EXHAUST_ALLOWED, Form, HEADER_LENGTH, Reply, Request};
use crate::codec::{MORE_TO_COME, encode_command};
use crate::commands::Outcome;
use crate::compression;
use crate::real::RealServer;
use crate::transactions::Transactions;

/// A proxy's view of the real server behind it.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) real: Arc<RealServer>,
    pub(crate) transactions: Arc<Transactions>,
    /// The cursors that were opened through this server. Other servers don't know them.
    cursors: Mutex<BTreeSet<i64>>,
}

impl Backend {
    pub(crate) fn new(real: Arc<RealServer>) -> Self {
        Self {
            real,
            transactions: Arc::default(),
            cursors: Mutex::default(),
        }
    }

    /// Returns a view of the same real server for another proxy.
    pub(crate) fn share(&self) -> Self {
        Self {
            real: Arc::clone(&self.real),
            transactions: Arc::clone(&self.transactions),
            cursors: Mutex::default(),
        }
    }

    pub(crate) fn open_cursors(&self) -> usize {
        self.cursors().len()
    }

    pub(crate) fn forget_cursors(&self) {
        self.cursors().clear();
    }

    /// The error reply to a command about another server's cursor, or `None`.
    pub(crate) fn refuse_cursor(&self, name: &str, command: &Document) -> Option<Outcome> {
        let named = cursors_of(name, command);
        let own = self.cursors();
        if named.iter().all(|cursor| own.contains(cursor)) {
            return None;
        }
        if name == "killcursors" {
            let none = Bson::Array(Vec::new());
            return Some(Ok(doc! {
                "cursorsKilled": none.clone(),
                "cursorsNotFound": named,
                "cursorsAlive": none.clone(),
                "cursorsUnknown": none,
            }));
        }
        let message = format!("cursor id {named:?} not found");
        Some(Err(ErrorReply::new(43, "CursorNotFound", &message)))
    }

    /// Records the open cursors after a command.
    pub(crate) fn note_cursors(&self, name: &str, command: &Document, reply: &Document) {
        let mut own = self.cursors();
        for ended in cursors_of(name, command) {
            own.remove(&ended);
        }
        let cursor = reply.get_document("cursor");
        if let Ok(id) = cursor.and_then(|cursor| cursor.get_i64("id"))
            && id != 0
        {
            own.insert(id);
        }
    }

    fn cursors(&self) -> MutexGuard<'_, BTreeSet<i64>> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cursors that a command names; its own name is in lower case.
fn cursors_of(name: &str, command: &Document) -> Vec<i64> {
    match name {
        "getmore" => command
            .values()
            .next()
            .and_then(Bson::as_i64)
            .into_iter()
            .collect(),
        "killcursors" => command
            .get_array("cursors")
            .map(|cursors| cursors.iter().filter_map(Bson::as_i64).collect())
            .unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// A connection to the real server, for one client connection. It is made at its first use.
#[derive(Debug)]
pub(crate) struct Upstream {
    real: Arc<RealServer>,
    stream: Option<TcpStream>,
}

impl Upstream {
    pub(crate) fn new(backend: &Backend) -> Self {
        Self {
            real: Arc::clone(&backend.real),
            stream: None,
        }
    }

    /// Sends messages, and returns the reply to the last one and the user that it authenticated, as
    /// `database.name`. Must not be used again if this future was dropped.
    pub(crate) async fn ask(
        &mut self,
        messages: &[Vec<u8>],
    ) -> io::Result<(Document, Option<String>)> {
        let mut reply = Document::new();
        for message in messages {
            reply = self.exchange(message).await?;
        }
        let speculation = reply.get_document("speculativeAuthenticate");
        let is_done = |reply: &Document| {
            reply.contains_key("conversationId") && reply.get_bool("done").is_ok_and(|done| done)
        };
        if !is_done(speculation.unwrap_or(&reply)) {
            return Ok((reply, None));
        }
        let question = encode_command(0, 0, &doc! {"connectionStatus": 1, "$db": "admin"});
        let status = self.exchange(&question).await?;
        Ok((reply, user(&status)))
    }

    async fn exchange(&mut self, message: &[u8]) -> io::Result<Document> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            slot => {
                let stream = self.real.open().await?;
                stream.set_nodelay(true)?;
                slot.insert(stream)
            }
        };
        stream.write_all(&self.real.renamed(message)?).await?;
        let mut reply = vec![0; HEADER_LENGTH];
        stream.read_exact(&mut reply).await?;
        let length = codec::message_length(&reply).map_err(io::Error::other)?;
        reply.resize(length.unwrap_or(HEADER_LENGTH), 0);
        stream.read_exact(&mut reply[HEADER_LENGTH..]).await?;
        let mut reply = Reply::decode(&reply).map_err(io::Error::other)?;
        if message.get(4..8) != Some(&reply.response_to.to_le_bytes()) {
            return Err(io::Error::other("the reply is to another request"));
        }
        self.real.restore_names(&mut reply.body);
        Ok(reply.body)
    }
}

fn user(status: &Document) -> Option<String> {
    let users = status.get_document("authInfo").ok()?;
    let users = users.get_array("authenticatedUsers").ok()?;
    let user = users.first()?.as_document()?;
    let (name, database) = (user.get_str("user").ok()?, user.get_str("db").ok()?);
    Some(format!("{database}.{name}"))
}

/// A client's message as sent to the real server: unchanged, except that it is not compressed, has
/// no checksum, and asks for exactly one reply.
pub(crate) fn passed_on(request: &Request, message: &[u8]) -> Vec<u8> {
    if request.form == Form::Query {
        let mut command = request.command.clone();
        command.insert("$db", request.database.as_str());
        return encode_command(request.request_id, 0, &command);
    }
    let plain = request.compressor.map(|_| compression::unwrap(message));
    let mut message = match plain {
        Some(Ok((plain, _))) => plain,
        Some(Err(_)) | None => message.to_vec(),
    };
    if request.flags & CHECKSUM_PRESENT != 0 {
        message.truncate(message.len() - 4);
    }
    let flags = request.flags & !(CHECKSUM_PRESENT | EXHAUST_ALLOWED | MORE_TO_COME);
    let length = i32::try_from(message.len()).unwrap_or(i32::MAX);
    message[..4].copy_from_slice(&length.to_le_bytes());
    message[HEADER_LENGTH..HEADER_LENGTH + 4].copy_from_slice(&flags.to_le_bytes());
    message
}
