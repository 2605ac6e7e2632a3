//! The consequences of a command time-out.

use super::Connection;
use crate::error::Error;

impl Connection {
    /// Notes that a command begins.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.inner.begun = self.inner.identity.generation.suspicion().last_check_in();
    }

    /// A command timed out: connections that have been idle since before it began are suspect too.
    pub(super) fn suspect_others(&self) {
        let suspicion = self.inner.identity.generation.suspicion();
        suspicion.raise(self.inner.begun);
    }

    /// Adds a cause to a time-out that is not the server's fault.
    pub(crate) fn explain_silence(&self, error: Error) -> Error {
        self.inner.channel.explain_silence(error)
    }

    /// Whether a command has timed out on another connection of the pool that began after this
    /// connection was checked in. If so, this connection must be verified before it is used.
    #[inline]
    pub(crate) fn is_suspect(&self) -> bool {
        let suspicion = self.inner.identity.generation.suspicion();
        suspicion.covers(self.inner.checked_in)
    }
}
