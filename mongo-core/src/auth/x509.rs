//! MONGODB-X509: the client certificate has proved everything while TLS was set up, and one command
//! says that it is to count.

use bson::raw::{RawDocument, RawDocumentBuf, cstr};

use super::sasl::{self, Place};
use super::{AuthError, AuthMechanism, AuthStep, Credential};

const MECHANISM: AuthMechanism = AuthMechanism::MongoDbX509;

/// The `authenticate` command. A user name is sent only if one was given; the server takes the
/// certificate's subject for it.
pub(super) fn command(credential: &Credential) -> RawDocumentBuf {
    let mut command = RawDocumentBuf::new();
    command.append(cstr!("authenticate"), 1);
    command.append(cstr!("mechanism"), MECHANISM.as_str());
    if let Some(username) = credential.username() {
        command.append(cstr!("user"), &**username);
    }
    command
}

/// The server proves nothing here: TLS has done so. It only can disagree.
pub(super) fn handle(reply: &RawDocument, place: Place) -> Result<AuthStep, AuthError> {
    sasl::check(MECHANISM, reply, place, |_, _| {})?;
    Ok(AuthStep::Done)
}
