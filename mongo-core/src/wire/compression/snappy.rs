use snap::raw::{self, decompress_len, max_compress_len};

use super::{Fault, HEADER_LEN, Progress, STEP};

/// The maximum number of output bytes for an input byte: a copy of 64 bytes takes 3.
const MAX_RATIO: usize = 22;

pub(super) struct Encoder {
    size: usize,
    has_begun: bool,
}

impl Encoder {
    pub(super) fn new(_level: i8, size: usize) -> Option<Self> {
        Some(Self {
            size,
            has_begun: false,
        })
    }

    /// Compresses the next piece into `out`.
    ///
    /// Compressed data refers only to its own block of 64 KiB, and every piece but the last is a
    /// multiple of that. So pieces can be compressed separately.
    pub(super) fn step(&mut self, piece: &[u8], is_last: bool, out: &mut Vec<u8>) -> Option<()> {
        let start = out.len();
        out.resize(start + max_compress_len(piece.len()), 0);
        let mut encoder = raw::Encoder::new();
        let written = encoder.compress(piece, &mut out[start..]).ok()?;
        out.truncate(start + written);
        if !self.has_begun && is_last {
            return Some(());
        }
        // The whole content has only one length, at its start.
        let own = start..start + prefix(piece.len()).count();
        match std::mem::replace(&mut self.has_begun, true) {
            true => drop(out.drain(own)),
            false => drop(out.splice(own, prefix(self.size))),
        }
        Some(())
    }
}

/// A length, encoded 7 bits at a time.
fn prefix(length: usize) -> impl Iterator<Item = u8> {
    let pieces = std::iter::successors(Some(length), |left| {
        Some(left >> 7).filter(|left| *left > 0)
    });
    pieces.map(|left| (left & 0x7F) as u8 | if left > 0x7F { 0x80 } else { 0 })
}

/// Decodes in steps. The library only decodes content as a whole.
pub(super) struct Decoder {
    size: usize,
    has_begun: bool,
    /// The bytes left of the current literal.
    literal: usize,
}

impl Decoder {
    pub(super) fn new(content: &[u8], size: usize) -> Result<Self, Fault> {
        if decompress_len(content).map_err(|_| Fault::Unreadable)? != size {
            return Err(Fault::Size);
        }
        // Memory is reserved in advance, so the size must not exceed the maximum output of the
        // content.
        if size / MAX_RATIO > content.len() {
            return Err(Fault::Unreadable);
        }
        Ok(Self {
            size,
            has_begun: false,
            literal: 0,
        })
    }

    pub(super) fn step(
        &mut self,
        rest: &[u8],
        room: usize,
        out: &mut Vec<u8>,
    ) -> Result<Progress, Fault> {
        let read = match self.size {
            0..=STEP => self.read_whole(rest, out),
            _ => self.read_some(rest, room, out),
        };
        let read = read.ok_or(Fault::Unreadable)?;
        Ok(Progress {
            read,
            is_end: read == rest.len(),
        })
    }

    fn read_whole(&self, content: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let start = out.len();
        out.resize(start + self.size, 0);
        let written = raw::Decoder::new().decompress(content, &mut out[start..]);
        (written.ok()? == self.size).then_some(content.len())
    }

    /// Decodes until `room` bytes were appended, or slightly more, up to the end of an element.
    fn read_some(&mut self, content: &[u8], room: usize, out: &mut Vec<u8>) -> Option<usize> {
        let mut rest = content;
        if !self.has_begun {
            rest = rest.get(rest.iter().position(|byte| byte & 0x80 == 0)? + 1..)?;
            self.has_begun = true;
        }
        let end = out.len() + room;
        while out.len() < end && !rest.is_empty() {
            if self.literal > 0 {
                let now = self.literal.min(end - out.len());
                let (literal, after) = rest.split_at_checked(now)?;
                out.extend_from_slice(literal);
                self.literal -= now;
                rest = after;
                continue;
            }
            let (tag, after) = rest.split_first()?;
            let upper = usize::from(tag >> 2);
            rest = match tag & 3 {
                0 => {
                    let (length, after) = number(after, upper.saturating_sub(59))?;
                    self.literal = if upper < 60 { upper } else { length } + 1;
                    after
                }
                1 => {
                    let (low, after) = number(after, 1)?;
                    copy(out, (upper >> 3) << 8 | low, (upper & 7) + 4)?;
                    after
                }
                kind => {
                    let (offset, after) = number(after, if kind == 2 { 2 } else { 4 })?;
                    copy(out, offset, upper + 1)?;
                    after
                }
            };
        }
        // An announced literal must be complete.
        (self.literal == 0 || !rest.is_empty()).then_some(content.len() - rest.len())
    }
}

/// The next 0 to 4 bytes as a number, and what follows them.
fn number(bytes: &[u8], count: usize) -> Option<(usize, &[u8])> {
    let (number, after) = bytes.split_at_checked(count)?;
    let number = number.iter().rev();
    Some((
        number.fold(0, |all, byte| all << 8 | usize::from(*byte)),
        after,
    ))
}

/// Appends a copy of the output from `offset` bytes ago. A longer copy overlaps with itself.
fn copy(out: &mut Vec<u8>, offset: usize, length: usize) -> Option<()> {
    let from = out.len().checked_sub(offset)?;
    if offset == 0 || from < HEADER_LEN {
        return None;
    }
    let end = out.len() + length;
    while out.len() < end {
        let now = (out.len() - from).min(end - out.len());
        out.extend_from_within(from..from + now);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content, decoded in steps of `room` bytes.
    fn in_steps(content: &[u8], room: usize) -> Option<Vec<u8>> {
        let size = decompress_len(content).ok()?;
        let mut decoder = Decoder::new(content, size).ok()?;
        let mut out = vec![0; HEADER_LEN];
        let mut rest = content;
        loop {
            rest = &rest[decoder.read_some(rest, room, &mut out)?..];
            let written = out.len() - HEADER_LEN;
            if rest.is_empty() || written > size {
                return (written == size).then(|| out.split_off(HEADER_LEN));
            }
        }
    }

    fn at_once(content: &[u8]) -> Option<Vec<u8>> {
        let size = decompress_len(content).ok()?;
        let content = (size / MAX_RATIO <= content.len()).then_some(content)?;
        raw::Decoder::new().decompress_vec(content).ok()
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.0 >> 33) as usize % end
        }

        /// A text with short and long repetitions, near and far.
        fn text(&mut self, length: usize) -> Vec<u8> {
            let mut text = vec![0];
            while text.len() < length {
                let from = self.below(text.len());
                let count = 1 + self.below(200);
                match self.below(3) {
                    0 => text.extend((0..count).map(|_| self.below(256) as u8)),
                    1 => text.extend(std::iter::repeat_n(self.below(256) as u8, count)),
                    _ => (from..from + count).for_each(|at| text.push(text[at])),
                }
            }
            text
        }
    }

    #[test]
    fn stepwise_reads_equal_those_of_the_library() {
        let mut random = Random(1);
        for length in [0, 1, 59, 60, 61, 300, 5_000, 70_000, 200_000] {
            let text = random.text(length);
            let content = raw::Encoder::new().compress_vec(&text).expect("room");
            for room in [1, 7, 1000, STEP] {
                assert_eq!(in_steps(&content, room).as_ref(), Some(&text), "{length}");
            }
        }
    }

    #[test]
    fn the_librarys_refusals_are_kept() {
        let mut random = Random(2);
        let (mut read, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let length = 1 + random.below(400);
            let text = random.text(length);
            let mut content = raw::Encoder::new().compress_vec(&text).expect("room");
            for _ in 0..random.below(3) {
                let at = random.below(content.len());
                content[at] = random.below(256) as u8;
            }
            if random.below(8) == 0 {
                content.truncate(1 + random.below(content.len()));
            }
            let room = 1 + random.below(100);
            let expected = at_once(&content);
            assert_eq!(in_steps(&content, room), expected, "{content:?}");
            *(if expected.is_some() {
                &mut read
            } else {
                &mut refused
            }) += 1;
        }
        assert!(read > 5_000 && refused > 5_000, "{read} {refused}");
    }

    #[test]
    fn elements_that_encoders_seldom_make_are_read() {
        // 70 bytes, their length in more bytes than it needs; an offset of 4 bytes, 2 bytes, 11 bits.
        let mut content = vec![0xC6, 0x80, 0x00, 63 << 2, 2, 0, 0, 0];
        content.extend(b"abc");
        content.extend([63 << 2 | 3, 3, 0, 0, 0, 1, 2]);
        content.extend([2, 3, 0]);
        for room in [1, 5, STEP] {
            let text = in_steps(&content, room);
            assert_eq!(text, at_once(&content), "{room}");
        }
        assert!(in_steps(&content, 1).is_none(), "70 were said");
        content[0] = 0xC8;
        let text = in_steps(&content, 1).expect("72 bytes");
        assert_eq!(text, at_once(&content).expect("readable"));
        assert_eq!(&text[..7], b"abcabca");
    }

    #[test]
    fn pieces_are_compressed_as_all_at_once() {
        let text = Random(3).text(3 * STEP + 1);
        for length in [0, 5, STEP, STEP + 1, 2 * STEP, text.len()] {
            let text = &text[..length];
            let mut encoder = Encoder::new(0, length).expect("room");
            let mut out = b"before".to_vec();
            let mut left = text;
            loop {
                let (piece, after) = left.split_at(left.len().min(STEP));
                left = after;
                encoder
                    .step(piece, left.is_empty(), &mut out)
                    .expect("room");
                if left.is_empty() {
                    break;
                }
            }
            let expected = raw::Encoder::new().compress_vec(text).expect("room");
            assert!(out[6..] == expected, "{length}");
        }
    }
}
