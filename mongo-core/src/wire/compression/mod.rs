//! OP_COMPRESSED: which messages are wrapped in one, and what is taken out of one.
//!
//! Specification: wire compression.

#[cfg(not(all(feature = "snappy", feature = "zlib", feature = "zstd")))]
mod absent;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zlib")]
mod zlib;
#[cfg(feature = "zstd")]
mod zstd;

#[cfg(not(feature = "snappy"))]
use absent as snappy;
#[cfg(not(feature = "zlib"))]
use absent as zlib;
#[cfg(not(feature = "zstd"))]
use absent as zstd;

use super::WireError;
use super::header::{HEADER_LEN, Header, Limits, OpCode, patch_length, read_i32};
use super::msg::command_name;
use crate::uri::Compressor;

/// A header, the wrapped operation, its size and the compressor's number.
const PREFIX: usize = HEADER_LEN + 9;

/// What is allocated ahead of the content that has come out: a size that a server merely declares
/// costs no more than this.
#[cfg(any(feature = "zlib", feature = "zstd"))]
const STEP: usize = 64 * 1024;

/// Commands that show who somebody is, or that come before it is known what the server can read.
const NEVER: [&[u8]; 11] = [
    b"hello",
    b"isMaster",
    b"saslStart",
    b"saslContinue",
    b"getnonce",
    b"authenticate",
    b"createUser",
    b"updateUser",
    b"copydbSaslStart",
    b"copydbgetnonce",
    b"copydb",
];

impl Compressor {
    /// Whether this build has it: each is a feature of this crate.
    pub const fn is_built_in(self) -> bool {
        match self {
            Self::Snappy => cfg!(feature = "snappy"),
            Self::Zlib => cfg!(feature = "zlib"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }

    /// The number in OP_COMPRESSED.
    pub const fn id(self) -> u8 {
        match self {
            Self::Snappy => 1,
            Self::Zlib => 2,
            Self::Zstd => 3,
        }
    }

    fn from_id(id: u8) -> Result<Self, WireError> {
        [Self::Snappy, Self::Zlib, Self::Zstd]
            .into_iter()
            .find(|compressor| compressor.id() == id && compressor.is_built_in())
            .ok_or(WireError::Compressor(id))
    }
}

/// Wraps an OP_MSG into an OP_COMPRESSED at the end of `out`, and says whether it did: not if its
/// command must not be compressed, or the result would be longer than `max_message_size` bytes.
/// `out` is as before then.
///
/// `zlib_level` is that of `zlibCompressionLevel`, -1 to 9; nothing else has a level.
pub fn compress(
    message: &[u8],
    compressor: Compressor,
    zlib_level: i8,
    max_message_size: usize,
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    let done = try_compress(message, compressor, zlib_level, max_message_size, out).is_some();
    if !done {
        out.truncate(start);
    }
    done
}

fn try_compress(
    message: &[u8],
    compressor: Compressor,
    zlib_level: i8,
    max_message_size: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let start = out.len();
    let (header, content) = message.split_at_checked(HEADER_LEN)?;
    if header.get(12..) != Some(&OpCode::Msg.code().to_le_bytes()) {
        return None;
    }
    let name = command_name(content)?;
    if NEVER.iter().any(|never| never.eq_ignore_ascii_case(name)) {
        return None;
    }
    let size = i32::try_from(content.len()).ok()?;
    out.extend_from_slice(header.get(..12)?);
    out.extend_from_slice(&OpCode::Compressed.code().to_le_bytes());
    out.extend_from_slice(&OpCode::Msg.code().to_le_bytes());
    out.extend_from_slice(&size.to_le_bytes());
    out.push(compressor.id());
    match compressor {
        Compressor::Snappy => snappy::compress(content, zlib_level, out),
        Compressor::Zlib => zlib::compress(content, zlib_level, out),
        Compressor::Zstd => zstd::compress(content, zlib_level, out),
    }?;
    patch_length(out, start, max_message_size).ok()
}

/// Takes the message out of an OP_COMPRESSED, which must be as long as its header says. In `out`
/// stands the whole message afterwards, with the header that it would have had by itself.
///
/// # Errors
/// A compressor that is unknown or not in this build, content that it can't read or that goes on
/// after its end, a size other than the declared one or over `max_message_size`, an OP_COMPRESSED
/// in the OP_COMPRESSED. What is in `out` then is of no use.
pub fn decompress(message: &[u8], limits: &Limits, out: &mut Vec<u8>) -> Result<(), WireError> {
    let header = Header::parse(message, limits)?;
    let Some((_, content)) = message.split_at_checked(PREFIX) else {
        return Err(WireError::Truncated {
            needed: PREFIX,
            got: message.len(),
        });
    };
    let op_code = OpCode::from_code(read_i32(message, HEADER_LEN)?)?;
    if op_code == OpCode::Compressed {
        return Err(WireError::UnexpectedOpCode(op_code));
    }
    let declared = read_i32(message, HEADER_LEN + 4)?;
    let lie = WireError::UncompressedSize(declared);
    let size = usize::try_from(declared).map_err(|_| lie.clone())?;
    let length = size.saturating_add(HEADER_LEN);
    if length > limits.max_message_size {
        return Err(WireError::TooLong {
            length,
            max: limits.max_message_size,
        });
    }
    out.clear();
    Header::append(out, header.request_id, op_code);
    out[8..12].copy_from_slice(&header.response_to.to_le_bytes());
    read_content(message[PREFIX - 1], content, size, out, lie)?;
    patch_length(out, 0, limits.max_message_size)
}

/// Appends `size` bytes to `out`.
fn read_content(
    id: u8,
    content: &[u8],
    size: usize,
    out: &mut Vec<u8>,
    lie: WireError,
) -> Result<(), WireError> {
    let compressor = Compressor::from_id(id)?;
    let read = match compressor {
        Compressor::Snappy => snappy::decompress(content, size, out),
        Compressor::Zlib => zlib::decompress(content, size, out),
        Compressor::Zstd => zstd::decompress(content, size, out),
    };
    match read {
        Some(true) => Ok(()),
        Some(false) => Err(lie),
        None => Err(WireError::Compressed(compressor)),
    }
}

/// What a decoder has done with one piece of room.
#[cfg(any(feature = "zlib", feature = "zstd"))]
struct Progress {
    read: usize,
    written: usize,
    is_end: bool,
}

/// Appends what a decoder makes of `content`, and says whether it is `size` bytes; `None` if it can't
/// be read, or goes on after its end. Room is made, and zeroed, as it fills.
#[cfg(any(feature = "zlib", feature = "zstd"))]
fn decode(
    mut content: &[u8],
    size: usize,
    out: &mut Vec<u8>,
    mut step: impl FnMut(&[u8], &mut [u8]) -> Option<Progress>,
) -> Option<bool> {
    let start = out.len();
    loop {
        let filled = out.len();
        let written = filled - start;
        if written > size {
            return Some(false);
        }
        // One byte more than there may be shows that there is more.
        let room = (size + 1 - written).min(filled.max(STEP));
        out.resize(filled + room, 0);
        let progress = step(content, &mut out[filled..])?;
        out.truncate(filled + progress.written.min(room));
        content = content.get(progress.read..)?;
        match progress {
            Progress { is_end: true, .. } if !content.is_empty() => return None,
            Progress { is_end: true, .. } => return Some(out.len() - start == size),
            // It wants more than there is.
            Progress {
                read: 0,
                written: 0,
                ..
            } => return None,
            Progress { .. } => {}
        }
    }
}

#[cfg(all(test, feature = "snappy", feature = "zlib", feature = "zstd"))]
mod tests;
