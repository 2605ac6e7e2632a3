//! Users that an external authority authenticates, in the database `$external`, and their
//! mechanisms.

use std::sync::{Mutex, PoisonError};

use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};

use crate::action::ErrorReply;
use crate::aws::AwsKey;

/// The database of external users.
pub(crate) const EXTERNAL: &str = "$external";

/// The user of every access token.
const OIDC_USER: &str = "issuer/subject";

/// The server's external users.
#[derive(Debug, Default)]
pub(crate) struct External {
    /// The subject that the server assumes for every client certificate.
    pub(crate) subject: Option<String>,
    /// Names and passwords.
    pub(crate) plain: Vec<(String, String)>,
    /// The valid access tokens, all of one user; `None` without OIDC.
    pub(crate) tokens: Option<Mutex<Vec<String>>>,
    /// Access keys of AWS.
    pub(crate) aws: Vec<AwsKey>,
}

/// The reply to a conversation's only command, and the user that it authenticates.
pub(crate) type Proved = Result<(Document, String), ErrorReply>;

impl External {
    pub(crate) fn is_empty(&self) -> bool {
        self.subject.is_none()
            && self.plain.is_empty()
            && self.tokens.is_none()
            && self.aws.is_empty()
    }

    /// MONGODB-X509: the command `authenticate`.
    pub(crate) fn authenticate(&self, database: &str, command: &Document) -> Proved {
        let subject = self.subject.as_deref().ok_or_else(failed)?;
        let is_meant = database == EXTERNAL
            && command
                .get_str("mechanism")
                .is_ok_and(|name| name == "MONGODB-X509")
            && command.get_str("user").unwrap_or(subject) == subject;
        if !is_meant {
            return Err(failed());
        }
        let reply = doc! {"dbname": EXTERNAL, "user": subject, "ok": 1.0};
        Ok((reply, subject.to_owned()))
    }

    /// The mechanisms with one message; `None` for others.
    pub(crate) fn start(&self, database: &str, command: &Document) -> Option<Proved> {
        // Without external users these mechanisms are unknown.
        if self.is_empty() {
            return None;
        }
        let payload = payload(command);
        match command.get_str("mechanism") {
            Ok("MONGODB-OIDC") => Some(self.oidc(database, payload)),
            Ok("PLAIN") => Some(self.plain(database, payload)),
            _ => None,
        }
    }

    /// Makes only these tokens valid.
    pub(crate) fn accept_tokens(&self, tokens: &[&str]) {
        let accepted = self.tokens.as_ref().expect("a server with access tokens");
        *accepted.lock().unwrap_or_else(PoisonError::into_inner) =
            tokens.iter().map(|&token| token.to_owned()).collect();
    }

    fn oidc(&self, database: &str, payload: &[u8]) -> Proved {
        let tokens = self.tokens.as_ref().ok_or_else(failed)?;
        let tokens = tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let request = Document::from_reader(payload).map_err(|_| failed())?;
        let token = request.get_str("jwt").map_err(|_| failed())?;
        match tokens.iter().any(|valid| valid == token) {
            true if database == EXTERNAL => Ok((done(), OIDC_USER.to_owned())),
            true | false => Err(failed()),
        }
    }

    fn plain(&self, database: &str, payload: &[u8]) -> Proved {
        let text = std::str::from_utf8(payload).map_err(|_| failed())?;
        let mut parts = text.split('\0');
        let (Some(""), Some(name), Some(password), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(failed());
        };
        let known = |user: &&(String, String)| user.0 == name && user.1 == password;
        match self.plain.iter().find(known) {
            Some(_) if database == EXTERNAL => Ok((done(), name.to_owned())),
            Some(_) | None => Err(failed()),
        }
    }
}

pub(crate) fn failed() -> ErrorReply {
    ErrorReply::new(18, "AuthenticationFailed", "Authentication failed.")
}

fn done() -> Document {
    sasl_reply(true, Vec::new())
}

pub(crate) fn sasl_reply(done: bool, bytes: Vec<u8>) -> Document {
    let payload = Binary {
        subtype: BinarySubtype::Generic,
        bytes,
    };
    doc! {"conversationId": 1, "done": done, "payload": payload, "ok": 1.0}
}

/// The bytes of a command's payload.
pub(crate) fn payload(command: &Document) -> &[u8] {
    let payload = command.get_binary_generic("payload");
    payload.map_or(&[][..], |payload| payload)
}
