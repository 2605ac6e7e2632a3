//! Errors of a SCRAM conversation.

use super::{MAX_ITERATIONS, MAX_PAYLOAD_LENGTH, MAX_SALT_LENGTH, MIN_ITERATIONS};

/// An error in a SCRAM conversation. The server causes all of them except [`ScramError::Password`]
/// and [`ScramError::Keys`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScramError {
    /// SASLprep forbids a character in the password, or its mixture of text directions.
    #[error("SASLprep does not allow the password")]
    Password,
    /// A message of the server is empty.
    #[error("the server's {message} is empty")]
    Empty {
        /// The message's name in RFC 5802.
        message: &'static str,
    },
    /// A message of the server is longer than [`MAX_PAYLOAD_LENGTH`].
    #[error("the server's {message} has {length} bytes, more than {MAX_PAYLOAD_LENGTH}")]
    TooLong {
        /// The message's name in RFC 5802.
        message: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// A message of the server violates RFC 5802.
    #[error("the server's {message} is malformed: {expected} expected")]
    Malformed {
        /// The message's name in RFC 5802.
        message: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// The server requires an extension (`m=`). This client supports none.
    #[error("the server requires a SCRAM extension, which is not supported")]
    MandatoryExtension,
    /// The server's nonce does not begin with the client's, or adds nothing to it.
    #[error("the server's nonce does not extend the client's")]
    Nonce,
    /// The iteration count is below [`MIN_ITERATIONS`].
    #[error("the server asks for {0} iterations, fewer than {MIN_ITERATIONS}")]
    TooFewIterations(u64),
    /// The iteration count is above [`MAX_ITERATIONS`].
    #[error("the server asks for {0} iterations, more than {MAX_ITERATIONS}")]
    TooManyIterations(u64),
    /// The salt is empty, or longer than [`MAX_SALT_LENGTH`].
    #[error("the server's salt has {0} bytes, not 1 to {MAX_SALT_LENGTH}")]
    SaltLength(usize),
    /// The keys that were given belong to another hash function.
    #[error("the derived keys belong to another mechanism")]
    Keys,
    /// The server ended the conversation with an error (`e=`).
    #[error("the server reported an error: {0}")]
    Server(String),
    /// The server's last message has no signature, so that the server did not prove that it knows
    /// the user's keys.
    #[error("the server sent no signature")]
    NoSignature,
    /// The server's signature is wrong: the server does not know the user's keys.
    #[error("the server's signature is wrong")]
    Signature,
    /// The server ended the conversation before it sent its signature.
    #[error("the server ended the conversation before it sent its signature")]
    DoneTooEarly,
    /// The server does not end the conversation after the last SCRAM message.
    #[error("the server did not end the conversation")]
    NotDone,
}
