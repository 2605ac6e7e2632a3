//! Why authentication failed.

use super::{AuthMechanism, CredentialError, ScramError, ScramMechanism};

/// Why authentication failed. The user and the server stand in the [`Error`](crate::Error) that
/// carries this; no variant shows a password, a key, a nonce or a message of the conversation.
///
/// Specification: authentication.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The credential lacks something that its mechanism needs, or has what it does not take.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// This build can't authenticate with the mechanism.
    #[error("the mechanism {0} is not supported")]
    UnsupportedMechanism(AuthMechanism),
    /// The server answered `ok: 0`: it refuses the credential (code 18), or can't check it.
    #[error("{mechanism}: the server refused: {message} (code {code}{}{code_name})", if code_name.is_empty() { "" } else { " " })]
    Refused {
        /// The mechanism that was tried.
        mechanism: AuthMechanism,
        /// The server's error code, 18 for a wrong user or password; 0 where it sent none.
        code: i32,
        /// The code's name, such as `AuthenticationFailed`; empty where the server sent none.
        code_name: String,
        /// The server's message, cut to 1024 bytes.
        message: String,
        /// The error labels that the server gave, at most 16.
        labels: Vec<String>,
    },
    /// The server's reply is not what an authentication command answers with.
    #[error("{mechanism}: the server's reply has no valid {field}")]
    Reply {
        /// The mechanism.
        mechanism: AuthMechanism,
        /// The field that is missing, has the wrong type, or is out of its bounds.
        field: &'static str,
    },
    /// The reply belongs to another conversation.
    #[error("{0}: the server's reply belongs to another conversation")]
    ConversationId(AuthMechanism),
    /// The server ends the conversation before the client has proved anything.
    #[error("{0}: the server ends the conversation too early")]
    DoneTooEarly(AuthMechanism),
    /// The conversation should be over, and the server goes on.
    #[error("{0}: the server does not end the conversation")]
    NotDone(AuthMechanism),
    /// The messages inside the replies break SCRAM's rules.
    #[error("{mechanism}: {error}")]
    Scram {
        /// The mechanism.
        mechanism: ScramMechanism,
        /// What was wrong.
        error: ScramError,
    },
    /// The server is, or says it is, an arbiter, on which nobody can authenticate: a connection that
    /// was to be authenticated can't be handed out.
    #[error("the server is an arbiter, on which nobody can authenticate")]
    Arbiter,
    /// The connection was authenticated for another user than the credential's, and can't be
    /// authenticated again for this one.
    #[error("the connection was authenticated for another user")]
    OtherUser,
    /// The credential must not be sent to the server's host
    /// ([`Credential::with_allowed_hosts`](super::Credential::with_allowed_hosts)). Nothing was sent.
    #[error("the credential may not be sent to this host: it is none of the allowed hosts")]
    HostNotAllowed,
    /// A step was asked for that the conversation has not come to: a mistake of the caller.
    #[error("the authentication conversation is not at this step")]
    OutOfOrder,
}

/// The code of servers that do not know a mechanism and have no `MechanismUnavailable`: BadValue.
const BAD_VALUE: i32 = 2;

impl AuthError {
    /// Whether the credential is at fault, and the server as good as before for other credentials:
    /// the server refused it, or it can't be used at all. All other failures tell that the server,
    /// or the way to it, does not work.
    pub fn is_of_credential(&self) -> bool {
        match self {
            Self::Credential(_)
            | Self::UnsupportedMechanism(_)
            | Self::OtherUser
            | Self::HostNotAllowed
            | Self::Scram {
                error: ScramError::Password | ScramError::Server(_),
                ..
            } => true,
            Self::Refused { code, .. } => Self::is_about_user(*code) || *code == BAD_VALUE,
            Self::Reply { .. }
            | Self::ConversationId(_)
            | Self::DoneTooEarly(_)
            | Self::NotDone(_)
            | Self::Scram { .. }
            | Self::Arbiter
            | Self::OutOfOrder => false,
        }
    }

    /// Whether an error code says that the user, the password or the mechanism is wrong:
    /// UserNotFound, Unauthorized, AuthenticationFailed, MechanismUnavailable, AtlasError.
    pub(crate) fn is_about_user(code: i32) -> bool {
        matches!(code, 11 | 13 | 18 | 334 | 8000)
    }
}
