//! The wire protocol: OP_MSG, the OP_COMPRESSED round it, and the OP_QUERY and OP_REPLY that old
//! servers need for a first hello.
//!
//! Everything here is pure: bytes in, values out. Documents are borrowed from the bytes they came
//! in. What is malformed is refused with a [`WireError`]; nothing is allocated by a length that a
//! peer merely claims.

mod compression;
mod document;
mod error;
mod exchange;
mod fields;
mod header;
mod inspection;
mod legacy;
mod msg;
mod reply;
#[cfg(test)]
mod tests;

use compression::{Packing, Unpacking};
pub use compression::{compress, decompress};
pub use document::check_depth;
pub use error::WireError;
pub use exchange::{Bounds, Exchange, Readiness, Taker};
pub(crate) use fields::ReplyFields;
pub use header::{HEADER_LEN, Header, Limits, OpCode, deframe};
use inspection::Inspection;
pub use legacy::{append_query, parse_reply};
pub use msg::{DocumentSequence, MsgFlags, OpMsg, OpMsgBuilder};
pub(crate) use reply::write_concern_failure;
pub use reply::{WriteConcernError, check_ok, check_write, write_concern_error};
#[cfg(feature = "net")]
pub(crate) use reply::{check_write_of, glance, lacks_write_errors, write_concern_error_of};
