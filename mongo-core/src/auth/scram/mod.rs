//! The client's side of SCRAM (RFC 5802, RFC 7677), as values that turn each message into the next.
//!
//! [`ClientFirst`] writes the first message and reads the server's answer into a [`Challenge`] with
//! a [`KeyDerivation`] in it. The keys come from [`KeyDerivation::run`], the only slow step
//! (milliseconds of CPU), or from a [`KeyCache`]. The challenge then writes the final message and
//! returns an [`ExpectedProof`] to verify the server's answer with.
//!
//! MongoDB differs from the RFCs: user names are never prepared with SASLprep, and SCRAM-SHA-1 uses
//! a digest of user name and password as the password (see [`KeyDerivation`]).

mod cache;
mod client;
mod error;
mod keys;
mod message;
mod nonce;

pub use cache::KeyCache;
pub use client::{Challenge, ClientFirst, ExpectedProof};
pub use error::ScramError;
pub use keys::{CacheKey, KeyDerivation, ScramKeys};
pub use nonce::{Nonce, Nonces};

use std::fmt;

/// The minimum iteration count that is accepted: 4096, as the authentication specification
/// requires. With a lower one, a man in the middle could guess the password cheaply.
pub const MIN_ITERATIONS: u32 = 4096;

/// The maximum iteration count that is accepted: 2,000,000.
///
/// Servers use 10,000 (SCRAM-SHA-1) and 15,000 (SCRAM-SHA-256) by default, and the highest count
/// that is commonly recommended for PBKDF2 is 1,300,000. Two million take 0.25 s of CPU on a
/// processor with SHA instructions and 0.7 s without them (measured). So a hostile server can't use
/// more than about a second of CPU for each connection.
pub const MAX_ITERATIONS: u32 = 2_000_000;

/// The maximum length of a salt, in bytes: 256. Servers use 16 (SCRAM-SHA-1) and 28
/// (SCRAM-SHA-256).
pub const MAX_SALT_LENGTH: usize = 256;

/// The maximum length of a server's message, in bytes: 4096. Real messages have about 150.
pub const MAX_PAYLOAD_LENGTH: usize = 4096;

/// A SCRAM mechanism, named by its hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScramMechanism {
    /// SCRAM-SHA-1 (RFC 5802).
    Sha1,
    /// SCRAM-SHA-256 (RFC 7677).
    Sha256,
}

impl ScramMechanism {
    /// The mechanism's SASL name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SCRAM-SHA-1",
            Self::Sha256 => "SCRAM-SHA-256",
        }
    }

    /// The length of the hash function's output, in bytes.
    const fn output_length(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

impl fmt::Display for ScramMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
