//! Users, and the keys that a server stores for them.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A SCRAM mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// SCRAM-SHA-1, over the hex MD5 digest of `user:mongo:password`.
    ScramSha1,
    /// SCRAM-SHA-256, over the SASLprepped password.
    ScramSha256,
}

impl Mechanism {
    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::ScramSha256 => "SCRAM-SHA-256",
        }
    }

    pub(crate) fn by_name(name: &str) -> Option<Self> {
        [Self::ScramSha1, Self::ScramSha256]
            .into_iter()
            .find(|one| one.name() == name)
    }

    pub(crate) fn hash(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::ScramSha1 => Sha1::digest(data).to_vec(),
            Self::ScramSha256 => Sha256::digest(data).to_vec(),
        }
    }

    pub(crate) fn hmac(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        fn run<M: Mac + KeyInit>(key: &[u8], data: &[u8]) -> Vec<u8> {
            let mut mac =
                <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
            mac.update(data);
            mac.finalize().into_bytes().to_vec()
        }
        match self {
            Self::ScramSha1 => run::<Hmac<Sha1>>(key, data),
            Self::ScramSha256 => run::<Hmac<Sha256>>(key, data),
        }
    }

    /// The salted password: PBKDF2 with as many bytes as the hash has.
    pub(crate) fn salted(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        match self {
            Self::ScramSha1 => {
                pbkdf2::pbkdf2_hmac_array::<Sha1, 20>(password, salt, iterations).to_vec()
            }
            Self::ScramSha256 => {
                pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password, salt, iterations).to_vec()
            }
        }
    }

    /// The form of the password that is hashed.
    pub(crate) fn prepared<'a>(self, user: &str, password: &'a str) -> Cow<'a, str> {
        match self {
            Self::ScramSha1 => {
                let digest = Md5::digest(format!("{user}:mongo:{password}"));
                digest
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>()
                    .into()
            }
            Self::ScramSha256 => {
                stringprep::saslprep(password).expect("a test user's password can be SASLprepped")
            }
        }
    }

    fn salt_length(self) -> usize {
        match self {
            Self::ScramSha1 => 16,
            Self::ScramSha256 => 28,
        }
    }
}

/// The keys that a server stores instead of a password.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) salt: Vec<u8>,
    pub(crate) iterations: u32,
    pub(crate) stored_key: Vec<u8>,
    pub(crate) server_key: Vec<u8>,
}

/// A user of a server. By default it is in `admin`, with both mechanisms and 4096 iterations. That
/// is the minimum that clients accept, so that tests are fast; real servers use 10000 and 15000.
#[derive(Clone)]
#[must_use]
pub struct User {
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) database: String,
    mechanisms: Vec<Mechanism>,
    iterations: u32,
    salt: Option<Vec<u8>>,
    keys: Arc<[OnceLock<Keys>; 2]>,
}

impl User {
    /// A user with this name and password.
    pub fn new(name: &str, password: &str) -> Self {
        Self {
            name: name.to_owned(),
            password: password.to_owned(),
            database: "admin".to_owned(),
            mechanisms: vec![Mechanism::ScramSha1, Mechanism::ScramSha256],
            iterations: 4096,
            salt: None,
            keys: Arc::default(),
        }
    }

    /// Sets the database in which the user is defined: the client's `authSource`.
    pub fn database(mut self, database: &str) -> Self {
        database.clone_into(&mut self.database);
        self
    }

    /// Sets the user's mechanisms, in the order of `saslSupportedMechs`.
    pub fn mechanisms(mut self, mechanisms: &[Mechanism]) -> Self {
        self.mechanisms = mechanisms.to_vec();
        self
    }

    /// Sets PBKDF2's iteration count.
    pub fn iterations(mut self, iterations: u32) -> Self {
        self.iterations = iterations;
        self.keys = Arc::default();
        self
    }

    /// Sets the salt of both mechanisms. By default it depends only on the user and the mechanism.
    pub fn salt(mut self, salt: &[u8]) -> Self {
        self.salt = Some(salt.to_vec());
        self.keys = Arc::default();
        self
    }

    pub(crate) fn allows(&self, mechanism: Mechanism) -> bool {
        self.mechanisms.contains(&mechanism)
    }

    pub(crate) fn mechanism_names(&self) -> Vec<&'static str> {
        self.mechanisms
            .iter()
            .map(|mechanism| mechanism.name())
            .collect()
    }

    /// The keys, derived once.
    pub(crate) fn keys(&self, mechanism: Mechanism) -> &Keys {
        self.keys[mechanism as usize].get_or_init(|| {
            let salt = self.salt.clone().unwrap_or_else(|| {
                let seed = format!("{}.{} {}", self.database, self.name, mechanism.name());
                Sha256::digest(seed)[..mechanism.salt_length()].to_vec()
            });
            let password = mechanism.prepared(&self.name, &self.password);
            let salted = mechanism.salted(password.as_bytes(), &salt, self.iterations);
            let client_key = mechanism.hmac(&salted, b"Client Key");
            Keys {
                salt,
                iterations: self.iterations,
                stored_key: mechanism.hash(&client_key),
                server_key: mechanism.hmac(&salted, b"Server Key"),
            }
        })
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("database", &self.database)
            .field("mechanisms", &self.mechanisms)
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_password() {
        assert!(!format!("{:?}", User::new("u", "pencil")).contains("pencil"));
    }

    #[test]
    fn sha1_hashes_a_digest_and_sha256_a_prepared_password() {
        let digest = Mechanism::ScramSha1.prepared("user", "pencil");
        assert_eq!(digest, "1c33006ec1ffd90f9cadcbcc0e118200");
        assert_eq!(Mechanism::ScramSha256.prepared("u", "I\u{ad}X"), "IX");
    }
}
