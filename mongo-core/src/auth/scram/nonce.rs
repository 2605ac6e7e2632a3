//! Client nonces.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A client's nonce, which makes a conversation unique.
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce(Cow<'static, str>);

impl Nonce {
    /// The number of random bytes in a nonce.
    pub const RANDOM_BYTES: usize = 24;

    /// A nonce from bytes of the operating system's generator. Never reuse them.
    pub fn from_random(bytes: [u8; Self::RANDOM_BYTES]) -> Self {
        Self(Cow::Owned(STANDARD.encode(bytes)))
    }

    /// A given nonce, to replay a recorded conversation. `None` unless it is non-empty printable
    /// ASCII without a comma.
    pub fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty() && text.bytes().all(is_nonce_byte))
            .then(|| Self(Cow::Owned(text.to_owned())))
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

/// The nonces for one connection: one for the speculative conversation, and one for an ordinary
/// conversation if the speculative one fails.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Nonces {
    /// For the conversation that begins inside the handshake.
    pub speculative: Nonce,
    /// For the conversation that begins after the handshake.
    pub ordinary: Nonce,
}

impl Nonces {
    /// The nonces of one handshake.
    pub fn new(speculative: Nonce, ordinary: Nonce) -> Self {
        Self {
            speculative,
            ordinary,
        }
    }

    /// For a handshake without a credential, which sends none.
    pub const UNUSED: Self = Self {
        speculative: Nonce(Cow::Borrowed("unused")),
        ordinary: Nonce(Cow::Borrowed("unused")),
    };

    /// The number of random bytes in the nonces.
    pub const RANDOM_BYTES: usize = 2 * Nonce::RANDOM_BYTES;

    /// Nonces from bytes of the operating system's generator. Never reuse them.
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
