//! The server side of SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802, RFC 7677), correct or with a fault.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, doc};

use crate::action::ErrorReply;
use crate::external::failed;
use crate::user::{Keys, Mechanism, User};

/// A fault in the server's half of a SCRAM conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScramAttack {
    /// The combined nonce is the first half of the client's.
    ShortNonce,
    /// The combined nonce is the client's alone, without a server part.
    BareNonce,
    /// The combined nonce does not begin with the client's.
    ForeignNonce,
    /// The first message has this iteration count.
    Iterations(u64),
    /// This text instead of the server's first message.
    FirstMessage(String),
    /// The last message is empty.
    NoSignature,
    /// The last message's signature uses other keys.
    WrongSignature,
    /// This text instead of the server's last message.
    LastMessage(String),
    /// The first message says `done: true`.
    DoneTooEarly,
    /// No message ever says `done: true`.
    NeverDone,
}

/// A conversation between `saslStart` and its end.
#[derive(Debug)]
pub(crate) struct Conversation {
    user: User,
    mechanism: Mechanism,
    skip_empty_exchange: bool,
    attack: Option<ScramAttack>,
    client_first_bare: String,
    gs2_header: String,
    server_first: String,
    nonce: String,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for the client's proof.
    Proof,
    /// Waits for the client's empty message.
    Empty,
}

/// A reply, and whether it authenticates the client.
pub(crate) struct Step {
    pub(crate) reply: Document,
    pub(crate) authenticated: bool,
}

/// The id of every conversation. A connection has only one.
const CONVERSATION_ID: i32 = 1;

fn bad_value(message: &str) -> ErrorReply {
    ErrorReply::new(2, "BadValue", message)
}

fn payload_of(command: &Document) -> Result<&str, ErrorReply> {
    let bytes = match command.get("payload") {
        Some(Bson::Binary(binary)) => &binary.bytes[..],
        Some(Bson::String(text)) => text.as_bytes(),
        _ => return Err(bad_value("payload is missing")),
    };
    std::str::from_utf8(bytes).map_err(|_| bad_value("payload is no UTF-8"))
}

fn reply(done: bool, payload: &str) -> Document {
    let payload = Binary {
        subtype: BinarySubtype::Generic,
        bytes: payload.as_bytes().to_vec(),
    };
    doc! {"conversationId": CONVERSATION_ID, "done": done, "payload": payload, "ok": 1.0}
}

pub(crate) fn attribute<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message
        .split(',')
        .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

impl Conversation {
    /// Answers `saslStart`, which may also be part of a hello.
    pub(crate) fn start(
        users: &[User],
        database: &str,
        command: &Document,
        attack: Option<ScramAttack>,
        long_form: bool,
    ) -> Result<(Self, Document), ErrorReply> {
        let mechanism = command.get_str("mechanism").unwrap_or_default();
        let mechanism = Mechanism::by_name(mechanism).ok_or_else(|| {
            let message =
                format!("Received authentication for mechanism {mechanism} which is not enabled");
            ErrorReply::new(334, "MechanismUnavailable", &message)
        })?;
        let (gs2_header, bare) = split_gs2(payload_of(command)?)
            .ok_or_else(|| bad_value("the client's first message is malformed"))?;
        let name = attribute(bare, "n")
            .and_then(unescape)
            .ok_or_else(|| bad_value("bad user name"))?;
        let client_nonce = attribute(bare, "r").filter(|nonce| !nonce.is_empty());
        let client_nonce =
            client_nonce.ok_or_else(|| bad_value("the client's nonce is missing"))?;
        let user = users
            .iter()
            .find(|user| user.name == name && user.database == database && user.allows(mechanism))
            .ok_or_else(failed)?;
        let skip_empty_exchange = !long_form
            && command
                .get_document("options")
                .is_ok_and(|options| options.get_bool("skipEmptyExchange").unwrap_or(false));
        let nonce = combined_nonce(client_nonce, attack.as_ref());
        let server_first = server_first(&nonce, user.keys(mechanism), attack.as_ref());
        let done = attack == Some(ScramAttack::DoneTooEarly);
        let first_reply = reply(done, &server_first);
        let conversation = Self {
            user: user.clone(),
            mechanism,
            skip_empty_exchange,
            attack,
            client_first_bare: bare.to_owned(),
            gs2_header: gs2_header.to_owned(),
            server_first,
            nonce,
            state: State::Proof,
        };
        Ok((conversation, first_reply))
    }

    /// The user that the client claims to be.
    pub(crate) fn user(&self) -> &User {
        &self.user
    }

    /// Answers `saslContinue`. An error, or a reply that is done, ends the conversation.
    pub(crate) fn proceed(&mut self, command: &Document) -> Result<Step, ErrorReply> {
        if !command
            .get_i32("conversationId")
            .is_ok_and(|id| id == CONVERSATION_ID)
        {
            return Err(ErrorReply::new(
                17,
                "ProtocolError",
                "sasl: Mismatched conversation id",
            ));
        }
        let payload = payload_of(command)?;
        let never_done = self.attack == Some(ScramAttack::NeverDone);
        match self.state {
            State::Empty if payload.is_empty() => Ok(Step {
                reply: reply(!never_done, ""),
                authenticated: !never_done,
            }),
            State::Empty => Err(bad_value("an empty message was expected")),
            State::Proof => {
                let signature = self.verify(payload).ok_or_else(failed)?;
                let done = self.skip_empty_exchange && !never_done;
                self.state = State::Empty;
                Ok(Step {
                    reply: reply(done, &self.last_message(&signature)),
                    authenticated: done,
                })
            }
        }
    }

    /// The server's signature, if the client's last message proves knowledge of the password.
    fn verify(&self, client_last: &str) -> Option<Vec<u8>> {
        let (without_proof, proof) = client_last.rsplit_once(",p=")?;
        let binding = BASE64.encode(&self.gs2_header);
        let bound = attribute(without_proof, "c")? == binding;
        let nonce = attribute(without_proof, "r")? == self.nonce;
        let proof = BASE64.decode(proof).ok()?;
        let auth_message = format!(
            "{},{},{without_proof}",
            self.client_first_bare, self.server_first
        );
        let keys = self.user.keys(self.mechanism);
        let client_signature = self
            .mechanism
            .hmac(&keys.stored_key, auth_message.as_bytes());
        if !bound || !nonce || proof.len() != client_signature.len() {
            return None;
        }
        let client_key: Vec<u8> = proof
            .iter()
            .zip(&client_signature)
            .map(|(left, right)| left ^ right)
            .collect();
        (self.mechanism.hash(&client_key) == keys.stored_key).then(|| {
            self.mechanism
                .hmac(&keys.server_key, auth_message.as_bytes())
        })
    }

    fn last_message(&self, signature: &[u8]) -> String {
        match &self.attack {
            Some(ScramAttack::NoSignature) => String::new(),
            Some(ScramAttack::LastMessage(text)) => text.clone(),
            Some(ScramAttack::WrongSignature) => {
                let wrong: Vec<u8> = signature.iter().map(|byte| !byte).collect();
                format!("v={}", BASE64.encode(wrong))
            }
            _ => format!("v={}", BASE64.encode(signature)),
        }
    }
}

/// Splits `n,,n=user,r=nonce` after the GS2 header `n,,`.
fn split_gs2(message: &str) -> Option<(&str, &str)> {
    let flag_end = message.find(',')?;
    let authzid_end = flag_end + 1 + message[flag_end + 1..].find(',')?;
    let (header, bare) = message.split_at(authzid_end + 1);
    matches!(&header[..flag_end], "n" | "y").then_some((header, bare))
}

/// RFC 5802 writes `,` as `=2C` and `=` as `=3D`; any other `=` is an error.
fn unescape(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut result = parts.next()?.to_owned();
    for part in parts {
        let (plain, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (None, Some(rest)) => ('=', rest),
            (None, None) => return None,
        };
        result.push(plain);
        result.push_str(rest);
    }
    Some(result)
}

fn combined_nonce(client_nonce: &str, attack: Option<&ScramAttack>) -> String {
    match attack {
        // RFC 5802 nonces are ASCII. Another nonce is returned whole.
        Some(ScramAttack::ShortNonce) => client_nonce
            .get(..client_nonce.len() / 2)
            .unwrap_or(client_nonce)
            .to_owned(),
        Some(ScramAttack::BareNonce) => client_nonce.to_owned(),
        // As long as a correct one, so that only its beginning is wrong.
        Some(ScramAttack::ForeignNonce) => random_text() + &random_text(),
        _ => format!("{client_nonce}{}", random_text()),
    }
}

fn server_first(nonce: &str, keys: &Keys, attack: Option<&ScramAttack>) -> String {
    let iterations = match attack {
        Some(ScramAttack::FirstMessage(text)) => return text.clone(),
        Some(ScramAttack::Iterations(count)) => *count,
        _ => u64::from(keys.iterations),
    };
    format!("r={nonce},s={},i={iterations}", BASE64.encode(&keys.salt))
}

pub(crate) fn random_text() -> String {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    BASE64.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_are_unescaped() {
        assert_eq!(unescape("a=2Cb=3Dc").as_deref(), Some("a,b=c"));
        assert_eq!(unescape("=3D2C").as_deref(), Some("=2C"));
        assert_eq!(unescape("a=b"), None);
    }

    #[test]
    fn the_gs2_header_is_split_off() {
        assert_eq!(split_gs2("n,,n=user,r=abc"), Some(("n,,", "n=user,r=abc")));
        assert_eq!(split_gs2("n,a=x,n=user"), Some(("n,a=x,", "n=user")));
        assert_eq!(split_gs2("p=tls,,n=user"), None);
        assert_eq!(split_gs2("n=user"), None);
    }

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_rfc_example_is_accepted() {
        let user = User::new("user", "pencil")
            .iterations(4096)
            .salt(&BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap());
        let server_first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let conversation = Conversation {
            user,
            mechanism: Mechanism::ScramSha256,
            skip_empty_exchange: true,
            attack: None,
            client_first_bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".to_owned(),
            gs2_header: "n,,".to_owned(),
            server_first: server_first.to_owned(),
            nonce: "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned(),
            state: State::Proof,
        };
        let client_last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                           p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let signature = conversation.verify(client_last).unwrap();
        assert_eq!(
            BASE64.encode(signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
        let wrong = client_last.replace("p=d", "p=e");
        assert_eq!(conversation.verify(&wrong), None);
    }
}
