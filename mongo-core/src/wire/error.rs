use super::header::OpCode;
use crate::uri::Compressor;

/// Why a message was refused, on its way in or out.
///
/// Nothing of a message's content is in the text, only numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The header's length is negative or smaller than a header.
    #[error("message length {0} is smaller than the 16 bytes of a header")]
    TooShort(i32),
    /// The header's length is over the limit that holds on this connection.
    #[error("message length {length} is over the limit of {max} bytes")]
    TooLong {
        /// The length that the header gives, or that the message would have.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// The message ended before its contents did.
    #[error("message truncated: {needed} bytes needed, {got} there")]
    Truncated {
        /// Bytes that the contents need.
        needed: usize,
        /// Bytes that are there.
        got: usize,
    },
    /// The header's operation is none that this crate knows.
    #[error("unknown operation code {0}")]
    UnknownOpCode(i32),
    /// The operation is known and not expected here.
    #[error("unexpected operation {0:?}")]
    UnexpectedOpCode(OpCode),
    /// A flag of OP_MSG's required half (bits 0 to 15) is set that is not known.
    #[error("unknown required flag bits {0:#06x}")]
    RequiredFlags(u16),
    /// There is no section of kind 0.
    #[error("no body section")]
    NoBody,
    /// There is more than one section of kind 0.
    #[error("several body sections")]
    SeveralBodies,
    /// A section of a kind other than 0 and 1.
    #[error("unknown section kind {0}")]
    SectionKind(u8),
    /// A document sequence whose size or identifier does not fit it.
    #[error("malformed document sequence")]
    Sequence,
    /// The checksum is not that of the message.
    #[error("checksum {got:#010x} does not match the message's {expected:#010x}")]
    Checksum {
        /// Computed over the message.
        expected: u32,
        /// Sent with it.
        got: u32,
    },
    /// The reply answers another request.
    #[error("reply to request {got}, not to {expected}")]
    ResponseTo {
        /// The request that waits.
        expected: i32,
        /// The request that the reply names.
        got: i32,
    },
    /// A message that no request asked for.
    #[error("{0} bytes that no request asked for")]
    Unsolicited(usize),
    /// The reply announces another one (`moreToCome`), which the request did not allow.
    #[error("a stream of replies that the request did not allow")]
    MoreToCome,
    /// The number of a compressor that is not known, or not in this build.
    #[error("unknown compressor {0}")]
    Compressor(u8),
    /// Compressed content that can't be read, or that goes on after its end.
    #[error("malformed {0} content")]
    Compressed(Compressor),
    /// Compressed content is of another size than this, which was declared.
    #[error("compressed content is not of the declared {0} bytes")]
    UncompressedSize(i32),
    /// A document is nested deeper than the cap.
    #[error("document nested deeper than {0} levels")]
    TooDeep(usize),
    /// A reply to a hello, or one in an authentication, has more elements than such replies may have.
    #[error("more than {0} elements in a reply to a hello or in an authentication")]
    TooManyElements(usize),
    /// A document's bytes are no BSON.
    #[error("malformed document at byte {0}")]
    Document(usize),
    /// An OP_REPLY does not hold exactly one document.
    #[error("legacy reply with {0} documents instead of 1")]
    ReplyDocuments(i32),
    /// The reply has no `ok` field, or one that is no number.
    #[error("reply without a usable `ok` field")]
    NoOk,
}
