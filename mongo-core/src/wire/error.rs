use super::op_code::OpCode;
use crate::wire::Compressor;

/// Why an incoming or outgoing message was refused.
///
/// Error messages contain only numbers, none of the message's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The header's length is negative or smaller than a header.
    #[error("message length {0} is smaller than the 16 bytes of a header")]
    TooShort(i32),
    /// The message is longer than the connection's limit.
    #[error("message length {length} is over the limit of {max} bytes")]
    TooLong {
        /// The length in the header, or of the outgoing message.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// The message ended before its contents did.
    #[error("message truncated: {needed} bytes needed, {got} available")]
    Truncated {
        /// The number of bytes that the contents need.
        needed: usize,
        /// The number of bytes that are available.
        got: usize,
    },
    /// The header's operation code is unknown.
    #[error("unknown operation code {0}")]
    UnknownOpCode(i32),
    /// The operation is known, but not expected here.
    #[error("unexpected operation {0:?}")]
    UnexpectedOpCode(OpCode),
    /// An unknown flag of OP_MSG's required half (bits 0 to 15) is set.
    #[error("unknown required flag bits {0:#06x}")]
    RequiredFlags(u16),
    /// There is no section of kind 0.
    #[error("no body section")]
    NoBody,
    /// There is more than one section of kind 0.
    #[error("more than one body section")]
    SeveralBodies,
    /// A section has a kind other than 0 and 1.
    #[error("unknown section kind {0}")]
    SectionKind(u8),
    /// A document sequence has a wrong size or an invalid identifier.
    #[error("malformed document sequence")]
    Sequence,
    /// The checksum does not match the message.
    #[error("checksum {got:#010x} does not match the message's {expected:#010x}")]
    Checksum {
        /// The checksum computed over the message.
        expected: u32,
        /// The checksum sent with the message.
        got: u32,
    },
    /// The reply answers another request.
    #[error("reply to request {got}, not to {expected}")]
    ResponseTo {
        /// The id of the pending request.
        expected: i32,
        /// The id of the request that the reply names.
        got: i32,
    },
    /// A message came without a request.
    #[error("{0} bytes received without a request")]
    Unsolicited(usize),
    /// The reply announces another one (`moreToCome`), which the request did not allow.
    #[error("unexpected moreToCome: the request did not allow a stream of replies")]
    MoreToCome,
    /// The id of a compressor that is unknown, or not in this build.
    #[error("unknown compressor {0}")]
    Compressor(u8),
    /// Compressed content is malformed, or continues after its end.
    #[error("malformed {0} content")]
    Compressed(Compressor),
    /// Compressed content does not have this declared size.
    #[error("compressed content does not have the declared {0} bytes")]
    UncompressedSize(i32),
    /// A document is nested deeper than the limit.
    #[error("document nested deeper than {0} levels")]
    TooDeep(usize),
    /// A reply to a hello or during authentication has more elements than allowed.
    #[error("more than {0} elements in a reply to a hello or during authentication")]
    TooManyElements(usize),
    /// A document's bytes are not valid BSON.
    #[error("malformed document at byte {0}")]
    Document(usize),
    /// An OP_REPLY does not hold exactly one document.
    #[error("legacy reply with {0} documents instead of 1")]
    ReplyDocuments(i32),
    /// The reply has no `ok` field, or one that is not a number.
    #[error("reply without a valid `ok` field")]
    NoOk,
}
