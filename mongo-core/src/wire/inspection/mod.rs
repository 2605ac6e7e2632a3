use super::WireError;
use super::document::{Walk, may_be_deeper, split_document};
use super::fields::ReplyFields;
use super::header::{HEADER_LEN, Limits};
use super::legacy::REPLY_BODY;
use super::section::{MsgFlags, Section};

/// The maximum length in bytes of a message that [`OpMsg::parse`](super::OpMsg::parse) may parse at
/// once.
const AT_ONCE: usize = 256 * 1024;
/// Elements in a step, which takes a millisecond at most.
const STEP: usize = 32 * 1024;
/// Bytes in a step of the checksum.
const CHECKSUM_STEP: usize = 4 * 1024 * 1024;

/// Walks all documents of a reply, as [`OpMsg::parse`](super::OpMsg::parse) and
/// [`parse_reply`](super::parse_reply) do, but in steps, for a task that yields between them. After
/// that, those two, [`OpMsg::parse_inspected`](super::OpMsg) and access to the
/// [fields](ReplyFields) that it found do not walk the reply again.
pub(super) struct Inspection {
    at: usize,
    /// The end of the sequence that `at` is in.
    sequence_end: usize,
    /// The walk of the document that begins at `at`, and the document's end.
    walk: Option<(Walk, usize)>,
    /// The maximum number of elements, documents and sections, and the number so far.
    max_elements: usize,
    elements: usize,
    /// The range of the body.
    body: Option<(usize, usize)>,
    /// The fields of the body, unless the body is short.
    fields: Option<ReplyFields>,
    /// The checksum so far, and the number of bytes that it covers.
    checksum: (u32, usize),
    is_legacy: bool,
    is_over: bool,
}

impl Inspection {
    /// Whether a message can be parsed at once.
    pub(super) fn is_short(message: &[u8], max_elements: usize) -> bool {
        // An element has at least two bytes.
        message.len() <= AT_ONCE.min(max_elements)
    }

    /// `None` for a short message. A legacy one is an OP_REPLY.
    pub(super) fn begin(message: &[u8], is_legacy: bool, max_elements: usize) -> Option<Box<Self>> {
        if Self::is_short(message, max_elements) {
            return None;
        }
        let (at, sequence_end) = match is_legacy {
            true => (REPLY_BODY, message.len()),
            false => (HEADER_LEN + 4, 0),
        };
        Some(Box::new(Self {
            at,
            sequence_end,
            walk: None,
            max_elements,
            elements: 0,
            body: None,
            fields: None,
            checksum: (0, 0),
            is_legacy,
            is_over: false,
        }))
    }

    /// Continues with the same message. Returns whether it is finished.
    ///
    /// # Errors
    /// Malformed documents and sections; more elements than allowed.
    pub(super) fn step(&mut self, message: &[u8], limits: &Limits) -> Result<bool, WireError> {
        let has_checksum =
            !self.is_legacy && MsgFlags::of(message)?.contains(MsgFlags::CHECKSUM_PRESENT);
        let end = match has_checksum {
            true => message.len() - 4,
            false => message.len(),
        };
        let mut budget = STEP;
        while self.at < end {
            if budget == 0 {
                self.count(STEP)?;
                return Ok(false);
            }
            budget -= 1;
            self.go_on(&message[..end], limits.max_depth, &mut budget)?;
        }
        self.count(STEP - budget)?;
        let (sum, summed) = self.checksum;
        if has_checksum && summed < end {
            let next = end.min(summed + CHECKSUM_STEP);
            self.checksum = (crc32c::crc32c_append(sum, &message[summed..next]), next);
            return Ok(false);
        }
        self.is_over = true;
        Ok(true)
    }

    fn count(&mut self, more: usize) -> Result<(), WireError> {
        self.elements += more;
        match self.elements > self.max_elements {
            true => Err(WireError::TooManyElements(self.max_elements)),
            false => Ok(()),
        }
    }

    fn go_on(
        &mut self,
        message: &[u8],
        max_depth: usize,
        budget: &mut usize,
    ) -> Result<(), WireError> {
        if let Some((walk, end)) = &mut self.walk {
            let (at, end) = (self.at, *end);
            let document = &message[at..end];
            let is_over = match &mut self.fields {
                Some(fields) if self.body == Some((at, end)) => {
                    let note = |name: &[u8], kind, at| fields.note(name, kind, at);
                    walk.step(document, max_depth, budget, note)?
                }
                _ => walk.step(document, max_depth, budget, |_, _, _| {})?,
            };
            if is_over {
                self.at = end;
                self.walk = None;
            }
        } else if self.at < self.sequence_end {
            let rest = &message[self.at..self.sequence_end];
            let (document, _) = split_document(rest, usize::MAX)?;
            self.enter(document.as_bytes().len(), max_depth);
        } else {
            self.next_section(message, max_depth)?;
        }
        Ok(())
    }

    fn next_section(&mut self, message: &[u8], max_depth: usize) -> Result<(), WireError> {
        let (section, after) = Section::split(&message[self.at..], usize::MAX)?;
        let end = message.len() - after.len();
        match section {
            Section::Body(_) if self.body.is_some() => return Err(WireError::SeveralBodies),
            Section::Body(document) => {
                let length = document.as_bytes().len();
                self.at = end - length;
                self.body = Some((self.at, end));
                self.fields = may_be_deeper(length, max_depth).then(ReplyFields::default);
                self.enter(length, max_depth);
            }
            Section::Sequence(sequence) => {
                self.at = end - sequence.length();
                self.sequence_end = end;
            }
        }
        Ok(())
    }

    /// Walks the document that begins here, or skips it if it is too short to be nested too deep.
    fn enter(&mut self, length: usize, max_depth: usize) {
        let end = self.at + length;
        match may_be_deeper(length, max_depth) {
            true => self.walk = Some((Walk::new(length), end)),
            false => self.at = end,
        }
    }

    /// Whether the inspection is finished.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The range of an OP_MSG's body.
    pub(super) fn body(&self) -> Option<(usize, usize)> {
        self.body
    }

    /// The computed checksum of a message that has one.
    pub(super) fn checksum(&self) -> u32 {
        self.checksum.0
    }

    /// The fields of the body; `None` if the body is short.
    #[cfg(feature = "net")]
    pub(super) fn fields(&self) -> Option<&ReplyFields> {
        self.fields.as_ref()
    }
}

#[cfg(test)]
mod tests;
