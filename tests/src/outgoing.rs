//! Outgoing messages, valid and invalid ones. Public as part of [`codec`](crate::codec).

use bson::Document;

use crate::codec::{CHECKSUM_PRESENT, Form, HEADER_LENGTH, OP_MSG, OP_QUERY, OP_REPLY};

/// A client's OP_MSG with one kind 0 section.
pub fn encode_command(request_id: i32, flags: u32, command: &Document) -> Vec<u8> {
    OutgoingMessage {
        form: Form::Msg,
        request_id,
        response_to: 0,
        flags,
        body: document_bytes(command),
        checksum: None,
        length: None,
    }
    .encode()
}

/// A client's legacy OP_QUERY for one command.
pub fn encode_query(request_id: i32, database: &str, command: &Document) -> Vec<u8> {
    let mut payload = 0_u32.to_le_bytes().to_vec();
    payload.extend_from_slice(database.as_bytes());
    payload.extend_from_slice(b".$cmd\0");
    payload.extend_from_slice(&0_i32.to_le_bytes());
    payload.extend_from_slice(&(-1_i32).to_le_bytes());
    payload.extend_from_slice(&document_bytes(command));
    let mut message = header(payload.len(), request_id, 0, OP_QUERY);
    message.extend_from_slice(&payload);
    message
}

/// A document's bytes.
///
/// # Panics
/// If a key contains a NUL byte, which BSON does not allow.
pub fn document_bytes(document: &Document) -> Vec<u8> {
    document
        .to_vec()
        .expect("a document of the kit's has no NUL in its keys")
}

/// The checksum of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The CRC-32C of the message.
    Right,
    /// A wrong checksum.
    Wrong,
}

/// A message to write, with optional faults.
#[derive(Clone, Debug)]
pub(crate) struct OutgoingMessage {
    pub(crate) form: Form,
    pub(crate) request_id: i32,
    pub(crate) response_to: i32,
    pub(crate) flags: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) checksum: Option<Checksum>,
    /// A header length to write instead of the true one.
    pub(crate) length: Option<i32>,
}

impl OutgoingMessage {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.body.len() + 24);
        let op_code = match self.form {
            Form::Msg => {
                let checksum_flag = if self.checksum.is_some() {
                    CHECKSUM_PRESENT
                } else {
                    0
                };
                payload.extend_from_slice(&(self.flags | checksum_flag).to_le_bytes());
                payload.push(0);
                OP_MSG
            }
            Form::Query => {
                payload.extend_from_slice(&8_u32.to_le_bytes());
                payload.extend_from_slice(&[0; 12]);
                payload.extend_from_slice(&1_i32.to_le_bytes());
                OP_REPLY
            }
        };
        payload.extend_from_slice(&self.body);
        let checksum = self.checksum.filter(|_| self.form == Form::Msg);
        let checksum_length = if checksum.is_some() { 4 } else { 0 };
        let mut message = header(
            payload.len() + checksum_length,
            self.request_id,
            self.response_to,
            op_code,
        );
        message.extend_from_slice(&payload);
        if let Some(length) = self.length {
            message[..4].copy_from_slice(&length.to_le_bytes());
        }
        match checksum {
            Some(Checksum::Right) => {
                let sum = crc32c::crc32c(&message);
                message.extend_from_slice(&sum.to_le_bytes());
            }
            Some(Checksum::Wrong) => {
                let sum = !crc32c::crc32c(&message);
                message.extend_from_slice(&sum.to_le_bytes());
            }
            None => {}
        }
        message
    }
}

fn header(payload_length: usize, request_id: i32, response_to: i32, op_code: i32) -> Vec<u8> {
    let length = i32::try_from(payload_length + HEADER_LENGTH).unwrap_or(i32::MAX);
    [length, request_id, response_to, op_code]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect()
}
