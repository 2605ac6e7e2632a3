//! The names of databases on a deployment that the kit did not start.

use std::borrow::Cow;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use bson::{Document, RawDocument, RawDocumentBuf};

use crate::codec::HEADER_LENGTH;
use crate::scram::random_text;

/// The databases that no test makes.
const SYSTEM: [&str; 4] = ["admin", "config", "local", "$external"];
/// The limit of a server, in bytes.
const LONGEST: usize = 63;

/// Maps the databases of one test to unique names, so that tests neither meet each other's data nor
/// a user's, and what they made can be found by its prefix.
#[derive(Debug)]
pub(super) struct Names {
    /// Empty if the names are used as they are.
    prefix: String,
}

impl Names {
    /// The names as they are, for a server of the test's own.
    pub(super) fn unchanged() -> Self {
        Self {
            prefix: String::new(),
        }
    }

    /// A prefix that no other test has. It contains `MONGO_TESTKIT_RUN`, by which `tests/run` finds
    /// what a killed process left behind.
    pub(super) fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let run = std::env::var("MONGO_TESTKIT_RUN").unwrap_or_else(|_| {
            let letters = random_text();
            let letters = letters.chars().filter(char::is_ascii_alphanumeric);
            letters.take(6).collect()
        });
        Self {
            prefix: format!("tk{run}_{}_{number}_", std::process::id()),
        }
    }

    /// The database's name on the server.
    pub(super) fn real<'a>(&self, database: &'a str) -> Cow<'a, str> {
        if self.prefix.is_empty() || SYSTEM.contains(&database) || self.is_own(database) {
            return Cow::Borrowed(database);
        }
        let name = format!("{}{database}", self.prefix);
        assert!(name.len() <= LONGEST, "{name} is too long for a database");
        Cow::Owned(name)
    }

    /// Whether a database on the server is one of these.
    pub(super) fn is_own(&self, real: &str) -> bool {
        !self.prefix.is_empty() && real.starts_with(&self.prefix)
    }

    /// Changes `$db` in a client's OP_MSG without a checksum.
    pub(super) fn request<'a>(&self, message: &'a [u8]) -> io::Result<Cow<'a, [u8]>> {
        if self.prefix.is_empty() {
            return Ok(Cow::Borrowed(message));
        }
        let flags = HEADER_LENGTH + 4;
        let mut renamed = message.get(..flags).ok_or_else(cut)?.to_vec();
        let mut rest = &message[flags..];
        while let [kind, section @ ..] = rest {
            let length = section.first_chunk().ok_or_else(cut)?;
            let length = usize::try_from(i32::from_le_bytes(*length)).map_err(|_| cut())?;
            let section = section.get(..length).ok_or_else(cut)?;
            renamed.push(*kind);
            match kind {
                0 => renamed.extend_from_slice(self.body(section)?.as_bytes()),
                _ => renamed.extend_from_slice(section),
            }
            rest = &rest[1 + length..];
        }
        let length = i32::try_from(renamed.len()).map_err(|_| cut())?;
        renamed[..4].copy_from_slice(&length.to_le_bytes());
        Ok(Cow::Owned(renamed))
    }

    fn body(&self, body: &[u8]) -> io::Result<RawDocumentBuf> {
        let mut renamed = RawDocumentBuf::new();
        for element in RawDocument::from_bytes(body).map_err(io::Error::other)? {
            let (key, value) = element.map_err(io::Error::other)?;
            match (key.as_str(), value.as_str()) {
                ("$db", Some(database)) => renamed.append(key, &*self.real(database)),
                _ => renamed.append(key, value),
            }
        }
        Ok(renamed)
    }

    /// Restores the name in a cursor's namespace.
    pub(super) fn reply(&self, reply: &mut Document) {
        let Ok(cursor) = reply.get_document_mut("cursor") else {
            return;
        };
        if let Ok(namespace) = cursor.get_str("ns")
            && self.is_own(namespace)
        {
            let plain = namespace[self.prefix.len()..].to_owned();
            cursor.insert("ns", plain);
        }
    }
}

fn cut() -> io::Error {
    io::Error::other("a section ends early")
}

#[cfg(test)]
mod tests {
    use bson::{Bson, doc};

    use super::*;
    use crate::codec::{Reply, Request, document_bytes, encode_command};

    #[test]
    fn a_request_goes_to_a_database_of_its_own_and_its_reply_names_the_plain_one() {
        let names = Names::unique();
        let insert = doc! {"insert": "c", "ordered": true, "$db": "kit", "txnNumber": 1_i64};
        let mut message = encode_command(7, 0, &insert);
        let document = document_bytes(&doc! {"$db": "kit"});
        let length = i32::try_from(4 + "documents\0".len() + document.len()).unwrap();
        message.push(1);
        message.extend_from_slice(&length.to_le_bytes());
        message.extend_from_slice(b"documents\0");
        message.extend_from_slice(&document);
        let length = i32::try_from(message.len()).unwrap();
        message[..4].copy_from_slice(&length.to_le_bytes());

        let renamed = Request::decode(&names.request(&message).unwrap()).unwrap();
        let real = names.real("kit");
        assert!(real.len() > "kit".len() && real.ends_with("_kit"), "{real}");
        assert_eq!((renamed.request_id, &*renamed.database), (7, &*real));
        let mut expected = insert;
        expected.insert("$db", &*real);
        expected.insert("documents", vec![doc! {"$db": "kit"}]);
        assert_eq!(renamed.command, expected);

        let namespace = format!("{real}.c");
        let mut reply = doc! {"cursor": {"id": 0_i64, "ns": namespace}, "ok": 1};
        names.reply(&mut reply);
        let cursor = reply.get_document("cursor").unwrap();
        assert_eq!(cursor.get("ns"), Some(&Bson::from("kit.c")));
    }

    #[test]
    fn system_databases_and_mapped_names_stay() {
        let names = Names::unique();
        for name in SYSTEM {
            assert_eq!(names.real(name), name);
        }
        let once = names.real("kit").into_owned();
        assert_eq!(names.real(&once), once);
        assert_ne!(Names::unique().real("kit"), once);
        assert_eq!(Names::unchanged().real("kit"), "kit");
        let message = encode_command(1, 0, &doc! {"ping": 1, "$db": "admin"});
        assert_eq!(&*names.request(&message).unwrap(), &*message);
        assert!(Reply::decode(&message).is_ok());
    }
}
