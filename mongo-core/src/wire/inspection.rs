use super::WireError;
use super::document::{Walk, may_be_deeper, split_document};
use super::header::{HEADER_LEN, Limits};
use super::msg::{MsgFlags, Section};

/// Bytes of a message that [`OpMsg::parse`](super::OpMsg::parse) may go through at once.
const AT_ONCE: usize = 256 * 1024;
/// Elements of a step: a millisecond's worth.
const STEP: usize = 32 * 1024;

/// Goes through all documents of an OP_MSG, as [`OpMsg::parse`](super::OpMsg::parse) does, but in
/// steps, for who has other things to do between them. What is left for
/// [`OpMsg::parse_inspected`](super::OpMsg) takes no time.
pub(super) struct Inspection {
    at: usize,
    /// Where the sequence ends that `at` is in.
    sequence_end: usize,
    /// Of the document that begins at `at`, and where that ends.
    walk: Option<(Walk, usize)>,
}

impl Inspection {
    /// Whether a message can be gone through at once.
    pub(super) fn is_short(message: &[u8]) -> bool {
        message.len() <= AT_ONCE
    }

    /// `None` for a short one.
    pub(super) fn begin(message: &[u8]) -> Option<Self> {
        (!Self::is_short(message)).then_some(Self {
            at: HEADER_LEN + 4,
            sequence_end: 0,
            walk: None,
        })
    }

    /// Goes on with the same message, and says whether that was all.
    pub(super) fn step(&mut self, message: &[u8], limits: &Limits) -> Result<bool, WireError> {
        let max_depth = limits.max_depth;
        let end = match MsgFlags::of(message)?.contains(MsgFlags::CHECKSUM_PRESENT) {
            true => message.len() - 4,
            false => message.len(),
        };
        let message = &message[..end];
        let mut budget = STEP;
        while self.at < end {
            if budget == 0 {
                return Ok(false);
            }
            budget -= 1;
            if let Some((walk, document_end)) = &mut self.walk {
                let document = &message[self.at..*document_end];
                if !walk.step(document, max_depth, &mut budget)? {
                    return Ok(false);
                }
                self.at = *document_end;
                self.walk = None;
            } else if self.at < self.sequence_end {
                let rest = &message[self.at..self.sequence_end];
                let (document, _) = split_document(rest, usize::MAX)?;
                self.enter(document.as_bytes().len(), max_depth);
            } else {
                self.next_section(message, max_depth)?;
            }
        }
        Ok(true)
    }

    fn next_section(&mut self, message: &[u8], max_depth: usize) -> Result<(), WireError> {
        let (section, after) = Section::split(&message[self.at..], usize::MAX)?;
        let end = message.len() - after.len();
        match section {
            Section::Body(document) => {
                let length = document.as_bytes().len();
                self.at = end - length;
                self.enter(length, max_depth);
            }
            Section::Sequence(sequence) => {
                self.at = end - sequence.length();
                self.sequence_end = end;
            }
        }
        Ok(())
    }

    /// Walks the document that begins here, or passes it by if it is too short to be too deep.
    fn enter(&mut self, length: usize, max_depth: usize) {
        let end = self.at + length;
        match may_be_deeper(length, max_depth) {
            true => self.walk = Some((Walk::new(length), end)),
            false => self.at = end,
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::{RawArrayBuf, RawDocumentBuf, rawdoc};

    use super::super::{OpMsg, OpMsgBuilder};
    use super::*;

    /// What comes out, and after how many steps.
    fn inspect(message: &[u8]) -> (Result<(), WireError>, usize) {
        let mut inspection = Inspection::begin(message).expect("long");
        let limits = Limits::default();
        for steps in 1.. {
            match inspection.step(message, &limits) {
                Ok(false) => {}
                Ok(true) => {
                    let parsed = OpMsg::parse_inspected(message, &limits);
                    return (parsed.map(drop), steps);
                }
                Err(error) => return (Err(error), steps),
            }
        }
        unreachable!()
    }

    fn long() -> RawDocumentBuf {
        let mut array = RawArrayBuf::new();
        for number in 0..60_000 {
            array.push(rawdoc! { "n": number, "of": { "a": true } });
        }
        rawdoc! { "ok": 1, "documents": array }
    }

    fn message(flags: MsgFlags, body: &RawDocumentBuf, sequence: usize) -> Vec<u8> {
        let mut message = Vec::new();
        let document = rawdoc! {};
        OpMsgBuilder::new(&mut message, 1, flags)
            .body(body)
            .sequence("documents", std::iter::repeat_n(&*document, sequence))
            .finish(usize::MAX)
            .expect("a message");
        message
    }

    #[test]
    fn long_messages_take_steps() {
        for flags in [MsgFlags::NONE, MsgFlags::CHECKSUM_PRESENT] {
            let (outcome, steps) = inspect(&message(flags, &long(), 1));
            // Six elements each: two values, one container in it, its value, and two ends.
            assert_eq!((outcome, steps), (Ok(()), 60_000 * 6 / STEP + 1));
            let (outcome, steps) = inspect(&message(flags, &rawdoc! {}, 100_000));
            assert_eq!((outcome, steps), (Ok(()), 100_000 / STEP + 1));
        }
        let short = message(MsgFlags::NONE, &rawdoc! { "ok": 1 }, 1);
        assert!(Inspection::begin(&short).is_none());
    }

    #[test]
    fn what_is_refused_is_what_is_refused_at_once() {
        let good = message(MsgFlags::NONE, &long(), 70_000);
        let mut random = 1_usize;
        let mut refused = 0;
        for _ in 0..16 {
            let mut wrong = good.clone();
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let at = 16 + (random >> 20) % (good.len() - 16);
            wrong[at] = (random >> 8) as u8;
            let expected = OpMsg::parse(&wrong, &Limits::default()).map(drop);
            let found = inspect(&wrong).0;
            assert_eq!(
                found.is_ok(),
                expected.is_ok(),
                "{at}: {found:?} {expected:?}"
            );
            refused += usize::from(found.is_err());
        }
        assert!(refused > 4, "{refused}");
        let mut deep = rawdoc! { "text": "x".repeat(300_000) };
        for _ in 0..256 {
            deep = rawdoc! { "a": deep };
        }
        let (outcome, _) = inspect(&message(MsgFlags::NONE, &deep, 0));
        assert_eq!(outcome, Err(WireError::TooDeep(256)));
    }
}
