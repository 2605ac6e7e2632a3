use std::fmt;

use bson::RawDocument;

#[cfg(feature = "net")]
use super::ReplyFields;
use super::header::{Header, Limits, OpCode, ahead, deframe};
use super::msg::{MsgFlags, OpMsg};
use super::{Inspection, WireError, parse_reply};
use crate::error::ClosedReason;
use crate::uri::Compressor;

mod compression;
mod owed;

use compression::{Compression, Stage};
use owed::{Owed, owed_reply};

pub use owed::Taker;

/// Capacity that an idle exchange may keep.
const KEEP: usize = 1024;
/// Free space that a request or a read finds at least.
const STEP: usize = 512;
/// Bytes allocated ahead of those that have come: a length that a server merely claims costs no
/// more than this.
const READ_AHEAD: usize = 256 * 1024;

/// Bytes of a reply to a hello, or of one in an authentication, and elements in it: what comes from a
/// server that has proved nothing yet. A thousand members take a tenth of it.
const HANDSHAKE_BYTES: usize = 1024 * 1024;
const HANDSHAKE_ELEMENTS: usize = 16 * 1024;

/// Whether an exchange can take another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Idle,
    /// It can, once the reply owed to an abandoned request has been read away.
    Owed,
    /// It can't, ever.
    Closed(ClosedReason),
}

/// Where a connection stands between request and reply.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing is owed in either direction.
    Idle,
    /// A request is being written; `None` wants no reply.
    Writing(Option<Owed>),
    /// A request was wholly written; its reply is to come, or has come in part.
    Owed(Owed),
    Closed(ClosedReason),
}

/// A reply that was checked and still stands in the buffer.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    end: usize,
    /// Whether the message came compressed: the body is in what was unpacked then.
    unpacked: bool,
    body: (usize, usize),
}

/// Request and reply on one connection, without the I/O. It carries the mark of invariant I1.
///
/// Every step that lets a byte move changes the state before the shell awaits. A future dropped at
/// any await so leaves behind a state that says what may be done: nothing was sent (use it), a
/// reply is owed (drain it), anything else (close it).
///
/// One buffer serves a request and then its reply. It grows with the bytes that come, and is given
/// back by [`release`](Self::release). Where messages may be compressed there is one more for each
/// direction, and nothing of it where they may not.
pub struct Exchange {
    buf: Vec<u8>,
    compression: Option<Box<Compression>>,
    /// Of a reply that is not short: under way, or what it has found.
    inspection: Option<Box<Inspection>>,
    accepted: Option<Accepted>,
    state: State,
    next_request_id: i32,
    limits: Limits,
    max_elements: usize,
}

/// What an exchange accepted before it was [narrowed](Exchange::narrow).
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    limits: Limits,
    max_elements: usize,
}

impl Exchange {
    /// An exchange in which nothing is owed.
    pub fn new(limits: Limits) -> Self {
        Self {
            buf: Vec::new(),
            compression: None,
            inspection: None,
            accepted: None,
            state: State::Idle,
            next_request_id: 1,
            limits,
            max_elements: usize::MAX,
        }
    }

    /// Accepts only what a reply to a hello, or one in an authentication, may be: 1 MiB and 16,384
    /// elements, nested ones included. Gives back what was accepted before.
    pub fn narrow(&mut self) -> Bounds {
        let before = Bounds {
            limits: self.limits,
            max_elements: self.max_elements,
        };
        self.limits.max_message_size = before.limits.max_message_size.min(HANDSHAKE_BYTES);
        self.max_elements = before.max_elements.min(HANDSHAKE_ELEMENTS);
        before
    }

    /// Accepts what was accepted before [`narrow`](Self::narrow).
    pub fn widen(&mut self, before: Bounds) {
        self.limits = before.limits;
        self.max_elements = before.max_elements;
    }

    /// What is accepted.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes over the limits of the connection's own hello, in place of those of a handshake.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.max_elements = usize::MAX;
    }

    /// Lets replies come compressed: by any compressor of this build, as a server may once it was
    /// offered one. Else they are refused.
    pub fn accept_compressed(&mut self) {
        self.compression.get_or_insert_default();
    }

    /// Compresses requests from now on, but for those that must not be; see [`compress`](super::compress).
    pub fn compress_with(&mut self, compressor: Compressor, zlib_level: i8) {
        let compression = self.compression.get_or_insert_default();
        compression.compressor = Some((compressor, zlib_level));
    }

    /// Whether another request can be begun.
    pub fn readiness(&self) -> Readiness {
        match self.state {
            State::Idle => Readiness::Idle,
            State::Writing(_) => Readiness::Closed(ClosedReason::CancelledWrite),
            State::Owed(owed) if owed.previous.is_some() => {
                Readiness::Closed(ClosedReason::CancelledStream)
            }
            State::Owed(_) => Readiness::Owed,
            State::Closed(reason) => Readiness::Closed(reason),
        }
    }

    /// Whether a reply is to come that [`Taker::Anyone`] may take.
    pub fn is_receivable(&self) -> bool {
        matches!(
            self.state,
            State::Owed(Owed {
                taker: Taker::Anyone,
                ..
            })
        )
    }

    /// Whether the server goes on with another reply, unasked (`moreToCome`).
    pub fn is_streaming(&self) -> bool {
        matches!(self.state, State::Owed(owed) if owed.previous.is_some())
    }

    /// Whether a request was written whole, and no byte of its reply has come.
    pub fn awaits_first_byte(&self) -> bool {
        matches!(self.state, State::Owed(_)) && self.buf.is_empty()
    }

    /// Ends the exchange for good. The first reason stays.
    pub fn close(&mut self, reason: ClosedReason) {
        if !matches!(self.state, State::Closed(_)) {
            self.state = State::Closed(reason);
        }
        self.accepted = None;
        self.inspection = None;
        self.buf = Vec::new();
        self.compression = None;
    }

    /// The empty buffer to encode a request into, and the request's id.
    ///
    /// # Errors
    /// What stands in the way of a request.
    pub fn begin(&mut self) -> Result<(&mut Vec<u8>, i32), Readiness> {
        match self.readiness() {
            Readiness::Idle => {
                self.accepted = None;
                self.inspection = None;
                self.buf.clear();
                self.buf.reserve(STEP);
                if let Some(compression) = &mut self.compression {
                    compression.forget_request();
                }
                let id = self.next_request_id;
                // 0 means "no request" in a reply.
                self.next_request_id = id.checked_add(1).unwrap_or(1);
                Ok((&mut self.buf, id))
            }
            other => Err(other),
        }
    }

    /// Compresses the request in the buffer, or the message that the caller keeps, where that is to
    /// be done: up to 256 KiB of it, and says whether nothing is left. For who has other things to do
    /// in between; [`start_writing`](Self::start_writing) does what was not done. A request that is
    /// given up here can be followed by another.
    #[inline]
    pub fn pack(&mut self, foreign: Option<&[u8]>) -> bool {
        let message = foreign.unwrap_or(&self.buf);
        match &mut self.compression {
            Some(compression) => compression.pack(message, &self.limits),
            None => true,
        }
    }

    /// Marks that the request in the buffer is about to be written: until
    /// [`handle_written`](Self::handle_written), a drop leaves a connection that can't be used.
    ///
    /// # Errors
    /// A message that is none, or that can't be a request. The exchange is as it was then.
    pub fn start_writing(&mut self, taker: Taker) -> Result<(), WireError> {
        let owed = owed_reply(&self.buf, &self.limits, taker)?;
        while !self.pack(None) {}
        self.state = State::Writing(owed);
        Ok(())
    }

    /// The same for a message that the caller keeps, so that it need not be copied. What is to be
    /// written is [`packed`](Self::packed), or else that message.
    ///
    /// # Errors
    /// See [`start_writing`](Self::start_writing).
    pub fn start_writing_foreign(&mut self, message: &[u8], taker: Taker) -> Result<(), WireError> {
        let owed = owed_reply(message, &self.limits, taker)?;
        while !self.pack(Some(message)) {}
        self.state = State::Writing(owed);
        Ok(())
    }

    /// The request to be written.
    pub fn request(&self) -> &[u8] {
        self.packed().unwrap_or(&self.buf)
    }

    /// The request in its compressed form, if it is one that is compressed.
    pub fn packed(&self) -> Option<&[u8]> {
        let compression = self.compression.as_ref()?;
        let is_over = matches!(compression.packing, Stage::Over);
        (is_over && !compression.packed.is_empty()).then_some(&compression.packed)
    }

    /// The whole request was handed to the socket.
    pub fn handle_written(&mut self) {
        if let State::Writing(owed) = self.state {
            self.buf.clear();
            if let Some(compression) = &mut self.compression {
                compression.forget_request();
            }
            self.state = owed.map_or(State::Idle, State::Owed);
        }
    }

    /// The buffer to read into, with free space, or `None` once a whole message is there.
    ///
    /// # Errors
    /// A header that is refused, or that announces more than `max` bytes. The exchange is closed
    /// then.
    pub fn read_target(&mut self, max: usize) -> Result<Option<&mut Vec<u8>>, WireError> {
        // While the server streams, what was accepted before makes room.
        if let Some(accepted) = self.accepted.take() {
            self.inspection = None;
            self.buf.drain(..accepted.end);
        }
        let missing = match self.announced(max) {
            Ok(None) => STEP,
            Ok(Some(header)) if self.buf.len() >= header.length => return Ok(None),
            Ok(Some(header)) => header.length - self.buf.len(),
            Err(error) => {
                let is_own_bound = max < self.limits.max_message_size
                    && matches!(error, WireError::TooLong { max: bound, .. } if bound == max);
                self.close(match is_own_bound {
                    true => ClosedReason::LongReply,
                    false => ClosedReason::Protocol,
                });
                return Err(error);
            }
        };
        if self.buf.capacity() == self.buf.len() {
            self.buf
                .reserve_exact(ahead(missing, self.buf.len(), READ_AHEAD));
        }
        Ok(Some(&mut self.buf))
    }

    /// The header of the message that is coming, once it is there.
    fn announced(&self, max: usize) -> Result<Option<Header>, WireError> {
        let header = deframe(&self.buf, &self.limits)?;
        match header {
            Some(Header { length, .. }) if length > max => Err(WireError::TooLong { length, max }),
            header => Ok(header),
        }
    }

    /// Whether a reply is owed of which it is known already that it can't be read with this `max`.
    pub fn owes_more_than(&self, max: usize) -> bool {
        matches!(self.state, State::Owed(_)) && self.announced(max).is_err()
    }

    /// Begins with what is to be done with the whole message that [`read_target`](Self::read_target)
    /// found: unpacks it, and goes through it. Takes a millisecond or two, and says whether nothing
    /// is left. For who has other things to do in between; [`accept_reply`](Self::accept_reply) does
    /// what was not done. Until then the reply is owed.
    ///
    /// # Errors
    /// See [`accept_reply`](Self::accept_reply). The exchange is closed then.
    #[inline]
    pub fn prepare_reply(&mut self) -> Result<bool, WireError> {
        if self.is_plain() {
            return Ok(true);
        }
        self.try_prepare()
            .inspect_err(|_| self.close(ClosedReason::Protocol))
    }

    /// Whether the reply is what nearly all are: short, and not compressed.
    fn is_plain(&self) -> bool {
        self.compression.is_none() && Inspection::is_short(&self.buf, self.max_elements)
    }

    fn try_prepare(&mut self) -> Result<bool, WireError> {
        let State::Owed(owed) = self.state else {
            return Ok(true);
        };
        let header = Header::parse(&self.buf, &self.limits)?;
        let Some(message) = self.buf.get(..header.length) else {
            return Ok(true);
        };
        let message = match &mut self.compression {
            Some(compression) if header.op_code == OpCode::Compressed => {
                if !compression.unpack(message, &self.limits)? {
                    return Ok(false);
                }
                &*compression.unpacked
            }
            _ => message,
        };
        if self.inspection.is_none() {
            let op_code = Header::parse(message, &self.limits)?.op_code;
            // What is of another operation is refused later.
            if matches!(op_code, OpCode::Msg) != owed.legacy {
                self.inspection = Inspection::begin(message, owed.legacy, self.max_elements);
            }
        }
        match &mut self.inspection {
            Some(inspection) if !inspection.is_over() => inspection.step(message, &self.limits),
            // It needs none, or is over.
            Some(_) | None => Ok(true),
        }
    }

    /// Checks the whole message that [`read_target`](Self::read_target) found, and that it answers
    /// the request.
    ///
    /// # Errors
    /// Whatever is wrong with it. The exchange is closed then.
    pub fn accept_reply(&mut self) -> Result<(), WireError> {
        self.try_accept()
            .inspect_err(|_| self.close(ClosedReason::Protocol))
    }

    fn try_accept(&mut self) -> Result<(), WireError> {
        let State::Owed(owed) = self.state else {
            return Err(WireError::Unsolicited(self.buf.len()));
        };
        while !self.is_plain() && !self.try_prepare()? {}
        let Header {
            length: end,
            op_code,
            ..
        } = Header::parse(&self.buf, &self.limits)?;
        let (message, extra) = self.buf.split_at_checked(end).ok_or(WireError::Truncated {
            needed: end,
            got: self.buf.len(),
        })?;
        let (message, unpacked) = match (op_code, &mut self.compression) {
            (OpCode::Compressed, Some(compression)) => {
                compression.unpacking = Stage::Ahead;
                (&*compression.unpacked, true)
            }
            _ => (message, false),
        };
        let (header, body, more_to_come) = if owed.legacy {
            let mut limits = self.limits;
            if self.inspection.is_some() {
                // It has been walked.
                limits.max_depth = usize::MAX;
            }
            let (header, body) = parse_reply(message, &limits)?;
            (header, body, false)
        } else {
            let parsed = match &self.inspection {
                Some(walked) => OpMsg::parse_inspected(message, &self.limits, walked)?,
                None => OpMsg::parse(message, &self.limits)?,
            };
            let more_to_come = parsed.flags().contains(MsgFlags::MORE_TO_COME);
            (*parsed.header(), parsed.body(), more_to_come)
        };
        if header.response_to != owed.request_id && Some(header.response_to) != owed.previous {
            return Err(WireError::ResponseTo {
                expected: owed.request_id,
                got: header.response_to,
            });
        }
        if more_to_come && !owed.may_stream {
            return Err(WireError::MoreToCome);
        }
        if !more_to_come && !extra.is_empty() {
            return Err(WireError::Unsolicited(extra.len()));
        }
        let start = body.as_bytes().as_ptr().addr() - message.as_ptr().addr();
        self.accepted = Some(Accepted {
            end,
            unpacked,
            body: (start, start + body.as_bytes().len()),
        });
        self.state = match more_to_come {
            true => State::Owed(Owed {
                previous: Some(header.request_id),
                ..owed
            }),
            false => State::Idle,
        };
        Ok(())
    }

    /// The message that was accepted last, whole; empty where there is none.
    pub fn reply(&self) -> &[u8] {
        match (self.accepted, &self.compression) {
            (None, _) => None,
            (Some(Accepted { unpacked: true, .. }), compression) => compression
                .as_ref()
                .map(|compression| &*compression.unpacked),
            (Some(accepted), _) => self.buf.get(..accepted.end),
        }
        .unwrap_or_default()
    }

    /// The document of the message that was accepted last.
    ///
    /// # Errors
    /// There is none.
    pub fn reply_body(&self) -> Result<&RawDocument, WireError> {
        let (start, end) = self.accepted.ok_or(WireError::NoBody)?.body;
        let bytes = self.reply().get(start..end).ok_or(WireError::NoBody)?;
        RawDocument::from_bytes(bytes).map_err(|_| WireError::Document(start))
    }

    /// Where the fields of the [body](Self::reply_body) are, if that is long.
    #[cfg(feature = "net")]
    #[inline]
    pub(crate) fn reply_fields(&self) -> Option<&ReplyFields> {
        self.inspection.as_ref()?.fields()
    }

    /// Gives a large buffer back; for when the connection is about to be idle.
    pub fn release(&mut self) {
        if matches!(self.state, State::Idle) {
            self.accepted = None;
            self.inspection = None;
            self.buf.clear();
            if self.buf.capacity() > KEEP {
                self.buf = Vec::new();
            }
            if let Some(compression) = &mut self.compression {
                compression.release();
            }
        }
    }
}

/// Shows how much is in the buffer, and nothing of it: that is the application's, or a proof.
impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("state", &self.state)
            .field("buffered", &self.buf.len())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
