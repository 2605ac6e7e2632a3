//! What can be wrong in a SCRAM conversation.

use super::{MAX_ITERATIONS, MAX_PAYLOAD_LENGTH, MAX_SALT_LENGTH, MIN_ITERATIONS};

/// What was wrong in a SCRAM conversation. All of it but [`ScramError::Password`] and
/// [`ScramError::Keys`] is the server's doing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScramError {
    /// SASLprep forbids a character or a mixture of directions in the password.
    #[error("SASLprep does not allow the password")]
    Password,
    /// A message of the server has no bytes.
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
    /// A message of the server is not what RFC 5802 allows there.
    #[error("the server's {message} is malformed: {expected} expected")]
    Malformed {
        /// The message's name in RFC 5802.
        message: &'static str,
        /// What should have been there.
        expected: &'static str,
    },
    /// The server demands an extension (`m=`), and there is none that this client knows.
    #[error("the server demands an extension of SCRAM")]
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
    /// The server ended the conversation with an error of its own (`e=`).
    #[error("the server answered: {0}")]
    Server(String),
    /// The server's last message has no signature, so that it did not prove to know the password.
    #[error("the server gave no signature")]
    NoSignature,
    /// The server's signature is wrong: it does not know the password.
    #[error("the server's signature is wrong")]
    Signature,
    /// The server said that the conversation was over before it had given its signature.
    #[error("the server ended the conversation before it gave its signature")]
    DoneTooEarly,
    /// The server does not end the conversation after all that SCRAM has to say was said.
    #[error("the server does not end the conversation")]
    NotDone,
}
