use super::WireError;
use super::op_code::OpCode;

/// Bytes of a message header.
pub const HEADER_LEN: usize = 16;

/// The limits for messages on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The maximum size of a message in bytes, its header included (`maxMessageSizeBytes`). Default
    /// 48,000,000.
    pub max_message_size: usize,
    /// The maximum nesting of documents and arrays. Default 256. A server stores at most 200
    /// levels.
    pub max_depth: usize,
}

impl Limits {
    /// Limits on the bytes of a message, header included, and on the depth of its documents.
    pub const fn new(max_message_size: usize, max_depth: usize) -> Self {
        Self {
            max_message_size,
            max_depth,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(48_000_000, 256)
    }
}

/// The header of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Bytes of the whole message, this header included.
    pub length: usize,
    /// The sender's id for this message.
    pub request_id: i32,
    /// The request that this message answers; 0 in a request.
    pub response_to: i32,
    /// The message's operation.
    pub op_code: OpCode,
}

impl Header {
    /// Reads a header from the start of `bytes`.
    ///
    /// # Errors
    /// Fewer than 16 bytes, a length below 16 or over the limit, an unknown operation.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, WireError> {
        let int = |at: usize| read_i32(bytes, at);
        let length = int(0)?;
        let op_code = int(12)?;
        if length < HEADER_LEN as i32 {
            return Err(WireError::TooShort(length));
        }
        // Not negative: at least 16.
        let length = length as usize;
        if length > limits.max_message_size {
            return Err(WireError::TooLong {
                length,
                max: limits.max_message_size,
            });
        }
        Ok(Self {
            length,
            request_id: int(4)?,
            response_to: int(8)?,
            op_code: OpCode::from_code(op_code)?,
        })
    }

    /// Appends a header. [`patch_length`] writes the length once it is known.
    pub(super) fn append(buf: &mut Vec<u8>, request_id: i32, op_code: OpCode) {
        let mut header = [0; HEADER_LEN];
        header[4..8].copy_from_slice(&request_id.to_le_bytes());
        header[12..].copy_from_slice(&op_code.code().to_le_bytes());
        buf.extend_from_slice(&header);
    }
}

/// Parses the header at the start of `buf`; `None` while its bytes are incomplete.
///
/// The header is checked as soon as its 16 bytes have arrived, before anything is allocated for the
/// rest.
///
/// # Errors
/// See [`Header::parse`].
pub fn deframe(buf: &[u8], limits: &Limits) -> Result<Option<Header>, WireError> {
    if buf.len() < HEADER_LEN {
        return Ok(None);
    }
    Header::parse(buf, limits).map(Some)
}

/// Once one byte in so many has come, the rest is allocated at once.
const CLAIM: usize = 64;

/// How many bytes a buffer grows by into which `missing` more are to come after those that have: by as
/// many again, by `least` at least, or by all.
///
/// Growing a buffer copies it, and needs memory for both copies. So a buffer grows seldom: only a small
/// part of a long message is ever copied. Memory that is reserved for missing bytes is address space
/// until they arrive.
pub(super) fn ahead(missing: usize, come: usize, least: usize) -> usize {
    match missing / CLAIM <= come {
        true => missing,
        false => missing.min(come.max(least)),
    }
}

pub(super) fn read_i32(bytes: &[u8], at: usize) -> Result<i32, WireError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map(|chunk| i32::from_le_bytes(*chunk))
        .ok_or(WireError::Truncated {
            needed: at.saturating_add(4),
            got: bytes.len(),
        })
}

/// Writes the number of bytes from `start` to the end of `buf` into the four bytes at `start`.
///
/// # Errors
/// A length over `max`.
pub(super) fn patch_length(buf: &mut [u8], start: usize, max: usize) -> Result<(), WireError> {
    let length = buf.len() - start;
    if length > max || i32::try_from(length).is_err() {
        return Err(WireError::TooLong { length, max });
    }
    buf[start..start + 4].copy_from_slice(&(length as i32).to_le_bytes());
    Ok(())
}

impl OpCode {
    pub(super) fn from_code(code: i32) -> Result<Self, WireError> {
        match code {
            1 => Ok(Self::Reply),
            2004 => Ok(Self::Query),
            2012 => Ok(Self::Compressed),
            2013 => Ok(Self::Msg),
            other => Err(WireError::UnknownOpCode(other)),
        }
    }
}
