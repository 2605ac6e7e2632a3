//! Derivation of the keys from the password, and signatures with them.

use std::fmt;
use std::sync::Arc;

use hmac::digest::block_api::EagerHash;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{ScramError, ScramMechanism};

/// The output of a hash function, wiped on drop.
pub(super) struct Hashed {
    bytes: Zeroizing<[u8; 32]>,
    length: usize,
}

impl Hashed {
    fn zero(length: usize) -> Self {
        Self {
            bytes: Zeroizing::new([0; 32]),
            length,
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

/// The slow step of SCRAM: PBKDF2 over the password, with the salt and the iteration count from the
/// server. Both are known to be within bounds.
///
/// [`run`](Self::run) takes 2 to 5 ms of CPU for 15,000 iterations, and up to about a second for
/// [`MAX_ITERATIONS`](super::MAX_ITERATIONS). Don't run it on an asynchronous runtime's worker
/// threads. The password is a copy, wiped on drop.
pub struct KeyDerivation {
    mechanism: ScramMechanism,
    password: Zeroizing<Vec<u8>>,
    salt: Vec<u8>,
    iterations: u32,
}

impl KeyDerivation {
    /// Prepares the password for the mechanism: SASLprep for SCRAM-SHA-256; for SCRAM-SHA-1,
    /// MongoDB's MD5 digest of user name and password, neither of them prepared.
    pub(super) fn new(
        mechanism: ScramMechanism,
        username: &str,
        password: &str,
        salt: Vec<u8>,
        iterations: u32,
    ) -> Result<Self, ScramError> {
        let password = match mechanism {
            ScramMechanism::Sha1 => mongo_digest(username, password),
            ScramMechanism::Sha256 => stringprep::saslprep(password)
                .map_err(|_| ScramError::Password)
                .map(|prepared| Zeroizing::new(prepared.into_owned().into_bytes()))?,
        };
        Ok(Self::with_prepared(mechanism, password, salt, iterations))
    }

    pub(super) fn with_prepared(
        mechanism: ScramMechanism,
        password: Zeroizing<Vec<u8>>,
        salt: Vec<u8>,
        iterations: u32,
    ) -> Self {
        Self {
            mechanism,
            password,
            salt,
            iterations,
        }
    }

    /// Derives the keys. Blocks the thread.
    pub fn run(&self) -> ScramKeys {
        let mut salted = Hashed::zero(self.mechanism.output_length());
        let derive = match self.mechanism {
            ScramMechanism::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>,
            ScramMechanism::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>,
        };
        derive(
            &self.password,
            &self.salt,
            self.iterations,
            salted.as_mut_slice(),
        );
        ScramKeys(Arc::new(Keys {
            mechanism: self.mechanism,
            client: keyed(self.mechanism, salted.as_slice(), b"Client Key"),
            server: keyed(self.mechanism, salted.as_slice(), b"Server Key"),
        }))
    }

    /// The key of the entry in a [`KeyCache`](super::KeyCache): a digest of mechanism, password,
    /// salt and iteration count.
    pub fn key(&self) -> CacheKey {
        let mut hash = Sha256::new();
        // Every part but the last is prefixed with its length, so that different inputs have
        // different encodings.
        for part in [
            self.mechanism.name().as_bytes(),
            &self.iterations.to_be_bytes(),
            &self.salt,
        ] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(&*self.password);
        CacheKey::new(hash.finalize().into())
    }

    /// The mechanism.
    pub fn mechanism(&self) -> ScramMechanism {
        self.mechanism
    }

    /// The iteration count, 4096 to 2,000,000.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }
}

impl fmt::Debug for KeyDerivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyDerivation")
            .field("mechanism", &self.mechanism)
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

/// The client's and the server's key. They are enough to authenticate without the password.
///
/// Cloning is cheap and does not copy the keys. They are wiped when the last clone is dropped.
#[derive(Clone)]
pub struct ScramKeys(Arc<Keys>);

struct Keys {
    mechanism: ScramMechanism,
    client: Hashed,
    server: Hashed,
}

impl ScramKeys {
    /// The mechanism that the keys are for.
    pub fn mechanism(&self) -> ScramMechanism {
        self.0.mechanism
    }

    /// The client's proof: its key, XORed with a signature of the conversation.
    pub(super) fn client_proof(&self, conversation: &str) -> Hashed {
        let stored = hashed(self.0.mechanism, self.0.client.as_slice());
        let mut proof = keyed(self.0.mechanism, stored.as_slice(), conversation.as_bytes());
        for (byte, key) in proof
            .as_mut_slice()
            .iter_mut()
            .zip(self.0.client.as_slice())
        {
            *byte ^= key;
        }
        proof
    }

    /// The signature that the server has to send.
    pub(super) fn server_signature(&self, conversation: &str) -> Hashed {
        keyed(
            self.0.mechanism,
            self.0.server.as_slice(),
            conversation.as_bytes(),
        )
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScramKeys({}, ..)", self.0.mechanism)
    }
}

fn mongo_digest(username: &str, password: &str) -> Zeroizing<Vec<u8>> {
    let mut hash = Md5::new();
    hash.update(username);
    hash.update(b":mongo:");
    hash.update(password);
    let digest: Zeroizing<[u8; 16]> = Zeroizing::new(hash.finalize().into());
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut hex = Zeroizing::new(Vec::with_capacity(2 * digest.len()));
    for byte in digest.iter() {
        hex.push(HEX[usize::from(byte >> 4)]);
        hex.push(HEX[usize::from(byte & 15)]);
    }
    hex
}

fn keyed(mechanism: ScramMechanism, key: &[u8], message: &[u8]) -> Hashed {
    fn fill<D: EagerHash>(key: &[u8], message: &[u8], output: &mut [u8]) {
        let mut mac = <Hmac<D> as KeyInit>::new_from_slice(key).expect("HMAC takes any key");
        mac.update(message);
        output.copy_from_slice(&mac.finalize().into_bytes());
    }
    let mut output = Hashed::zero(mechanism.output_length());
    match mechanism {
        ScramMechanism::Sha1 => fill::<Sha1>(key, message, output.as_mut_slice()),
        ScramMechanism::Sha256 => fill::<Sha256>(key, message, output.as_mut_slice()),
    }
    output
}

fn hashed(mechanism: ScramMechanism, message: &[u8]) -> Hashed {
    let mut output = Hashed::zero(mechanism.output_length());
    match mechanism {
        ScramMechanism::Sha1 => output
            .as_mut_slice()
            .copy_from_slice(&Sha1::digest(message)),
        ScramMechanism::Sha256 => output
            .as_mut_slice()
            .copy_from_slice(&Sha256::digest(message)),
    }
    output
}

/// The key of an entry in a [`KeyCache`](super::KeyCache): a SHA-256 digest of the mechanism, the prepared password,
/// the salt and the iteration count. `Debug` does not show it, because it allows faster guessing of
/// the password than the data that a server stores.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    pub(super) fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derivation(mechanism: ScramMechanism, user: &str, password: &str) -> KeyDerivation {
        KeyDerivation::new(mechanism, user, password, b"salt".to_vec(), 4096).expect("allowed")
    }

    #[test]
    fn sha_256_prepares_the_password_and_not_the_name() {
        let key = |password| derivation(ScramMechanism::Sha256, "user", password).key();
        assert_eq!(key("IX"), key("I\u{ad}X"));
        assert_eq!(key("IX"), key("\u{2168}"));
        assert_eq!(key("IV"), key("I\u{ad}V"));
        assert_ne!(key("IX"), key("ix"));
        // The user name is not part of the derivation.
        let other = derivation(ScramMechanism::Sha256, "\u{2168}", "IX").key();
        assert_eq!(key("IX"), other);
    }

    #[test]
    fn sha_256_refuses_passwords_that_saslprep_forbids() {
        for bad in ["a\u{7}b", "\u{627}1", "a\u{e000}"] {
            let made = KeyDerivation::new(ScramMechanism::Sha256, "u", bad, vec![1], 4096);
            assert_eq!(made.map(|_| ()), Err(ScramError::Password));
            // SCRAM-SHA-1 hashes any password.
            derivation(ScramMechanism::Sha1, "u", bad);
        }
    }

    #[test]
    fn sha_1_digests_user_and_password_unprepared() {
        assert_eq!(
            mongo_digest("user", "pencil").as_slice(),
            b"1c33006ec1ffd90f9cadcbcc0e118200"
        );
        let key = |user, password| derivation(ScramMechanism::Sha1, user, password).key();
        assert_ne!(key("u", "IX"), key("u", "I\u{ad}X"));
        assert_ne!(key("u", "IX"), key("v", "IX"));
    }

    #[test]
    fn the_cache_key_tells_every_part_apart() {
        let base = |mechanism, password: &str, salt: &[u8], iterations| {
            KeyDerivation::new(mechanism, "u", password, salt.to_vec(), iterations)
                .expect("allowed")
                .key()
        };
        let sha_256 = ScramMechanism::Sha256;
        let keys = [
            base(sha_256, "ab", b"cd", 4096),
            base(sha_256, "ab", b"cd", 4097),
            base(sha_256, "ab", b"ce", 4096),
            base(sha_256, "b", b"cda", 4096),
            base(sha_256, "dab", b"c", 4096),
            base(ScramMechanism::Sha1, "ab", b"cd", 4096),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{index}");
        }
        assert_eq!(keys[0], base(sha_256, "ab", b"cd", 4096));
    }

    #[test]
    fn debug_of_keys_shows_no_secret() {
        let derivation = derivation(ScramMechanism::Sha256, "user", "MARKED");
        assert_eq!(
            format!(
                "{derivation:?} {:?} {:?}",
                derivation.key(),
                derivation.run()
            ),
            "KeyDerivation { mechanism: Sha256, iterations: 4096, .. } CacheKey(..) \
             ScramKeys(SCRAM-SHA-256, ..)"
        );
    }
}
