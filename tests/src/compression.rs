//! OP_COMPRESSED, also in malformed ways.

use std::io::{Read, Write};

use crate::codec::{CodecError, HEADER_LENGTH, MAX_MESSAGE_LENGTH, OP_COMPRESSED};

/// Header, wrapped operation, size, and the compressor's number.
const PREFIX_LENGTH: usize = HEADER_LENGTH + 9;

/// A compressor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compressor {
    /// snappy.
    Snappy,
    /// zlib.
    Zlib,
    /// zstd.
    Zstd,
}

impl Compressor {
    /// All compressors.
    pub const ALL: [Self; 3] = [Self::Snappy, Self::Zlib, Self::Zstd];

    /// The name in the handshake.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snappy => "snappy",
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }

    /// The number in a message.
    pub fn id(self) -> u8 {
        match self {
            Self::Snappy => 1,
            Self::Zlib => 2,
            Self::Zstd => 3,
        }
    }

    fn of(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.id() == id)
    }

    /// The bytes, compressed.
    ///
    /// # Panics
    /// Only on a bug in the compressor.
    pub fn compress(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Snappy => snap::raw::Encoder::new()
                .compress_vec(bytes)
                .expect("small"),
            Self::Zlib => {
                let level = flate2::Compression::default();
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).expect("no I/O");
                encoder.finish().expect("no I/O")
            }
            Self::Zstd => zstd::bulk::compress(bytes, 0).expect("room"),
        }
    }

    /// Wraps a complete message. An incomplete one is returned unchanged.
    pub fn wrap(self, message: Vec<u8>) -> Vec<u8> {
        wrap(message, self)
    }

    /// The decompressed bytes, if they have this size.
    fn decompress(self, bytes: &[u8], size: usize) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        match self {
            Self::Snappy => plain = snap::raw::Decoder::new().decompress_vec(bytes).ok()?,
            Self::Zlib => {
                let mut decoder = flate2::read::ZlibDecoder::new(bytes).take(size as u64 + 1);
                decoder.read_to_end(&mut plain).ok()?;
            }
            Self::Zstd => plain = zstd::bulk::decompress(bytes, size).ok()?,
        }
        (plain.len() == size).then_some(plain)
    }
}

/// An OP_COMPRESSED with any values, valid or not.
#[derive(Clone, Debug)]
pub struct Compressed {
    /// The message's id.
    pub request_id: i32,
    /// The id of the request that it answers.
    pub response_to: i32,
    /// The wrapped operation code.
    pub original: i32,
    /// The uncompressed size.
    pub size: i32,
    /// The compressor's number.
    pub compressor: u8,
    /// The compressed bytes.
    pub content: Vec<u8>,
}

impl Compressed {
    /// The message.
    ///
    /// # Panics
    /// Over 2 GB.
    pub fn encode(&self) -> Vec<u8> {
        let length = i32::try_from(PREFIX_LENGTH + self.content.len()).expect("a short message");
        let header = [length, self.request_id, self.response_to, OP_COMPRESSED];
        let mut message: Vec<u8> = header
            .into_iter()
            .chain([self.original, self.size])
            .flat_map(i32::to_le_bytes)
            .collect();
        message.push(self.compressor);
        message.extend_from_slice(&self.content);
        message
    }
}

/// Wraps a message. An incomplete one is returned unchanged.
pub(crate) fn wrap(message: Vec<u8>, compressor: Compressor) -> Vec<u8> {
    let Some((header, content)) = message.split_at_checked(HEADER_LENGTH) else {
        return message;
    };
    let number = |at: usize| {
        let bytes = header[at..].first_chunk().expect("within the header");
        i32::from_le_bytes(*bytes)
    };
    Compressed {
        request_id: number(4),
        response_to: number(8),
        original: number(12),
        size: i32::try_from(content.len()).unwrap_or(i32::MAX),
        compressor: compressor.id(),
        content: compressor.compress(content),
    }
    .encode()
}

/// The message in an OP_COMPRESSED, and how it was compressed.
pub(crate) fn unwrap(message: &[u8]) -> Result<(Vec<u8>, Compressor), CodecError> {
    let Some((prefix, content)) = message.split_at_checked(PREFIX_LENGTH) else {
        return Err(CodecError::Truncated("OP_COMPRESSED"));
    };
    let compressor = Compressor::of(prefix[24]).ok_or(CodecError::Compressed("compressor"))?;
    let size = prefix[20..]
        .first_chunk()
        .map(|size| i32::from_le_bytes(*size));
    let size = size.and_then(|size| usize::try_from(size).ok());
    let size = size.filter(|size| *size <= MAX_MESSAGE_LENGTH - HEADER_LENGTH);
    let size = size.ok_or(CodecError::Compressed("size"))?;
    let content = compressor
        .decompress(content, size)
        .ok_or(CodecError::Compressed("content"))?;
    let length = i32::try_from(HEADER_LENGTH + size).unwrap_or(i32::MAX);
    let mut plain = length.to_le_bytes().to_vec();
    plain.extend_from_slice(&prefix[4..12]);
    plain.extend_from_slice(&prefix[16..20]);
    plain.extend_from_slice(&content);
    Ok((plain, compressor))
}
