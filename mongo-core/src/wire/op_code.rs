//! The operations of the wire protocol.

/// The operations that current drivers use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpCode {
    /// The reply to an `OP_QUERY`.
    Reply,
    /// The legacy request, used for the first hello to old servers.
    Query,
    /// A compressed message.
    Compressed,
    /// Any other message.
    Msg,
}

impl OpCode {
    /// The operation code on the wire.
    pub const fn code(self) -> i32 {
        match self {
            Self::Reply => 1,
            Self::Query => 2004,
            Self::Compressed => 2012,
            Self::Msg => 2013,
        }
    }
}
