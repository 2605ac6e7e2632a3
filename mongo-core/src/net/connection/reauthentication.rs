//! Authentication of an established connection.

use super::Connection;
use crate::error::{ClosedReason, Error, Result, Wait};
use crate::net::deadline::{Deadline, Elapsed};

impl Connection {
    /// Authenticates this connection again with the current credential, without another hello.
    ///
    /// [`run_command`](Self::run_command) calls this if the server answers
    /// `ReauthenticationRequired` (code 391), and then runs the command again, once. Callers of
    /// [`send`](Self::send) and [`receive`](Self::receive) have to call it themselves.
    ///
    /// If the future is dropped, the method may be called again.
    ///
    /// # Errors
    /// - The server rejects the credential, or the credential is now another user's: the connection
    ///   is closed.
    /// - The credential can't be obtained, or the deadline passed: the connection is in the same
    ///   state as after a cancelled command.
    /// - [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if the connection was never
    ///   authenticated.
    ///
    /// Specification: authentication, "Reauthentication".
    pub async fn reauthenticate(&mut self, deadline: impl Into<Deadline>) -> Result<()> {
        let deadline = deadline.into();
        self.drain(deadline).await?;
        let identity = &self.inner.identity;
        let description = identity.description.clone();
        let Some(proof) = &mut self.inner.proof else {
            let error = Error::configuration("the connection was never authenticated");
            return Err(identity.name(error));
        };
        let mut phase = Wait::Credential;
        let mut enter = |next| phase = next;
        let (channel, server) = (&mut self.inner.channel, &identity.server);
        let renewed = proof.renew(channel, server, description, &mut enter);
        let outcome = match deadline.bound(renewed).await {
            Ok(outcome) => outcome,
            Err(Elapsed) => Err(self.explain_silence(deadline.timed_out(phase))),
        };
        outcome.map_err(|error| {
            if error.is_authentication() {
                self.close_for(ClosedReason::Unauthenticated);
            }
            // It is reported to the pool like the failure of a command.
            self.failed(error)
        })
    }
}
