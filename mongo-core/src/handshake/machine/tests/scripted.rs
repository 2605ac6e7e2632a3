//! A server for the unit tests: it answers hellos and implements the server's side of SCRAM
//! independently of the client's. It can be made to lie.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bson::spec::BinarySubtype;
use bson::{Binary, RawDocument, RawDocumentBuf, rawdoc};
use hmac::digest::block_api::EagerHash;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::auth::{AuthNeed, Evidence, Nonce, Nonces};
use crate::error::Error;

use crate::handshake::{ConnectionDescription, Handshake, HandshakeContext, Outgoing, Step};

/// Changes a message of the server.
pub(super) type Edit = fn(String) -> String;

/// Changes a whole reply, given its number.
pub(super) type EditReply = fn(usize, RawDocumentBuf) -> RawDocumentBuf;

pub(super) struct Server {
    pub(super) user: &'static str,
    pub(super) password: &'static str,
    /// The user's mechanisms; `None` sends no list.
    pub(super) mechanisms: Option<Vec<&'static str>>,
    /// The mechanisms that `saslStart` supports.
    pub(super) scram: Vec<&'static str>,
    pub(super) speculates: bool,
    pub(super) skips_empty_exchange: bool,
    pub(super) hello: RawDocumentBuf,
    pub(super) server_first: Edit,
    pub(super) server_final: Edit,
    /// Changes the n-th reply of SCRAM, counted from 0, the speculative one included.
    pub(super) reply: EditReply,
    pub(super) heard: Heard,
}

/// The server's state of a conversation.
#[derive(Default)]
pub(super) struct Heard {
    replies: usize,
    client_first_bare: String,
    first: String,
    mechanism: String,
}

/// The outcome of an establishment.
pub(super) struct Outcome {
    pub(super) result: Result<ConnectionDescription, Error>,
    /// The commands, in order.
    pub(super) sent: Vec<Outgoing>,
    /// How often keys were needed.
    pub(super) derived: usize,
    /// Whether authentication was under way at the end.
    pub(super) was_authenticating: bool,
}

impl Outcome {
    pub(super) fn names(&self) -> Vec<&str> {
        self.sent.iter().map(|sent| name(&sent.command)).collect()
    }
}

fn name(command: &RawDocument) -> &str {
    let first = command.iter_elements().next().expect("a name");
    first.expect("valid").key().as_str()
}

pub(super) fn nonces() -> Nonces {
    let nonce = |text| Nonce::from_text(text).expect("printable");
    Nonces {
        speculative: nonce("speculative"),
        ordinary: nonce("ordinary"),
    }
}

pub(super) fn context() -> HandshakeContext {
    HandshakeContext::new(rawdoc! { "driver": { "name": "x" } }, nonces())
}

impl Default for Server {
    fn default() -> Self {
        Self {
            user: "user",
            password: "pencil",
            mechanisms: Some(vec!["SCRAM-SHA-1", "SCRAM-SHA-256"]),
            scram: vec!["SCRAM-SHA-1", "SCRAM-SHA-256"],
            speculates: true,
            skips_empty_exchange: true,
            hello: rawdoc! { "helloOk": true, "minWireVersion": 0, "maxWireVersion": 25 },
            server_first: |text| text,
            server_final: |text| text,
            reply: |_, reply| reply,
            heard: Heard::default(),
        }
    }
}

impl Server {
    /// Runs a handshake to its end.
    pub(super) fn establish(&mut self, context: HandshakeContext) -> Outcome {
        let mut handshake = Handshake::new(context);
        let (mut sent, mut derived, mut was_authenticating) = (Vec::new(), 0, false);
        let mut step = handshake.start();
        let result = loop {
            step = match step {
                Err(error) => break Err(error),
                Ok(Step::Done(description)) => break Ok(description),
                Ok(Step::Need(AuthNeed::ScramKeys(derivation))) => {
                    derived += 1;
                    assert_eq!(derivation.iterations(), ITERATIONS, "too much for a test");
                    handshake.handle_evidence(Evidence::ScramKeys(derivation.run()))
                }
                Ok(Step::Need(other)) => panic!("{other:?}"),
                Ok(Step::Send(outgoing)) => {
                    assert!(sent.len() < 5, "the client never ends");
                    was_authenticating = handshake.is_authenticating();
                    let reply = self.answer(&outgoing.command);
                    sent.push(outgoing);
                    handshake.handle_reply(&reply)
                }
            };
        };
        // It has ended, with or without success.
        assert!(handshake.start().is_err());
        assert!(handshake.handle_reply(&rawdoc! { "ok": 1 }).is_err());
        Outcome {
            result,
            sent,
            derived,
            was_authenticating,
        }
    }

    fn answer(&mut self, command: &RawDocument) -> RawDocumentBuf {
        match name(command) {
            "hello" | "isMaster" => self.hello(command),
            "saslStart" => {
                let mut reply = self.sasl_start(command);
                if reply.get("ok").expect("valid").is_none() {
                    reply.append(bson::raw::cstr!("ok"), 1.0);
                }
                reply
            }
            "saslContinue" => self.sasl_continue(command),
            other => panic!("{other}"),
        }
    }

    fn hello(&mut self, command: &RawDocument) -> RawDocumentBuf {
        let mut reply = self.hello.clone();
        if let (Ok(_), Some(list)) = (command.get_str("saslSupportedMechs"), &self.mechanisms) {
            let mut array = bson::RawArrayBuf::new();
            list.iter().for_each(|mechanism| array.push(*mechanism));
            reply.append(bson::raw::cstr!("saslSupportedMechs"), array);
        }
        match command.get_document("speculativeAuthenticate") {
            Ok(start) if self.speculates => {
                assert!(start.get_str("db").is_ok());
                let first = self.sasl_start(start);
                // A failed speculative authentication is ignored.
                if first.get("ok").expect("valid").is_none() {
                    reply.append(bson::raw::cstr!("speculativeAuthenticate"), first);
                }
            }
            _ => {}
        }
        if reply.get("ok").expect("valid").is_none() {
            reply.append(bson::raw::cstr!("ok"), 1.0);
        }
        reply
    }

    fn sasl_start(&mut self, command: &RawDocument) -> RawDocumentBuf {
        self.heard.mechanism = command.get_str("mechanism").expect("one").to_owned();
        let options = command.get_document("options").expect("options");
        assert_eq!(options.get_bool("skipEmptyExchange").ok(), Some(true));
        let first = payload(command);
        self.heard.client_first_bare = first.strip_prefix("n,,").expect("no binding").to_owned();
        let (name, nonce) = self
            .heard
            .client_first_bare
            .split_once(",r=")
            .expect("a nonce");
        let known = name == format!("n={}", self.user);
        if !known || !self.scram.contains(&&*self.heard.mechanism) {
            return refusal();
        }
        let salt = STANDARD.encode(SALT);
        self.heard.first = (self.server_first)(format!("r={nonce}%SERVER,s={salt},i={ITERATIONS}"));
        let reply = rawdoc! {
            "conversationId": 1, "done": false, "payload": binary(&self.heard.first),
        };
        self.edited(reply)
    }

    fn sasl_continue(&mut self, command: &RawDocument) -> RawDocumentBuf {
        let last = payload(command);
        if last.is_empty() {
            assert!(!self.skips_empty_exchange);
            let reply = rawdoc! {
                "conversationId": 1, "done": true, "payload": binary(""), "ok": 1.0
            };
            return self.edited(reply);
        }
        let (without_proof, proof) = last.split_once(",p=").expect("a proof");
        let conversation = format!(
            "{},{},{without_proof}",
            self.heard.client_first_bare, self.heard.first
        );
        let signature = match &*self.heard.mechanism {
            "SCRAM-SHA-1" => {
                let digest = Md5::digest(format!("{}:mongo:{}", self.user, self.password));
                let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                sign::<Sha1>(&digest, &conversation, proof)
            }
            _ => sign::<Sha256>(self.password, &conversation, proof),
        };
        let Some(signature) = signature else {
            return refusal();
        };
        let signature = (self.server_final)(format!("v={signature}"));
        let reply = rawdoc! {
            "conversationId": 1, "done": self.skips_empty_exchange,
            "payload": binary(&signature), "ok": 1.0,
        };
        self.edited(reply)
    }

    fn edited(&mut self, reply: RawDocumentBuf) -> RawDocumentBuf {
        self.heard.replies += 1;
        (self.reply)(self.heard.replies - 1, reply)
    }
}

const SALT: [u8; 16] = [7; 16];
const ITERATIONS: u32 = 4096;

/// The server's signature, if the client's proof is right.
fn sign<D: EagerHash + Digest>(password: &str, conversation: &str, proof: &str) -> Option<String> {
    let keyed = |key: &[u8], message: &[u8]| {
        let mut mac = <Hmac<D> as KeyInit>::new_from_slice(key).expect("any key");
        mac.update(message);
        mac.finalize().into_bytes().to_vec()
    };
    let mut salted = vec![0; <D as Digest>::output_size()];
    pbkdf2::pbkdf2_hmac::<D>(password.as_bytes(), &SALT, ITERATIONS, &mut salted);
    let stored = <D as Digest>::digest(keyed(&salted, b"Client Key"));
    let mask = keyed(&stored, conversation.as_bytes());
    let given = STANDARD.decode(proof).expect("base64");
    let unmasked: Vec<u8> = given.iter().zip(&mask).map(|(a, b)| a ^ b).collect();
    (<D as Digest>::digest(&unmasked) == stored).then(|| {
        let server_key = keyed(&salted, b"Server Key");
        STANDARD.encode(keyed(&server_key, conversation.as_bytes()))
    })
}

fn refusal() -> RawDocumentBuf {
    rawdoc! {
        "ok": 0.0, "errmsg": "Authentication failed.", "code": 18,
        "codeName": "AuthenticationFailed", "errorLabels": ["HandshakeError"],
    }
}

pub(super) fn binary(text: &str) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: text.as_bytes().to_vec(),
    }
}

fn payload(command: &RawDocument) -> String {
    let payload = command.get_binary("payload").expect("a payload");
    String::from_utf8(payload.bytes.to_vec()).expect("text")
}
