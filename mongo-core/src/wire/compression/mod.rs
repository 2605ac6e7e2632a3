//! OP_COMPRESSED: compression and decompression of messages.
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
use super::header::{HEADER_LEN, Header, Limits, ahead, patch_length, read_i32};
use super::msg::command_name;
use super::op_code::OpCode;
use crate::wire::Compressor;

/// A header, the original operation code, the uncompressed size and the compressor's id.
const PREFIX: usize = HEADER_LEN + 9;

/// The maximum number of bytes allocated ahead of the decompressed content. A false declared size
/// costs no more than this.
const AHEAD: usize = 64 * 1024;

/// The maximum number of input or output bytes of one step: a millisecond or two of the slowest
/// compressor. With a multiple of 64 KiB, snappy's output is the same as for the whole message at
/// once.
const STEP: usize = 256 * 1024;

/// Commands that must not be compressed: they contain authentication data or precede the
/// negotiation of a compressor.
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
    /// Whether this build supports it: each compressor is a feature of this crate.
    pub const fn is_built_in(self) -> bool {
        match self {
            Self::Snappy => cfg!(feature = "snappy"),
            Self::Zlib => cfg!(feature = "zlib"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }

    /// The compressor's id in OP_COMPRESSED.
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

/// Compresses an OP_MSG into an OP_COMPRESSED at the end of `out`. Returns false, with `out`
/// unchanged, if its command must not be compressed or the result would be longer than
/// `max_message_size` bytes.
///
/// `zlib_level` is `zlibCompressionLevel`, -1 to 9. The other compressors have no level.
pub fn compress(
    message: &[u8],
    compressor: Compressor,
    zlib_level: i8,
    max_message_size: usize,
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    let done = Packing::begin(message, compressor, zlib_level, out).is_some_and(|mut packing| {
        loop {
            match packing.step(message, max_message_size, out) {
                Some(false) => {}
                end => return end.is_some(),
            }
        }
    });
    if !done {
        out.truncate(start);
    }
    done
}

/// Decompresses an OP_COMPRESSED, which must be as long as its header says. `out` then holds the
/// whole original message, with its own header.
///
/// # Errors
/// A compressor that is unknown or not in this build, content that it can't read or that goes on
/// after its end, a size other than the declared one, more than `max_message_size` bytes of both
/// messages together, an OP_COMPRESSED in the OP_COMPRESSED. What is in `out` then is of no use.
pub fn decompress(message: &[u8], limits: &Limits, out: &mut Vec<u8>) -> Result<(), WireError> {
    let mut unpacking = Unpacking::begin(message, limits, out)?;
    while !unpacking.step(message, out)? {}
    Ok(())
}

enum Encoder {
    Snappy(snappy::Encoder),
    Zlib(zlib::Encoder),
    Zstd(zstd::Encoder),
}

/// [`compress`] in steps of at most 256 KiB, so that the caller can yield between them.
pub(super) struct Packing {
    encoder: Encoder,
    /// How many bytes of the message were read.
    read: usize,
    /// The start of the result in the buffer.
    start: usize,
}

impl Packing {
    /// Appends the part before the content; `None` for a message that must stay uncompressed.
    pub(super) fn begin(
        message: &[u8],
        compressor: Compressor,
        zlib_level: i8,
        out: &mut Vec<u8>,
    ) -> Option<Self> {
        let start = out.len();
        let (header, content) = message.split_at_checked(HEADER_LEN)?;
        if header.get(12..) != Some(&OpCode::Msg.code().to_le_bytes()) {
            return None;
        }
        let name = command_name(content)?;
        if NEVER.iter().any(|never| never.eq_ignore_ascii_case(name)) {
            return None;
        }
        let size = content.len();
        let encoder = match compressor {
            Compressor::Snappy => Encoder::Snappy(snappy::Encoder::new(zlib_level, size)?),
            Compressor::Zlib => Encoder::Zlib(zlib::Encoder::new(zlib_level, size)?),
            Compressor::Zstd => Encoder::Zstd(zstd::Encoder::new(zlib_level, size)?),
        };
        let size = i32::try_from(size).ok()?;
        out.extend_from_slice(header.get(..12)?);
        out.extend_from_slice(&OpCode::Compressed.code().to_le_bytes());
        out.extend_from_slice(&OpCode::Msg.code().to_le_bytes());
        out.extend_from_slice(&size.to_le_bytes());
        out.push(compressor.id());
        Some(Self {
            encoder,
            read: HEADER_LEN,
            start,
        })
    }

    /// Compresses the next piece of the same message into the same buffer. Returns whether it is
    /// finished; `None` if the message must stay uncompressed.
    pub(super) fn step(
        &mut self,
        message: &[u8],
        max_message_size: usize,
        out: &mut Vec<u8>,
    ) -> Option<bool> {
        let rest = message.get(self.read..)?;
        let piece = &rest[..rest.len().min(STEP)];
        let is_last = piece.len() == rest.len();
        self.read += piece.len();
        match &mut self.encoder {
            Encoder::Snappy(encoder) => encoder.step(piece, is_last, out),
            Encoder::Zlib(encoder) => encoder.step(piece, is_last, out),
            Encoder::Zstd(encoder) => encoder.step(piece, is_last, out),
        }?;
        if is_last {
            patch_length(out, self.start, max_message_size).ok()?;
        }
        Some(is_last)
    }
}

/// An error of the content.
enum Fault {
    Unreadable,
    /// It is longer or shorter than declared.
    Size,
}

/// The progress of a decoder in a step.
struct Progress {
    read: usize,
    is_end: bool,
}

enum Decoder {
    Snappy(snappy::Decoder),
    Zlib(zlib::Decoder),
    Zstd(zstd::Decoder),
}

/// [`decompress`] in steps of at most 256 KiB, so that the caller can yield between them.
pub(super) struct Unpacking {
    compressor: Compressor,
    decoder: Decoder,
    declared: i32,
    size: usize,
    /// How many bytes of the message were read.
    read: usize,
}

impl Unpacking {
    /// Writes the header of the original message in `message` to `out`.
    pub(super) fn begin(
        message: &[u8],
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Result<Self, WireError> {
        let header = Header::parse(message, limits)?;
        let Some((prefix, content)) = message.split_at_checked(PREFIX) else {
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
        let size = usize::try_from(declared).map_err(|_| WireError::UncompressedSize(declared))?;
        // Both stand in memory, so both together are held to what one message may have. No server
        // comes near: its replies are documents of 16 MiB at most.
        let length = size.saturating_add(HEADER_LEN);
        let together = length.saturating_add(message.len());
        if together > limits.max_message_size {
            return Err(WireError::TooLong {
                length: together,
                max: limits.max_message_size,
            });
        }
        out.clear();
        Header::append(out, header.request_id, op_code);
        out[8..12].copy_from_slice(&header.response_to.to_le_bytes());
        let compressor = Compressor::from_id(prefix[PREFIX - 1])?;
        let decoder = match compressor {
            Compressor::Snappy => snappy::Decoder::new(content, size).map(Decoder::Snappy),
            Compressor::Zlib => zlib::Decoder::new(content, size).map(Decoder::Zlib),
            Compressor::Zstd => zstd::Decoder::new(content, size).map(Decoder::Zstd),
        };
        Ok(Self {
            decoder: decoder.map_err(|fault| error(fault, compressor, declared))?,
            compressor,
            declared,
            size,
            read: PREFIX,
        })
    }

    /// Decompresses the next part of the same message into the same buffer. Returns whether it is
    /// finished.
    pub(super) fn step(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<bool, WireError> {
        let is_end = self
            .try_step(message, out)
            .map_err(|fault| error(fault, self.compressor, self.declared))?;
        if is_end {
            patch_length(out, 0, usize::MAX)?;
        }
        Ok(is_end)
    }

    fn try_step(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<bool, Fault> {
        let rest = message.get(self.read..).unwrap_or_default();
        let written = out.len() - HEADER_LEN;
        // One byte more than allowed shows that the content is too long.
        let missing = self.size.saturating_sub(written) + 1;
        let room = missing.min(written.clamp(AHEAD, STEP));
        if out.capacity() - out.len() < room {
            out.reserve_exact(ahead(missing, written, AHEAD));
        }
        let progress = match &mut self.decoder {
            Decoder::Snappy(decoder) => decoder.step(rest, room, out),
            Decoder::Zlib(decoder) => decoder.step(rest, room, out),
            Decoder::Zstd(decoder) => decoder.step(rest, room, out),
        }?;
        self.read += progress.read;
        let written = out.len() - HEADER_LEN;
        match progress.is_end {
            _ if written > self.size => Err(Fault::Size),
            true if progress.read < rest.len() => Err(Fault::Unreadable),
            true if written < self.size => Err(Fault::Size),
            is_end => Ok(is_end),
        }
    }
}

fn error(fault: Fault, compressor: Compressor, declared: i32) -> WireError {
    match fault {
        Fault::Unreadable => WireError::Compressed(compressor),
        Fault::Size => WireError::UncompressedSize(declared),
    }
}

/// Decodes a piece of `rest` into `out`, for a decoder that fills slices.
#[cfg(any(feature = "zlib", feature = "zstd"))]
fn fill(
    rest: &[u8],
    room: usize,
    out: &mut Vec<u8>,
    decode: impl FnOnce(&[u8], &mut [u8]) -> Option<(Progress, usize)>,
) -> Result<Progress, Fault> {
    let start = out.len();
    out.resize(start + room, 0);
    let piece = &rest[..rest.len().min(STEP)];
    let (progress, written) = decode(piece, &mut out[start..]).ok_or(Fault::Unreadable)?;
    out.truncate(start + written.min(room));
    match (&progress, written) {
        // It needs more input.
        (
            Progress {
                read: 0,
                is_end: false,
            },
            0,
        ) => Err(Fault::Unreadable),
        _ => Ok(progress),
    }
}

#[cfg(all(test, feature = "snappy", feature = "zlib", feature = "zstd"))]
mod tests;
