//! The reply to a cancelled command is read and discarded before the next one is sent.

use super::Connection;
use crate::error::{ClosedReason, Result, Wait};
use crate::net::deadline::{Deadline, Elapsed};
use crate::wire::Readiness;

/// The longest abandoned reply that is drained, in bytes. A longer one closes the connection.
pub(super) const DRAIN_BYTES: usize = 1024 * 1024;

impl Connection {
    /// Drains the outstanding reply to a cancelled command, if there is one.
    ///
    /// If the future is dropped, the method may be called again.
    ///
    /// # Errors
    /// The connection is closed if the reply does not arrive within `drain_timeout` (or before the
    /// deadline, if that is earlier), is longer than 1 MiB, or is the first of a stream.
    pub async fn drain(&mut self, deadline: Deadline) -> Result<()> {
        match self.readiness() {
            Readiness::Idle => return Ok(()),
            Readiness::Closed(reason) => return Err(self.closed(reason)),
            // The reply is discarded.
            Readiness::Owed => self.inner.watch = None,
        }
        let deadline = deadline.within(Some(self.inner.identity.drain_timeout));
        let outcome = match deadline.bound(self.inner.channel.read(DRAIN_BYTES)).await {
            Ok(outcome) => outcome,
            Err(Elapsed) => {
                // An earlier deadline of the caller proves nothing about the server.
                if deadline.elapsed() >= self.inner.identity.drain_timeout {
                    self.suspect_others();
                }
                Err(self.explain_silence(deadline.timed_out(Wait::Drain)))
            }
        };
        if let Err(error) = outcome {
            if let Readiness::Closed(reason @ ClosedReason::LongReply) = self.readiness() {
                return Err(self.closed(reason));
            }
            self.close_for(ClosedReason::CancelledReply);
            return Err(self.inner.identity.name(error));
        }
        match self.readiness() {
            // The drained reply announced more (`moreToCome`), of unknown number.
            Readiness::Closed(reason) => {
                self.close_for(reason);
                Err(self.closed(reason))
            }
            Readiness::Idle | Readiness::Owed => Ok(()),
        }
    }
}
