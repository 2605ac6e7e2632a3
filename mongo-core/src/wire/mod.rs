//! The wire protocol: OP_MSG, OP_COMPRESSED, and the OP_QUERY and OP_REPLY that old servers need
//! for the first hello.
//!
//! Everything here is pure: bytes in, values out. Documents are borrowed from the message's bytes.
//! Malformed messages are refused with a [`WireError`]. No allocation depends only on a length that
//! a peer claims.

mod closed_reason;
mod compression;
mod compressor;
mod document;
mod error;
mod exchange;
mod fields;
mod header;
mod inspection;
mod legacy;
mod msg;
mod op_code;
mod section;
#[cfg(test)]
mod tests;

pub use closed_reason::ClosedReason;
use compression::{Packing, Unpacking};
pub use compression::{compress, decompress};
pub use compressor::Compressor;
pub use document::check_depth;
pub(crate) use document::{find_element, find_elements};
pub use error::WireError;
pub use exchange::{Bounds, Exchange, Readiness, Taker};
pub(crate) use fields::{ReplyFields, as_integer, as_number, as_text, embedded};
pub use header::{HEADER_LEN, Header, Limits, deframe};
use inspection::Inspection;
pub use legacy::{append_query, parse_reply};
pub use msg::{OpMsg, OpMsgBuilder};
pub use op_code::OpCode;
pub use section::{DocumentSequence, MsgFlags};

/// The lowest wire version that this crate supports: 8, MongoDB 4.2.
pub const MIN_WIRE_VERSION: i32 = 8;

/// The highest wire version that this crate supports: 27, MongoDB 8.2. Newer servers still support
/// it.
pub const MAX_WIRE_VERSION: i32 = 27;
