use std::fmt;

use super::header::Limits;
use super::{ClosedReason, Inspection, WireError};
use crate::wire::Compressor;

mod compression;
mod owed;
mod receiving;

use compression::{Compression, Stage};
use owed::{Owed, owed_reply};

pub use owed::Taker;

/// The maximum buffer capacity of an idle exchange.
const KEEP: usize = 1024;
/// The minimum free space for a request or a read.
const STEP: usize = 512;
/// The maximum number of bytes allocated ahead of the received ones. A false length in a header
/// costs no more than this.
const READ_AHEAD: usize = 256 * 1024;

/// The maximum size of a reply to a hello or during authentication, in bytes and in elements,
/// because the server is not authenticated yet. A thousand members take a tenth of it.
const HANDSHAKE_BYTES: usize = 1024 * 1024;
const HANDSHAKE_ELEMENTS: usize = 16 * 1024;

/// Whether an exchange can take another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can take a request.
    Idle,
    /// It can take a request once the pending reply to an abandoned request has been drained.
    Owed,
    /// It can't take a request any more.
    Closed(ClosedReason),
}

/// The state of a connection between request and reply.
#[derive(Clone, Copy, Debug)]
enum State {
    /// No request is being written and no reply is pending.
    Idle,
    /// A request is being written; `None` if it expects no reply.
    Writing(Option<Owed>),
    /// A request was written completely; its reply has not arrived, or only in part.
    Owed(Owed),
    Closed(ClosedReason),
}

/// A reply that was checked and is still in the buffer.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    end: usize,
    /// Whether the message was compressed: the body is then in the decompressed buffer.
    unpacked: bool,
    body: (usize, usize),
}

/// Request and reply on one connection, without the I/O. Its state upholds invariant I1: a command
/// that is cancelled at any moment never lets a later one read its reply.
///
/// Every step that sends or receives a byte changes the state before the caller awaits. So a future
/// that is dropped at any await leaves a state that determines what to do with the connection:
/// reuse it if nothing was sent, drain it if a reply is pending, else close it.
///
/// One buffer holds a request and then its reply. It grows with the received bytes, and
/// [`release`](Self::release) frees it. If messages may be compressed, there is one more buffer for
/// each direction.
pub struct Exchange {
    buf: Vec<u8>,
    compression: Option<Box<Compression>>,
    /// The inspection of a reply that is not short: under way, or its result.
    inspection: Option<Box<Inspection>>,
    accepted: Option<Accepted>,
    state: State,
    next_request_id: i32,
    limits: Limits,
    max_elements: usize,
}

/// The bounds of an exchange before it was [narrowed](Exchange::narrow).
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    limits: Limits,
    max_elements: usize,
}

impl Exchange {
    /// An exchange without a pending reply.
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

    /// Lowers the bounds to those of a reply to a hello or during authentication: 1 MiB and 16,384
    /// elements, nested ones included. Returns the previous bounds.
    pub fn narrow(&mut self) -> Bounds {
        let before = Bounds {
            limits: self.limits,
            max_elements: self.max_elements,
        };
        self.limits.max_message_size = before.limits.max_message_size.min(HANDSHAKE_BYTES);
        self.max_elements = before.max_elements.min(HANDSHAKE_ELEMENTS);
        before
    }

    /// Restores the bounds from before [`narrow`](Self::narrow).
    pub fn widen(&mut self, before: Bounds) {
        self.limits = before.limits;
        self.max_elements = before.max_elements;
    }

    /// The limits for messages.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sets the limits of the connection's own hello, in place of those of a handshake.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.max_elements = usize::MAX;
    }

    /// Accepts compressed replies, from any compressor of this build: a server may compress once it
    /// was offered one. Without this, they are refused.
    pub fn accept_compressed(&mut self) {
        self.compression.get_or_insert_default();
    }

    /// Compresses all following requests except those that must not be; see
    /// [`compress`](super::compress).
    pub fn compress_with(&mut self, compressor: Compressor, zlib_level: i8) {
        let compression = self.compression.get_or_insert_default();
        compression.compressor = Some((compressor, zlib_level));
    }

    /// Whether another request can begin.
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

    /// Whether a reply is pending that [`Taker::Anyone`] may take.
    pub fn is_receivable(&self) -> bool {
        matches!(
            self.state,
            State::Owed(Owed {
                taker: Taker::Anyone,
                ..
            })
        )
    }

    /// Whether the server sends another reply without a request (`moreToCome`).
    pub fn is_streaming(&self) -> bool {
        matches!(self.state, State::Owed(owed) if owed.previous.is_some())
    }

    /// Whether a request was written completely and no byte of its reply has arrived.
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

    /// Returns the empty buffer to encode a request into, and the request's id.
    ///
    /// # Errors
    /// The readiness, if it is not [`Readiness::Idle`].
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

    /// Compresses up to 256 KiB of the request in the buffer, or of the caller's message, if it is
    /// to be compressed. Returns whether it is finished. This lets the caller yield in between;
    /// [`start_writing`](Self::start_writing) does the rest. A request that is abandoned here can
    /// be followed by another.
    #[inline]
    pub fn pack(&mut self, foreign: Option<&[u8]>) -> bool {
        let message = foreign.unwrap_or(&self.buf);
        match &mut self.compression {
            Some(compression) => compression.pack(message, &self.limits),
            None => true,
        }
    }

    /// Marks the request in the buffer as about to be written: a drop before
    /// [`handle_written`](Self::handle_written) leaves an unusable connection.
    ///
    /// # Errors
    /// The message is malformed or can't be a request. The exchange is then unchanged.
    pub fn start_writing(&mut self, taker: Taker) -> Result<(), WireError> {
        let owed = owed_reply(&self.buf, &self.limits, taker)?;
        while !self.pack(None) {}
        self.state = State::Writing(owed);
        Ok(())
    }

    /// Like [`start_writing`](Self::start_writing), for a message that the caller owns, so that it
    /// need not be copied. Write [`packed`](Self::packed), or else that message.
    ///
    /// # Errors
    /// See [`start_writing`](Self::start_writing).
    pub fn start_writing_foreign(&mut self, message: &[u8], taker: Taker) -> Result<(), WireError> {
        let owed = owed_reply(message, &self.limits, taker)?;
        while !self.pack(Some(message)) {}
        self.state = State::Writing(owed);
        Ok(())
    }

    /// The request to write.
    pub fn request(&self) -> &[u8] {
        self.packed().unwrap_or(&self.buf)
    }

    /// The compressed form of the request, if it has one.
    pub fn packed(&self) -> Option<&[u8]> {
        let compression = self.compression.as_ref()?;
        let is_over = matches!(compression.packing, Stage::Over);
        (is_over && !compression.packed.is_empty()).then_some(&compression.packed)
    }

    /// The request was written completely to the socket.
    pub fn handle_written(&mut self) {
        if let State::Writing(owed) = self.state {
            self.buf.clear();
            if let Some(compression) = &mut self.compression {
                compression.forget_request();
            }
            self.state = owed.map_or(State::Idle, State::Owed);
        }
    }

    /// Frees large buffers before the connection becomes idle.
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

/// Shows the buffer's length, not its content, which is application data or authentication data.
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
