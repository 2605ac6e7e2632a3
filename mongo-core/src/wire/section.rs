use std::fmt;

use bson::RawDocument;

use super::WireError;
use super::document::split_document;
use super::header::{HEADER_LEN, read_i32};

/// The maximum length of a document sequence's identifier, in bytes. It names a field of a command.
const MAX_IDENTIFIER: usize = 1024;

/// The flags of an OP_MSG.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct MsgFlags(pub(super) u32);

impl MsgFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The message ends with a CRC-32C of all preceding bytes.
    pub const CHECKSUM_PRESENT: Self = Self(1);
    /// In a request: no reply is expected. In a reply: another one follows without a request.
    pub const MORE_TO_COME: Self = Self(1 << 1);
    /// In a request: several replies may come ([`MORE_TO_COME`](Self::MORE_TO_COME)).
    pub const EXHAUST_ALLOWED: Self = Self(1 << 16);

    /// Bits 0 to 15 must be understood, bits 16 to 31 may be ignored.
    const REQUIRED: u32 = 0xFFFF;

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and those of `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flags of a message.
    pub(super) fn of(message: &[u8]) -> Result<Self, WireError> {
        Self::parse(read_i32(message, HEADER_LEN)? as u32)
    }

    fn parse(bits: u32) -> Result<Self, WireError> {
        let known = Self::CHECKSUM_PRESENT.0 | Self::MORE_TO_COME.0;
        match bits & Self::REQUIRED & !known {
            0 => Ok(Self(bits)),
            unknown => Err(WireError::RequiredFlags(unknown as u16)),
        }
    }
}

impl fmt::Debug for MsgFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MsgFlags({:#x})", self.0)
    }
}

pub(super) enum Section<'a> {
    Body(&'a RawDocument),
    Sequence(DocumentSequence<'a>),
}

impl<'a> Section<'a> {
    pub(super) fn split(bytes: &'a [u8], max_depth: usize) -> Result<(Self, &'a [u8]), WireError> {
        let (&kind, rest) = bytes.split_first().ok_or(WireError::NoBody)?;
        match kind {
            0 => {
                let (document, rest) = split_document(rest, max_depth)?;
                Ok((Self::Body(document), rest))
            }
            1 => {
                let (sequence, rest) = DocumentSequence::split(rest, max_depth)?;
                Ok((Self::Sequence(sequence), rest))
            }
            other => Err(WireError::SectionKind(other)),
        }
    }
}

/// A section of kind 1: documents that stand for a field of the body.
#[derive(Clone, Copy)]
pub struct DocumentSequence<'a> {
    identifier: &'a str,
    documents: &'a [u8],
    max_depth: usize,
}

impl<'a> DocumentSequence<'a> {
    fn split(bytes: &'a [u8], max_depth: usize) -> Result<(Self, &'a [u8]), WireError> {
        let size = read_i32(bytes, 0)?;
        let size = usize::try_from(size).map_err(|_| WireError::Sequence)?;
        let (section, rest) = bytes.split_at_checked(size).ok_or(WireError::Truncated {
            needed: size,
            got: bytes.len(),
        })?;
        let contents = section.get(4..).ok_or(WireError::Sequence)?;
        let end = contents
            .iter()
            .take(MAX_IDENTIFIER + 1)
            .position(|byte| *byte == 0)
            .ok_or(WireError::Sequence)?;
        let identifier = std::str::from_utf8(&contents[..end]).map_err(|_| WireError::Sequence)?;
        let sequence = Self {
            identifier,
            documents: &contents[end + 1..],
            max_depth,
        };
        Ok((sequence, rest))
    }

    /// The number of bytes of the documents.
    pub(super) fn length(&self) -> usize {
        self.documents.len()
    }

    pub(super) fn check(&self) -> Result<(), WireError> {
        let mut rest = self.documents;
        while !rest.is_empty() {
            rest = split_document(rest, self.max_depth)?.1;
        }
        Ok(())
    }

    /// The field that the documents stand for, such as `documents`.
    pub fn identifier(&self) -> &'a str {
        self.identifier
    }

    /// The documents.
    pub fn documents(&self) -> impl Iterator<Item = &'a RawDocument> {
        let max_depth = self.max_depth;
        let mut rest = self.documents;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            // `check` has checked them all.
            let (document, after) = split_document(rest, max_depth).ok()?;
            rest = after;
            Some(document)
        })
    }
}
