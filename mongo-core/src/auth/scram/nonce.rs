//! Client nonces.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A client's nonce: what makes a conversation different from every other.
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// How many random bytes a nonce is made of.
    pub const RANDOM_BYTES: usize = 24;

    /// A nonce from bytes of the operating system's generator. They must never be used again.
    pub fn from_random(bytes: [u8; Self::RANDOM_BYTES]) -> Self {
        Self(STANDARD.encode(bytes))
    }

    /// A nonce that is known beforehand, to replay a recorded conversation. `None` unless it is
    /// printable ASCII without a comma, and not empty.
    pub fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty() && text.bytes().all(is_nonce_byte)).then(|| Self(text.to_owned()))
    }

    pub(in crate::auth) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

/// The nonces for one connection: the speculative conversation's, and the one that an ordinary
/// conversation takes where speculation came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonces {
    /// For the conversation that begins inside the handshake.
    pub speculative: Nonce,
    /// For the conversation that begins after the handshake.
    pub ordinary: Nonce,
}

impl Nonces {
    /// How many random bytes the nonces are made of.
    pub const RANDOM_BYTES: usize = 2 * Nonce::RANDOM_BYTES;

    /// Nonces from bytes of the operating system's generator. They must never be used again.
    pub fn from_random(bytes: [u8; Self::RANDOM_BYTES]) -> Self {
        let (mut first, mut second) = ([0; Nonce::RANDOM_BYTES], [0; Nonce::RANDOM_BYTES]);
        first.copy_from_slice(&bytes[..Nonce::RANDOM_BYTES]);
        second.copy_from_slice(&bytes[Nonce::RANDOM_BYTES..]);
        Self {
            speculative: Nonce::from_random(first),
            ordinary: Nonce::from_random(second),
        }
    }
}

/// RFC 5802's `printable`: ASCII from `!` to `~` without the comma.
pub(super) fn is_nonce_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b','
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_printable_and_never_shown() {
        let nonces = Nonces::from_random(std::array::from_fn(|index| index as u8));
        assert_ne!(nonces.speculative, nonces.ordinary);
        assert_eq!(nonces.ordinary.as_str().len(), 32);
        assert!(nonces.ordinary.as_str().bytes().all(is_nonce_byte));
        assert_eq!(
            format!("{nonces:?}"),
            "Nonces { speculative: Nonce(..), ordinary: Nonce(..) }"
        );
        assert_eq!(Nonce::from_text("a,b"), None);
        assert_eq!(Nonce::from_text(""), None);
        assert_eq!(Nonce::from_text("a b"), None);
    }
}
