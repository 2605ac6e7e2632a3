//! What follows when no reply comes in time.

use super::Connection;
use crate::error::Error;

impl Connection {
    /// Notes that a command begins.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.inner.begun = self.inner.identity.generation.suspicion().last_check_in();
    }

    /// No reply came in time: nor may one come on connections that have been idle since before the
    /// command began.
    pub(super) fn suspect_others(&self) {
        let suspicion = self.inner.identity.generation.suspicion();
        suspicion.raise(self.inner.begun);
    }

    /// Adds the cause to a time-out, where it is not the server.
    pub(crate) fn explain_silence(&self, error: Error) -> Error {
        self.inner.channel.explain_silence(error)
    }

    /// Whether a command has timed out on another connection of the pool that began after this one
    /// was given back: the server has to be asked before this one is used.
    #[inline]
    pub(crate) fn is_suspect(&self) -> bool {
        let suspicion = self.inner.identity.generation.suspicion();
        suspicion.covers(self.inner.checked_in)
    }
}
