//! The kit's own wire codec. It reveals mistakes that the codec under test makes symmetrically in
//! both directions.
//!
//! It reads OP_MSG and OP_QUERY requests and writes OP_MSG and OP_REPLY replies, also malformed
//! ones. [`encode_command`] and [`Reply`] are the client's side, for tests that talk to a server
//! over a bare socket.

mod reader;

use bson::{Bson, Document};

use self::reader::Reader;
use crate::compression::{self, Compressor};
pub use crate::outgoing::{Checksum, document_bytes, encode_command, encode_query};

/// Message header: length, request id, response to, operation code.
pub const HEADER_LENGTH: usize = 16;
/// The longest message that the kit reads: `maxMessageSizeBytes` of a server.
pub const MAX_MESSAGE_LENGTH: usize = 48_000_000;
/// The deepest document that the kit reads.
pub const MAX_DEPTH: usize = 200;

/// OP_REPLY, which answers an OP_QUERY.
pub const OP_REPLY: i32 = 1;
/// OP_QUERY, which old servers need for the first hello.
pub const OP_QUERY: i32 = 2004;
/// OP_COMPRESSED, which wraps any other.
pub const OP_COMPRESSED: i32 = 2012;
/// OP_MSG.
pub const OP_MSG: i32 = 2013;

/// OP_MSG flag: four bytes of CRC-32C end the message.
pub const CHECKSUM_PRESENT: u32 = 1;
/// OP_MSG flag: another message follows without a request, or no reply is wanted.
pub const MORE_TO_COME: u32 = 1 << 1;
/// OP_MSG flag: the client accepts several replies to this request.
pub const EXHAUST_ALLOWED: u32 = 1 << 16;

/// An error in bytes that a peer sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The header's length is under 16 or over [`MAX_MESSAGE_LENGTH`].
    #[error("message length {0} is out of range")]
    Length(i32),
    /// The message ends inside a field.
    #[error("message ends early, in {0}")]
    Truncated(&'static str),
    /// The kit does not support the operation code.
    #[error("unknown operation code {0}")]
    OpCode(i32),
    /// A flag in bits 0 to 15 that is not specified.
    #[error("unknown required flag bits in {0:#x}")]
    Flags(u32),
    /// The CRC-32C at the end is not that of the message.
    #[error("checksum {found:#x} should be {expected:#x}")]
    Checksum {
        /// The checksum in the message.
        found: u32,
        /// The checksum of the message's bytes.
        expected: u32,
    },
    /// No or several kind 0 sections, or an unknown kind of section.
    #[error("bad sections: {0}")]
    Sections(&'static str),
    /// A string that is not UTF-8 or not terminated.
    #[error("bad string in {0}")]
    String(&'static str),
    /// A compressed message whose compressor, size or content is wrong, or that must not be
    /// compressed.
    #[error("compressed: {0}")]
    Compressed(&'static str),
    /// Bytes that are not a BSON document, or a document that is nested too deeply.
    #[error("bad document: {0}")]
    Document(String),
}

/// The message type of a request, and thus of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// OP_MSG, answered by OP_MSG.
    Msg,
    /// OP_QUERY, answered by OP_REPLY.
    Query,
}

/// A command as a client sent it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The request's id, which the reply names.
    pub request_id: i32,
    /// The message that carried it.
    pub form: Form,
    /// OP_MSG's flags or OP_QUERY's.
    pub flags: u32,
    /// `$db`, or for OP_QUERY the part before `.$cmd`.
    pub database: String,
    /// How the message was compressed.
    pub compressor: Option<Compressor>,
    /// The command, with kind 1 sections merged into it as arrays.
    pub command: Document,
}

impl Request {
    /// Reads one whole message, header included.
    ///
    /// # Errors
    /// Whatever is wrong with the message.
    pub fn decode(message: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader { rest: message };
        let header = Header::read(&mut reader)?;
        match header.op_code {
            OP_MSG => {
                let (flags, command) = read_msg(message, &mut reader)?;
                let database = command.get_str("$db").unwrap_or_default().to_owned();
                Ok(Self {
                    request_id: header.request_id,
                    form: Form::Msg,
                    flags,
                    database,
                    compressor: None,
                    command,
                })
            }
            OP_COMPRESSED => {
                let (message, compressor) = compression::unwrap(message)?;
                match Self::decode(&message)? {
                    nested if nested.compressor.is_some() => Err(CodecError::Compressed("twice")),
                    request => Ok(Self {
                        compressor: Some(compressor),
                        ..request
                    }),
                }
            }
            OP_QUERY => read_query(header.request_id, &mut reader),
            other => Err(CodecError::OpCode(other)),
        }
    }

    /// The command's name: the first key as the client wrote it.
    pub fn name(&self) -> &str {
        self.command.keys().next().map_or("", String::as_str)
    }

    /// Whether the client wants no reply (`moreToCome` on a request).
    pub fn is_unacknowledged(&self) -> bool {
        self.form == Form::Msg && self.flags & MORE_TO_COME != 0
    }
}

/// A server's reply, as a client reads it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The reply's own id.
    pub request_id: i32,
    /// The id of the request that it answers.
    pub response_to: i32,
    /// OP_MSG's flags, 0 for OP_REPLY.
    pub flags: u32,
    /// The reply's document.
    pub body: Document,
}

impl Reply {
    /// Reads one whole OP_MSG or OP_REPLY, header included.
    ///
    /// # Errors
    /// Whatever is wrong with the message.
    pub fn decode(message: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader { rest: message };
        let header = Header::read(&mut reader)?;
        let (flags, body) = match header.op_code {
            OP_MSG => read_msg(message, &mut reader)?,
            OP_REPLY => {
                reader.take(20, "OP_REPLY")?;
                (0, reader.document()?)
            }
            other => return Err(CodecError::OpCode(other)),
        };
        Ok(Self {
            request_id: header.request_id,
            response_to: header.response_to,
            flags,
            body,
        })
    }
}

/// Whether a reply says success: `ok` is 1, as a number of any type.
pub(crate) fn is_ok(reply: &Document) -> bool {
    match reply.get("ok") {
        Some(Bson::Double(ok)) => *ok == 1.0,
        Some(Bson::Int32(ok)) => *ok == 1,
        Some(Bson::Int64(ok)) => *ok == 1,
        _ => false,
    }
}

/// The length of the message at the start of `bytes`, `None` while it is incomplete.
///
/// # Errors
/// [`CodecError::Length`] if the length is out of range.
pub fn message_length(bytes: &[u8]) -> Result<Option<usize>, CodecError> {
    let Some(prefix) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = i32::from_le_bytes(*prefix);
    match usize::try_from(length) {
        Ok(size) if (HEADER_LENGTH..=MAX_MESSAGE_LENGTH).contains(&size) => Ok(Some(size)),
        _ => Err(CodecError::Length(length)),
    }
}

struct Header {
    request_id: i32,
    response_to: i32,
    op_code: i32,
}

impl Header {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        reader.i32("header")?;
        Ok(Self {
            request_id: reader.i32("header")?,
            response_to: reader.i32("header")?,
            op_code: reader.i32("header")?,
        })
    }
}

fn read_msg(message: &[u8], reader: &mut Reader<'_>) -> Result<(u32, Document), CodecError> {
    let flags = reader.u32("flags")?;
    if flags & 0xffff & !(CHECKSUM_PRESENT | MORE_TO_COME) != 0 {
        return Err(CodecError::Flags(flags));
    }
    if flags & CHECKSUM_PRESENT != 0 {
        let split = reader
            .rest
            .len()
            .checked_sub(4)
            .ok_or(CodecError::Truncated("checksum"))?;
        let (sections, sum) = reader.rest.split_at(split);
        let found = Reader { rest: sum }.u32("checksum")?;
        let expected = crc32c::crc32c(&message[..message.len() - 4]);
        if found != expected {
            return Err(CodecError::Checksum { found, expected });
        }
        reader.rest = sections;
    }
    let mut body = None;
    let mut sequences = Vec::new();
    while let Some((&kind, rest)) = reader.rest.split_first() {
        reader.rest = rest;
        match kind {
            0 if body.is_some() => return Err(CodecError::Sections("several of kind 0")),
            0 => body = Some(reader.document()?),
            1 => sequences.push(reader.sequence()?),
            _ => return Err(CodecError::Sections("unknown kind")),
        }
    }
    let mut body = body.ok_or(CodecError::Sections("none of kind 0"))?;
    for (name, documents) in sequences {
        if body.insert(name, documents).is_some() {
            return Err(CodecError::Sections(
                "a sequence's name stands in the body too",
            ));
        }
    }
    Ok((flags, body))
}

fn read_query(request_id: i32, reader: &mut Reader<'_>) -> Result<Request, CodecError> {
    let flags = reader.u32("flags")?;
    let namespace = reader.c_string("fullCollectionName")?;
    reader.take(8, "OP_QUERY")?;
    let mut command = reader.document()?;
    if let Some(Bson::Document(inner)) = command.get("$query") {
        command = inner.clone();
    }
    let database = namespace
        .strip_suffix(".$cmd")
        .ok_or(CodecError::String("fullCollectionName"))?
        .to_owned();
    Ok(Request {
        request_id,
        form: Form::Query,
        flags,
        database,
        compressor: None,
        command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outgoing::OutgoingMessage;
    use bson::doc;

    #[test]
    fn a_command_reads_as_written() {
        let bytes = encode_command(7, 0, &doc! {"ping": 1, "$db": "admin"});
        assert_eq!(message_length(&bytes), Ok(Some(bytes.len())));
        let request = Request::decode(&bytes).unwrap();
        assert_eq!((request.request_id, request.name()), (7, "ping"));
        assert_eq!(request.database, "admin");
    }

    #[test]
    fn golden_bytes_of_a_ping() {
        // Written out by hand from the wire protocol's description.
        let expected = [
            &[36, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xdd, 7, 0, 0][..],
            &[0, 0, 0, 0, 0],
            &[15, 0, 0, 0, 0x10, b'p', b'i', b'n', b'g', 0, 1, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(encode_command(1, 0, &doc! {"ping": 1}), expected);
    }

    #[test]
    fn a_sequence_becomes_an_array() {
        let mut message = encode_command(1, 0, &doc! {"insert": "c", "$db": "d"});
        let document = document_bytes(&doc! {"_id": 1});
        let length = 4 + "documents\0".len() + 2 * document.len();
        message.push(1);
        message.extend_from_slice(&i32::try_from(length).unwrap().to_le_bytes());
        message.extend_from_slice(b"documents\0");
        message.extend_from_slice(&document);
        message.extend_from_slice(&document);
        let request = Request::decode(&message).unwrap();
        assert_eq!(request.command.get_array("documents").unwrap().len(), 2);
    }

    #[test]
    fn malformed_messages_are_refused() {
        let good = encode_command(1, 0, &doc! {"ping": 1, "$db": "admin"});
        for end in 0..good.len() {
            assert!(Request::decode(&good[..end]).is_err(), "cut at {end}");
        }
        let mut flags = good.clone();
        flags[16] = 4;
        assert_eq!(Request::decode(&flags).unwrap_err(), CodecError::Flags(4));
        assert_eq!(
            message_length(&(-1_i32).to_le_bytes()),
            Err(CodecError::Length(-1))
        );
        assert_eq!(
            message_length(&15_i32.to_le_bytes()),
            Err(CodecError::Length(15))
        );
    }

    #[test]
    fn checksums_are_written_and_checked() {
        let mut message = OutgoingMessage {
            form: Form::Msg,
            request_id: 1,
            response_to: 2,
            flags: 0,
            body: document_bytes(&doc! {"ok": 1}),
            checksum: Some(Checksum::Right),
            length: None,
        };
        assert_eq!(Reply::decode(&message.encode()).unwrap().response_to, 2);
        message.checksum = Some(Checksum::Wrong);
        let error = Reply::decode(&message.encode()).unwrap_err();
        assert!(matches!(error, CodecError::Checksum { .. }), "{error}");
    }

    #[test]
    fn deep_documents_are_refused_without_recursion() {
        let body = crate::payload::deep_document(20_000);
        let message = OutgoingMessage {
            form: Form::Msg,
            request_id: 1,
            response_to: 0,
            flags: 0,
            body,
            checksum: None,
            length: None,
        };
        let error = Request::decode(&message.encode()).unwrap_err();
        assert!(error.to_string().contains("nested deeper"), "{error}");
    }
}
