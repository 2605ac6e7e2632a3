//! Why authentication failed.

use super::{AuthMechanism, CredentialError, ScramError, ScramMechanism};

/// Why authentication failed. The [`Error`](crate::Error) that carries this names the user and the
/// server. No variant shows a password, a key, a nonce or a message of the conversation.
///
/// Specification: authentication.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The credential lacks something that its mechanism needs, or has something that the mechanism
    /// does not allow.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// This build does not support the mechanism.
    #[error("the mechanism {0} is not supported")]
    UnsupportedMechanism(AuthMechanism),
    /// The server answered `ok: 0`: it refuses the credential (code 18), or can't check it.
    #[error("{mechanism}: the server refused: {message} (code {code}{}{code_name})", if code_name.is_empty() { "" } else { " " })]
    Refused {
        /// The mechanism that was used.
        mechanism: AuthMechanism,
        /// The server's error code, 18 for a wrong user or password; 0 if it sent none.
        code: i32,
        /// The code's name, such as `AuthenticationFailed`; empty if the server sent none.
        code_name: String,
        /// The server's message, cut to 1024 bytes.
        message: String,
        /// The error labels that the server sent, at most 16.
        labels: Vec<String>,
    },
    /// The server's reply is not a valid reply to an authentication command.
    #[error("{mechanism}: the server's reply has no valid {field}")]
    Reply {
        /// The mechanism.
        mechanism: AuthMechanism,
        /// The field that is missing, has the wrong type, or is out of bounds.
        field: &'static str,
    },
    /// The reply belongs to another conversation.
    #[error("{0}: the server's reply belongs to another conversation")]
    ConversationId(AuthMechanism),
    /// The server ended the conversation before the client had proved its identity.
    #[error("{0}: the server ended the conversation too early")]
    DoneTooEarly(AuthMechanism),
    /// The conversation should be over, but the server continues it.
    #[error("{0}: the server did not end the conversation")]
    NotDone(AuthMechanism),
    /// The SCRAM conversation failed.
    #[error("{mechanism}: {error}")]
    Scram {
        /// The mechanism.
        mechanism: ScramMechanism,
        /// The SCRAM error.
        error: ScramError,
    },
    /// The server is, or claims to be, an arbiter, which does not support authentication. A
    /// connection that needs authentication can't be used.
    #[error("the server is an arbiter, which does not support authentication")]
    Arbiter,
    /// The connection was authenticated for another user than the credential's, so that it can't be
    /// reauthenticated.
    #[error("the connection was authenticated for another user")]
    OtherUser,
    /// The credential must not be sent to the server's host
    /// ([`Credential::with_allowed_hosts`](super::Credential::with_allowed_hosts)). Nothing was sent.
    #[error("the credential must not be sent to this host: it is not one of the allowed hosts")]
    HostNotAllowed,
    /// The caller called a method out of order.
    #[error("authentication method called out of order")]
    OutOfOrder,
}

/// BadValue: the code for an unknown mechanism from servers that don't have `MechanismUnavailable`.
const BAD_VALUE: i32 = 2;

impl AuthError {
    /// Whether the credential is at fault: the server refused it, or it can't be used at all. The
    /// server then still works with other credentials. All other failures mean that the server, or
    /// the network path to it, does not work.
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
