//! The wire protocol: OP_MSG, OP_COMPRESSED, and the OP_QUERY and OP_REPLY that old servers need
//! for the first hello.
//!
//! Everything here is pure: bytes in, values out. Documents are borrowed from the message's bytes.
//! Malformed messages are refused with a [`WireError`]. No allocation depends only on a length that
//! a peer claims.

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
mod reply;
#[cfg(test)]
mod tests;

use compression::{Packing, Unpacking};
pub use compression::{compress, decompress};
pub use compressor::Compressor;
pub use document::check_depth;
pub use error::WireError;
pub use exchange::{Bounds, Exchange, Readiness, Taker};
pub(crate) use fields::ReplyFields;
pub use header::{HEADER_LEN, Header, Limits, deframe};
use inspection::Inspection;
pub use legacy::{append_query, parse_reply};
pub use msg::{DocumentSequence, MsgFlags, OpMsg, OpMsgBuilder};
pub use op_code::OpCode;
pub(crate) use reply::write_concern_failure;
pub use reply::{WriteConcernError, check_ok, check_write, write_concern_error};
#[cfg(feature = "net")]
pub(crate) use reply::{check_write_of, glance, lacks_write_errors, write_concern_error_of};
