//! The steps of a conversation.

use std::fmt;

use bson::raw::{RawDocument, RawDocumentBuf};

use super::{KeyDerivation, Secret};

/// The next step of a conversation. `Debug` shows only a command's name.
pub enum AuthStep {
    /// Send a command to the authentication database, and pass the reply to
    /// [`Conversation::handle_reply`](super::Conversation::handle_reply). The command has no `$db` yet.
    Send(RawDocumentBuf),
    /// Obtain the evidence, and pass it to [`Conversation::handle_evidence`](super::Conversation::handle_evidence).
    Need(AuthNeed),
    /// The client is authenticated. The server has proved its identity too, if the mechanism
    /// includes that.
    Done,
}

/// The evidence that a conversation needs from the caller.
#[derive(Debug)]
#[non_exhaustive]
pub enum AuthNeed {
    /// The keys of a derivation, by [`KeyDerivation::run`] or from a cache.
    ScramKeys(KeyDerivation),
    /// An OpenID Connect access token, from a cache or from the identity provider.
    AccessToken {
        /// A token that the server has refused. If the cache holds it, remove it first.
        refused: Option<Secret>,
    },
    /// AWS credentials, and the current time.
    AwsCredentials,
}

impl fmt::Debug for AuthStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(command) => f.debug_tuple("Send").field(&command_name(command)).finish(),
            Self::Need(need) => f.debug_tuple("Need").field(need).finish(),
            Self::Done => f.write_str("Done"),
        }
    }
}

/// The name of a command; empty if the document is not a command.
pub(crate) fn command_name(command: &RawDocument) -> &str {
    match command.iter_elements().next() {
        Some(Ok(first)) => first.key().as_str(),
        Some(Err(_)) | None => "",
    }
}
