//! The server side of SCRAM-SHA-256, which accepts every proof. The kit's own server checks them.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const SALT: &[u8] = b"salt of sixteen!";
const ITERATIONS: u32 = 4096;

pub(crate) struct Conversation {
    /// Both first messages.
    messages: String,
}

impl Conversation {
    /// Answers the client's first message, which is in `command`.
    pub(crate) fn start(command: &Document) -> Result<(Self, Document), String> {
        let first = payload(command)?;
        let bare = first.strip_prefix("n,,").ok_or("no GS2 header")?;
        let nonce = bare.split_once(",r=").ok_or("no nonce")?.1;
        let answer = format!("r={nonce}more,s={},i={ITERATIONS}", BASE64.encode(SALT));
        let messages = format!("{bare},{answer}");
        Ok((Self { messages }, reply(false, &answer)))
    }

    /// Answers the client's last message.
    pub(crate) fn proceed(self, command: &Document) -> Result<Document, String> {
        let last = payload(command)?;
        let bare = last.rsplit_once(",p=").ok_or("no proof")?.0;
        let messages = format!("{},{bare}", self.messages);
        let signature = BASE64.encode(hmac(server_key(), messages.as_bytes()));
        Ok(reply(true, &format!("v={signature}")))
    }
}

fn server_key() -> &'static [u8] {
    static KEY: OnceLock<Vec<u8>> = OnceLock::new();
    KEY.get_or_init(|| {
        let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(b"pencil", SALT, ITERATIONS);
        hmac(&salted, b"Server Key")
    })
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length will do");
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

fn payload(command: &Document) -> Result<&str, String> {
    let bytes = command
        .get_binary_generic("payload")
        .map_err(|e| e.to_string())?;
    std::str::from_utf8(bytes).map_err(|e| e.to_string())
}

fn reply(done: bool, payload: &str) -> Document {
    let payload = Binary {
        subtype: BinarySubtype::Generic,
        bytes: payload.as_bytes().to_vec(),
    };
    doc! { "conversationId": 1, "done": done, "payload": payload, "ok": 1.0 }
}
