//! MONGODB-X509: TLS has verified the client certificate, and one command authenticates with it.

use bson::raw::{RawDocument, RawDocumentBuf, cstr};

use super::sasl::{self, Place};
use super::{AuthError, AuthMechanism, AuthStep, Credential};

const MECHANISM: AuthMechanism = AuthMechanism::MongoDbX509;

/// The `authenticate` command. The user name is sent only if one was given; otherwise the server
/// uses the certificate's subject.
pub(super) fn command(credential: &Credential) -> RawDocumentBuf {
    let mut command = RawDocumentBuf::new();
    command.append(cstr!("authenticate"), 1);
    command.append(cstr!("mechanism"), MECHANISM.as_str());
    if let Some(username) = credential.username() {
        command.append(cstr!("user"), &**username);
    }
    command
}

/// The server proves nothing here, since TLS has verified it. It can only refuse.
pub(super) fn handle(reply: &RawDocument, place: Place) -> Result<AuthStep, AuthError> {
    sasl::check(MECHANISM, reply, place, |_, _| {})?;
    Ok(AuthStep::Done)
}
