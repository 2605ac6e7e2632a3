use bson::{RawDocument, RawDocumentBuf};

use super::WireError;
use super::document::split_document;
use super::header::{HEADER_LEN, Header, Limits, patch_length, read_i32};
use super::op_code::OpCode;

/// The document of an OP_REPLY begins after its flags, cursor, offset and count.
pub(super) const REPLY_BODY: usize = HEADER_LEN + 20;

/// Appends an OP_QUERY that runs `command`. Servers without OP_MSG need it for the first hello.
///
/// # Errors
/// A message over `max_message_size` bytes.
pub fn append_query(
    buf: &mut Vec<u8>,
    request_id: i32,
    database: &str,
    command: &RawDocumentBuf,
    max_message_size: usize,
) -> Result<(), WireError> {
    let start = buf.len();
    Header::append(buf, request_id, OpCode::Query);
    // secondaryOk: every member answers a hello.
    buf.extend_from_slice(&4_i32.to_le_bytes());
    buf.extend_from_slice(database.as_bytes());
    buf.extend_from_slice(b".$cmd\0");
    buf.extend_from_slice(&0_i32.to_le_bytes());
    buf.extend_from_slice(&(-1_i32).to_le_bytes());
    buf.extend_from_slice(command.as_bytes());
    patch_length(buf, start, max_message_size)
}

/// The one document of an OP_REPLY.
///
/// # Errors
/// Another operation, a count other than 1, a truncated document, one nested too deep, trailing
/// bytes.
pub fn parse_reply<'a>(
    message: &'a [u8],
    limits: &Limits,
) -> Result<(Header, &'a RawDocument), WireError> {
    let header = Header::parse(message, limits)?;
    if header.op_code != OpCode::Reply {
        return Err(WireError::UnexpectedOpCode(header.op_code));
    }
    if header.length != message.len() {
        return Err(WireError::Truncated {
            needed: header.length,
            got: message.len(),
        });
    }
    let count = read_i32(message, REPLY_BODY - 4)?;
    if count != 1 {
        return Err(WireError::ReplyDocuments(count));
    }
    let (document, rest) = split_document(&message[REPLY_BODY..], limits.max_depth)?;
    match rest.len() {
        0 => Ok((header, document)),
        more => Err(WireError::Unsolicited(more)),
    }
}
