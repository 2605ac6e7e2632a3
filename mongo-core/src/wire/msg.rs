use bson::RawDocument;
use serde::Serialize;

use super::document::MIN_DOCUMENT;
use super::header::{HEADER_LEN, Header, Limits, patch_length, read_i32};
use super::op_code::OpCode;
use super::section::{DocumentSequence, MsgFlags, Section};
use super::{Inspection, WireError};

/// A whole OP_MSG, borrowed from its bytes.
#[derive(Clone, Copy)]
pub struct OpMsg<'a> {
    header: Header,
    flags: MsgFlags,
    body: &'a RawDocument,
    /// All sections, already walked once.
    sections: &'a [u8],
    max_depth: usize,
}

impl<'a> OpMsg<'a> {
    /// Reads one message, which must be exactly as long as its header says.
    ///
    /// # Errors
    /// Every departure from the OP_MSG specification has a [`WireError`] of its own.
    pub fn parse(message: &'a [u8], limits: &Limits) -> Result<Self, WireError> {
        let (header, flags, sections) = Self::parse_head(message, limits)?;
        if flags.contains(MsgFlags::CHECKSUM_PRESENT) {
            verify_checksum(message, || crc32c::crc32c(&message[..message.len() - 4]))?;
        }
        let mut body = None;
        let mut rest = sections;
        while !rest.is_empty() {
            let (section, after) = Section::split(rest, limits.max_depth)?;
            rest = after;
            match section {
                Section::Body(_) if body.is_some() => return Err(WireError::SeveralBodies),
                Section::Body(document) => body = Some(document),
                Section::Sequence(sequence) => sequence.check()?,
            }
        }
        Ok(Self {
            header,
            flags,
            body: body.ok_or(WireError::NoBody)?,
            sections,
            max_depth: limits.max_depth,
        })
    }

    /// [`parse`](Self::parse) of a message that an [`Inspection`] has walked. Contains no loop.
    pub(super) fn parse_inspected(
        message: &'a [u8],
        limits: &Limits,
        inspection: &Inspection,
    ) -> Result<Self, WireError> {
        let (header, flags, sections) = Self::parse_head(message, limits)?;
        if flags.contains(MsgFlags::CHECKSUM_PRESENT) {
            verify_checksum(message, || inspection.checksum())?;
        }
        let (start, end) = inspection.body().ok_or(WireError::NoBody)?;
        let body = message.get(start..end).ok_or(WireError::NoBody)?;
        Ok(Self {
            header,
            flags,
            body: RawDocument::from_bytes(body).map_err(|_| WireError::Document(start))?,
            sections,
            // The inspection has checked the depth.
            max_depth: usize::MAX,
        })
    }

    /// The header, the flags and the sections.
    fn parse_head(
        message: &'a [u8],
        limits: &Limits,
    ) -> Result<(Header, MsgFlags, &'a [u8]), WireError> {
        let header = Header::parse(message, limits)?;
        if header.op_code != OpCode::Msg {
            return Err(WireError::UnexpectedOpCode(header.op_code));
        }
        if header.length != message.len() {
            return Err(WireError::Truncated {
                needed: header.length,
                got: message.len(),
            });
        }
        let flags = MsgFlags::of(message)?;
        let sections = &message[HEADER_LEN + 4..];
        if !flags.contains(MsgFlags::CHECKSUM_PRESENT) {
            return Ok((header, flags, sections));
        }
        let Some((sections, _)) = sections.split_last_chunk::<4>() else {
            return Err(WireError::Truncated {
                needed: HEADER_LEN + 8,
                got: message.len(),
            });
        };
        Ok((header, flags, sections))
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The flags.
    pub fn flags(&self) -> MsgFlags {
        self.flags
    }

    /// The document of the one section of kind 0.
    pub fn body(&self) -> &'a RawDocument {
        self.body
    }

    /// The document sequences, sections of kind 1, in their order.
    pub fn sequences(&self) -> impl Iterator<Item = DocumentSequence<'a>> {
        let max_depth = self.max_depth;
        let mut rest = self.sections;
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                // `parse` has checked them all.
                let (section, after) = Section::split(rest, max_depth).ok()?;
                rest = after;
                if let Section::Sequence(sequence) = section {
                    return Some(sequence);
                }
            }
            None
        })
    }
}

/// Compares the checksum at a message's end.
fn verify_checksum(message: &[u8], expected: impl FnOnce() -> u32) -> Result<(), WireError> {
    let Some((_, sent)) = message.split_last_chunk::<4>() else {
        return Err(WireError::TooShort(message.len() as i32));
    };
    let (got, expected) = (u32::from_le_bytes(*sent), expected());
    if got != expected {
        return Err(WireError::Checksum { expected, got });
    }
    Ok(())
}

/// Writes one OP_MSG to the end of a buffer.
///
/// ```
/// use mongo_core::wire::{Limits, MsgFlags, OpMsg, OpMsgBuilder};
///
/// let mut buffer = Vec::new();
/// OpMsgBuilder::new(&mut buffer, 7, MsgFlags::NONE)
///     .command("app", &bson::rawdoc! { "insert": "things" })?
///     .sequence("documents", [&*bson::rawdoc! { "a": 1 }, &*bson::rawdoc! { "a": 2 }])
///     .finish(48_000_000)?;
/// let message = OpMsg::parse(&buffer, &Limits::default())?;
/// assert_eq!(message.body().get_str("$db")?, "app");
/// assert_eq!(message.sequences().count(), 1);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct OpMsgBuilder<'b> {
    buf: &'b mut Vec<u8>,
    start: usize,
    checksum: bool,
}

impl<'b> OpMsgBuilder<'b> {
    /// Appends the header and the flags. With [`MsgFlags::CHECKSUM_PRESENT`],
    /// [`finish`](Self::finish) appends a checksum.
    pub fn new(buf: &'b mut Vec<u8>, request_id: i32, flags: MsgFlags) -> Self {
        let start = buf.len();
        Header::append(buf, request_id, OpCode::Msg);
        buf.extend_from_slice(&flags.0.to_le_bytes());
        Self {
            buf,
            start,
            checksum: flags.contains(MsgFlags::CHECKSUM_PRESENT),
        }
    }

    /// Appends a command as the body, with `$db` added. The command is encoded once, in place.
    ///
    /// # Errors
    /// The command can't be written as a BSON document, or is empty. The buffer is then as before
    /// the message.
    pub fn command<C>(self, database: &str, command: &C) -> Result<Self, bson::error::Error>
    where
        C: Serialize + ?Sized,
    {
        self.command_with(database, command, None)
    }

    /// [`command`](Self::command), with the fields of another document added too, even if the
    /// command already has them.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn command_with<C>(
        self,
        database: &str,
        command: &C,
        fields: Option<&RawDocument>,
    ) -> Result<Self, bson::error::Error>
    where
        C: Serialize + ?Sized,
    {
        self.buf.push(0);
        let document = self.buf.len();
        if let Err(error) = bson::serialize_to_buffer(&command, self.buf) {
            self.buf.truncate(self.start);
            return Err(error);
        }
        if self.buf.len() - document <= MIN_DOCUMENT {
            self.buf.truncate(self.start);
            return Err(serde::ser::Error::custom("the command is empty"));
        }
        append_fields(self.buf, document, database, fields);
        Ok(self)
    }

    /// Appends a body unchanged. It must contain `$db`.
    #[must_use]
    pub fn body(self, body: &RawDocument) -> Self {
        self.buf.push(0);
        self.buf.extend_from_slice(body.as_bytes());
        self
    }

    /// Appends a document sequence.
    #[must_use]
    pub fn sequence<'d>(
        self,
        identifier: &str,
        documents: impl IntoIterator<Item = &'d RawDocument>,
    ) -> Self {
        self.buf.push(1);
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(identifier.as_bytes());
        self.buf.push(0);
        for document in documents {
            self.buf.extend_from_slice(document.as_bytes());
        }
        // If the length is over i32::MAX, `finish` refuses the whole message, so that this value is
        // never used.
        let size = i32::try_from(self.buf.len() - start).unwrap_or(i32::MAX);
        self.buf[start..start + 4].copy_from_slice(&size.to_le_bytes());
        self
    }

    /// Ends the message and writes its length.
    ///
    /// # Errors
    /// A message over `max_message_size` bytes. The buffer is then as before the message.
    pub fn finish(self, max_message_size: usize) -> Result<(), WireError> {
        if self.checksum {
            self.buf.extend_from_slice(&[0; 4]);
        }
        if let Err(error) = patch_length(self.buf, self.start, max_message_size) {
            self.buf.truncate(self.start);
            return Err(error);
        }
        if self.checksum {
            let end = self.buf.len() - 4;
            let checksum = crc32c::crc32c(&self.buf[self.start..end]);
            self.buf[end..].copy_from_slice(&checksum.to_le_bytes());
        }
        Ok(())
    }
}

/// The command's name, in the contents after a message's header: the first key of the section of
/// kind 0.
pub(super) fn command_name(contents: &[u8]) -> Option<&[u8]> {
    let mut sections = contents.get(4..)?;
    while let Some((kind, section)) = sections.split_first() {
        if *kind == 0 {
            // After the document's length and the first element's type.
            let key = section.get(5..)?;
            return key.get(..key.iter().position(|byte| *byte == 0)?);
        }
        let size = usize::try_from(read_i32(section, 0).ok()?).ok()?;
        sections = section.get(size..)?;
    }
    None
}

/// Appends other fields, and the string `$db`, to the document from `start` to the end of `buf`.
fn append_fields(buf: &mut Vec<u8>, start: usize, database: &str, fields: Option<&RawDocument>) {
    // The document's end is appended again below.
    buf.pop();
    if let Some([_, _, _, _, elements @ .., _]) = fields.map(RawDocument::as_bytes) {
        buf.extend_from_slice(elements);
    }
    buf.extend_from_slice(b"\x02$db\0");
    buf.extend_from_slice(&(database.len() as i32 + 1).to_le_bytes());
    buf.extend_from_slice(database.as_bytes());
    buf.extend_from_slice(&[0, 0]);
    // `finish` refuses a document over i32::MAX.
    let length = i32::try_from(buf.len() - start).unwrap_or(i32::MAX);
    buf[start..start + 4].copy_from_slice(&length.to_le_bytes());
}
