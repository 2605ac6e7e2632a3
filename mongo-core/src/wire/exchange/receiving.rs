//! The receiving of replies.

use bson::RawDocument;

use super::compression::Stage;
use super::owed::Owed;
use super::{Accepted, Exchange, READ_AHEAD, STEP, State};
#[cfg(feature = "net")]
use crate::wire::ReplyFields;
use crate::wire::header::{Header, ahead, deframe};
use crate::wire::msg::OpMsg;
use crate::wire::op_code::OpCode;
use crate::wire::section::MsgFlags;
use crate::wire::{ClosedReason, Inspection, WireError, parse_reply};

impl Exchange {
    /// The buffer to read into, with free space, or `None` once a whole message has arrived.
    ///
    /// # Errors
    /// The header is invalid, or announces more than `max` bytes. The exchange is then closed.
    pub fn read_target(&mut self, max: usize) -> Result<Option<&mut Vec<u8>>, WireError> {
        // While the server streams, the previously accepted message is removed.
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

    /// The header of the next message, once it has arrived.
    fn announced(&self, max: usize) -> Result<Option<Header>, WireError> {
        let header = deframe(&self.buf, &self.limits)?;
        match header {
            Some(Header { length, .. }) if length > max => Err(WireError::TooLong { length, max }),
            header => Ok(header),
        }
    }

    /// Whether a reply is pending whose header already shows that it can't be read with this `max`.
    pub fn owes_more_than(&self, max: usize) -> bool {
        matches!(self.state, State::Owed(_)) && self.announced(max).is_err()
    }

    /// Decompresses and walks a part of the message that [`read_target`](Self::read_target) found,
    /// for a millisecond or two. Returns whether it is finished. This lets the caller yield in
    /// between; [`accept_reply`](Self::accept_reply) does the rest. Until then the reply is
    /// pending.
    ///
    /// # Errors
    /// See [`accept_reply`](Self::accept_reply). The exchange is then closed.
    #[inline]
    pub fn prepare_reply(&mut self) -> Result<bool, WireError> {
        if self.is_plain() {
            return Ok(true);
        }
        self.try_prepare()
            .inspect_err(|_| self.close(ClosedReason::Protocol))
    }

    /// Whether the reply is short and not compressed, as nearly all are.
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
            // Another operation is refused later.
            if matches!(op_code, OpCode::Msg) != owed.legacy {
                self.inspection = Inspection::begin(message, owed.legacy, self.max_elements);
            }
        }
        match &mut self.inspection {
            Some(inspection) if !inspection.is_over() => inspection.step(message, &self.limits),
            // It needs no inspection, or the inspection is finished.
            Some(_) | None => Ok(true),
        }
    }

    /// Checks the message that [`read_target`](Self::read_target) found, and that it answers the
    /// request.
    ///
    /// # Errors
    /// The message is invalid or does not answer the request. The exchange is then closed.
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
                // The inspection has checked the depth.
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

    /// The whole message that was accepted last; empty if there is none.
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

    /// The body of the message that was accepted last.
    ///
    /// # Errors
    /// No message was accepted.
    pub fn reply_body(&self) -> Result<&RawDocument, WireError> {
        let (start, end) = self.accepted.ok_or(WireError::NoBody)?.body;
        let bytes = self.reply().get(start..end).ok_or(WireError::NoBody)?;
        RawDocument::from_bytes(bytes).map_err(|_| WireError::Document(start))
    }

    /// The fields of the [body](Self::reply_body), if it is long.
    #[cfg(feature = "net")]
    #[inline]
    pub(crate) fn reply_fields(&self) -> Option<&ReplyFields> {
        self.inspection.as_ref()?.fields()
    }
}
