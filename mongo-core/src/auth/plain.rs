//! PLAIN (RFC 4616): user name and password in clear text.

use bson::raw::{RawDocument, RawDocumentBuf};
use zeroize::Zeroizing;

use super::sasl::{self, Place, SaslReply};
use super::{AuthError, AuthMechanism, AuthStep, Credential};

const MECHANISM: AuthMechanism = AuthMechanism::Plain;

/// The `saslStart` command, the only one. A NUL separates the user name and the password;
/// [`Credential::validate`] makes sure that neither contains one.
pub(super) fn command(credential: &Credential) -> RawDocumentBuf {
    let username = credential.username().map_or("", |name| name);
    let password = credential.password().map_or("", |secret| secret.expose());
    let mut message = Zeroizing::new(Vec::with_capacity(username.len() + password.len() + 2));
    message.push(0);
    message.extend_from_slice(username.as_bytes());
    message.push(0);
    message.extend_from_slice(password.as_bytes());
    sasl::start(MECHANISM, &message)
}

pub(super) fn handle(reply: &RawDocument, place: Place) -> Result<AuthStep, AuthError> {
    match SaslReply::read(MECHANISM, reply, place, None)?.done {
        true => Ok(AuthStep::Done),
        false => Err(AuthError::NotDone(MECHANISM)),
    }
}
