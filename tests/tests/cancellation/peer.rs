//! The server's half of one stream, without I/O: bytes in, bytes out.

use bson::{Bson, Document, doc};
use mongo_testkit::codec::{self, EXHAUST_ALLOWED, MORE_TO_COME, Request};

use crate::scram::Conversation;

/// Supports the handshake, snappy, SCRAM-SHA-256, `ping`, `{echo: <anything>}` and `{stream:
/// [<anything>]}`. An `echo` with `expired` is refused until the client has reauthenticated.
/// `stream` sends one reply for each element if the client allows it.
#[derive(Default)]
pub(crate) struct Peer {
    received: Vec<u8>,
    last_id: i32,
    scram: Option<Conversation>,
    /// Whether the client has authenticated, and reauthenticated.
    greeted: bool,
    renewed: bool,
}

impl Peer {
    /// Receives bytes, and answers each complete request.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        self.received.extend_from_slice(bytes);
        let mut replies = Vec::new();
        loop {
            let length = codec::message_length(&self.received).map_err(|e| e.to_string())?;
            let Some(length) = length.filter(|length| *length <= self.received.len()) else {
                return Ok(replies);
            };
            let message: Vec<u8> = self.received.drain(..length).collect();
            let request = Request::decode(&message).map_err(|e| e.to_string())?;
            self.answer(&request, &mut replies)?;
        }
    }

    fn answer(&mut self, request: &Request, replies: &mut Vec<u8>) -> Result<(), String> {
        let documents = match request.name() {
            "isMaster" | "hello" => vec![self.hello(&request.command)?],
            "saslStart" => {
                let (conversation, first) = Conversation::start(&request.command)?;
                self.scram = Some(conversation);
                vec![first]
            }
            "saslContinue" => {
                self.renewed = self.greeted;
                self.greeted = true;
                vec![self.scram(|scram| scram.proceed(&request.command))?]
            }
            "ping" => vec![doc! { "ok": 1.0 }],
            "echo" if request.command.contains_key("expired") && !self.renewed => {
                vec![doc! { "ok": 0.0, "code": 391, "errmsg": "expired" }]
            }
            "echo" => vec![echo(request.command.get("echo"))],
            "stream" => {
                let elements = request.command.get_array("stream");
                let elements = elements.map_err(|e| e.to_string())?;
                elements.iter().map(|value| echo(Some(value))).collect()
            }
            other => return Err(format!("unknown command {other}")),
        };
        if request.is_unacknowledged() {
            return Ok(());
        }
        if documents.len() > 1 && request.flags & EXHAUST_ALLOWED == 0 {
            return Err("a stream that the client does not allow".to_owned());
        }
        // Real servers name the request, or the previous reply.
        let chained = request.command.get_bool("chained").unwrap_or(false);
        let mut answered = request.request_id;
        for (index, document) in documents.iter().enumerate() {
            self.last_id += 1;
            let more = index + 1 < documents.len();
            let flags = if more { MORE_TO_COME } else { 0 };
            let mut reply = codec::encode_command(self.last_id, flags, document);
            reply[8..12].copy_from_slice(&answered.to_le_bytes());
            replies.extend(match request.compressor {
                Some(compressor) => compressor.wrap(reply),
                None => reply,
            });
            if chained {
                answered = self.last_id;
            }
        }
        Ok(())
    }

    fn hello(&mut self, command: &Document) -> Result<Document, String> {
        let mut reply = doc! {
            "ismaster": true,
            "helloOk": true,
            "maxBsonObjectSize": 16 * 1024 * 1024,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "minWireVersion": 0,
            "maxWireVersion": 25,
            "ok": 1.0,
        };
        if command
            .get_array("compression")
            .is_ok_and(|own| !own.is_empty())
        {
            reply.insert("compression", ["snappy"].as_slice());
        }
        if let Ok(start) = command.get_document("speculativeAuthenticate") {
            let (conversation, first) = Conversation::start(start)?;
            self.scram = Some(conversation);
            reply.insert("speculativeAuthenticate", first);
        }
        Ok(reply)
    }

    fn scram<R>(
        &mut self,
        go_on: impl FnOnce(Conversation) -> Result<R, String>,
    ) -> Result<R, String> {
        go_on(self.scram.take().ok_or("no conversation")?)
    }
}

fn echo(value: Option<&Bson>) -> Document {
    doc! { "echo": value.cloned().unwrap_or(Bson::Null), "ok": 1.0 }
}
