use std::fmt;

/// Why a connection runs no more commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClosedReason {
    /// A command was cancelled before the whole of it was written.
    CancelledWrite,
    /// The reply to a cancelled command did not arrive within the bound.
    CancelledReply,
    /// The reply to a cancelled command is too long to drain.
    LongReply,
    /// A stream of replies (`moreToCome`) was dropped before its end.
    CancelledStream,
    /// The socket failed, or the server closed it.
    Network,
    /// The server violated the protocol.
    Protocol,
    /// The server required reauthentication, which failed.
    Unauthenticated,
    /// The tokio runtime in which it was opened has shut down. This is no failure of the server. A
    /// pending command may have been executed.
    RuntimeEnded,
    /// The pool was cleared after the connection was made.
    Stale,
    /// The pool was cleared for a server that does not answer, or closed, while the connection was
    /// in use.
    Interrupted,
    /// It was evicted for a connection of another credential.
    Evicted,
    /// It exceeded its maximum idle time or lifetime.
    Expired,
    /// The pool or its owner closed it.
    Closed,
}

impl fmt::Display for ClosedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CancelledWrite => "a command was cancelled while it was being written",
            Self::CancelledReply => "the reply to a cancelled command did not arrive in time",
            Self::LongReply => "the reply to a cancelled command was too long",
            Self::CancelledStream => "a stream of replies was dropped before its end",
            Self::Network => "its socket failed",
            Self::Protocol => "the server violated the protocol",
            Self::Unauthenticated => "its reauthentication failed",
            Self::RuntimeEnded => "its runtime has shut down",
            Self::Stale => "the pool was cleared",
            Self::Interrupted => "the pool was cleared or closed while it was in use",
            Self::Evicted => "it was evicted for a connection of another credential",
            Self::Expired => "it exceeded its maximum idle time or lifetime",
            Self::Closed => "the pool or its owner closed it",
        })
    }
}
