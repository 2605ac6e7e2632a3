use std::ffi::CStr;

use bson::RawDocument;

use super::WireError;
use super::header::read_i32;

/// The smallest document: a length and a terminator.
pub(super) const MIN_DOCUMENT: usize = 5;

/// The minimum size of one level of nesting: type, empty name, length, terminator.
const BYTES_PER_LEVEL: usize = 7;

/// Bytes of a name or of a regular expression that take as long to look at as an element does.
const BYTES_PER_ELEMENT: usize = 64;

/// The type of a regular expression.
const REGEX: u8 = 0x0B;

/// Whether a document of `length` bytes can be nested deeper: spares small replies the walk.
pub(super) fn may_be_deeper(length: usize, max_depth: usize) -> bool {
    length > max_depth.saturating_mul(BYTES_PER_LEVEL)
}

/// The document at the start of `bytes`, exactly as long as its own length says, not nested deeper
/// than `max_depth`.
pub(super) fn split_document(
    bytes: &[u8],
    max_depth: usize,
) -> Result<(&RawDocument, &[u8]), WireError> {
    let length = read_i32(bytes, 0)?;
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length >= MIN_DOCUMENT)
        .ok_or(WireError::Document(0))?;
    let Some((document, rest)) = bytes.split_at_checked(length) else {
        return Err(WireError::Truncated {
            needed: length,
            got: bytes.len(),
        });
    };
    if may_be_deeper(length, max_depth) {
        check_depth(document, max_depth)?;
    }
    let document = RawDocument::from_bytes(document).map_err(|_| WireError::Document(0))?;
    Ok((document, rest))
}

/// Walks a document's raw bytes with an explicit stack, so that no nesting can overflow the
/// thread's stack.
///
/// # Errors
/// A document nested deeper than `max_depth`, or one whose elements do not fit their containers.
pub fn check_depth(document: &[u8], max_depth: usize) -> Result<(), WireError> {
    let mut unbounded = usize::MAX;
    let mut walk = Walk::new(document.len());
    walk.step(document, max_depth, &mut unbounded, |_, _, _| {})
        .map(drop)
}

/// [`check_depth`] in steps.
pub(super) struct Walk {
    /// The ends of the containers that the walk is in.
    ends: Vec<usize>,
    at: usize,
    /// C strings of a regular expression that come before the next element.
    texts: usize,
    /// Bytes of the C string that comes next in which its end was not.
    looked_at: usize,
}

impl Walk {
    pub(super) fn new(length: usize) -> Self {
        let mut ends = Vec::with_capacity(8);
        ends.push(length);
        Self {
            ends,
            at: 4,
            texts: 0,
            looked_at: 0,
        }
    }

    /// Walks on, over as many elements of the same document as `budget` has, and takes them from it;
    /// says whether that was all. Calls `see` with each element of the top level, as
    /// [`find_elements`] does. Long names and regular expressions take more of the budget, and several
    /// steps if need be.
    pub(super) fn step(
        &mut self,
        document: &[u8],
        max_depth: usize,
        budget: &mut usize,
        mut see: impl FnMut(&[u8], u8, usize),
    ) -> Result<bool, WireError> {
        let (ends, mut at) = (&mut self.ends, self.at);
        while let Some(&end) = ends.last() {
            if *budget == 0 {
                self.at = at;
                return Ok(false);
            }
            *budget -= 1;
            if self.texts > 0 {
                let Some(next) = skip_text(document, at, &mut self.looked_at, budget)? else {
                    self.at = at;
                    return Ok(false);
                };
                at = next;
                self.texts -= 1;
                if at >= end {
                    return Err(WireError::Document(at));
                }
                continue;
            }
            let kind = *document.get(at).ok_or(WireError::Document(at))?;
            if kind == 0 {
                at += 1;
                if at != end {
                    return Err(WireError::Document(at));
                }
                ends.pop();
                continue;
            }
            let key = at + 1;
            let Some(next) = skip_text(document, key, &mut self.looked_at, budget)? else {
                self.at = at;
                return Ok(false);
            };
            at = next;
            if ends.len() == 1
                && let Some(name) = document.get(key..at - 1)
            {
                see(name, kind, at);
            }
            if kind == REGEX {
                self.texts = 2;
                continue;
            }
            match value(document, at, kind)? {
                Value::Flat(next) => at = next,
                Value::Nested { body, next } => {
                    if ends.len() >= max_depth {
                        return Err(WireError::TooDeep(max_depth));
                    }
                    ends.push(next);
                    at = body;
                }
            }
            if at >= end {
                return Err(WireError::Document(at));
            }
            if ends.last().is_some_and(|last| *last > end) {
                return Err(WireError::Document(at));
            }
        }
        Ok(true)
    }
}

/// The last element with this name at a document's top level: its type and the start of its value.
/// Decodes nothing.
///
/// # Errors
/// An element that does not fit the document, or has an unknown type.
pub(crate) fn find_element(document: &[u8], name: &[u8]) -> Result<Option<(u8, usize)>, WireError> {
    let mut found = None;
    find_elements(document, |key, kind, at| {
        if key == name {
            found = Some((kind, at));
        }
    })?;
    Ok(found)
}

/// Calls `see` with each element of a document's top level: its name, its type, and the start of
/// its value. Decodes nothing.
///
/// # Errors
/// An element that does not fit the document, or has an unknown type.
#[inline]
pub(crate) fn find_elements(
    document: &[u8],
    mut see: impl FnMut(&[u8], u8, usize),
) -> Result<(), WireError> {
    let mut at = 4;
    while next_element(document, &mut at, &mut see)? {}
    Ok(())
}

/// [`find_elements`] for the first `max` elements only.
///
/// # Errors
/// See [`find_elements`].
pub(super) fn find_first_elements(
    document: &[u8],
    max: usize,
    mut see: impl FnMut(&[u8], u8, usize),
) -> Result<(), WireError> {
    let mut at = 4;
    for _ in 0..max {
        if !next_element(document, &mut at, &mut see)? {
            break;
        }
    }
    Ok(())
}

/// Advances to the next element. Returns whether there was one.
#[inline]
fn next_element(
    document: &[u8],
    at: &mut usize,
    see: &mut impl FnMut(&[u8], u8, usize),
) -> Result<bool, WireError> {
    let kind = *document.get(*at).ok_or(WireError::Document(*at))?;
    if kind == 0 {
        return match *at + 1 == document.len() {
            true => Ok(false),
            false => Err(WireError::Document(*at)),
        };
    }
    let key = *at + 1;
    let start = skip_cstring(document, key)?;
    if let Some(name) = document.get(key..start - 1) {
        see(name, kind, start);
    }
    *at = match value(document, start, kind)? {
        Value::Flat(next) | Value::Nested { next, .. } => next,
    };
    Ok(true)
}

enum Value {
    /// Ends before `.0`.
    Flat(usize),
    /// Holds elements from `body` on, ends before `next`.
    Nested { body: usize, next: usize },
}

fn value(bytes: &[u8], at: usize, kind: u8) -> Result<Value, WireError> {
    let flat = |size: usize| Ok(Value::Flat(at.saturating_add(size)));
    // The length at `at`, plus `extra` bytes that it does not count.
    let sized = |extra: usize| {
        let length = read_i32(bytes, at).map_err(|_| WireError::Document(at))?;
        usize::try_from(length)
            .map(|length| length.saturating_add(extra))
            .map_err(|_| WireError::Document(at))
    };
    match kind {
        // Double, date-time, timestamp, int64.
        0x01 | 0x09 | 0x11 | 0x12 => flat(8),
        // String, code, symbol: the length counts the text and its NUL.
        0x02 | 0x0D | 0x0E => flat(sized(4)?),
        0x03 | 0x04 => nested(at, 4, sized(0)?),
        // Binary: the length counts neither itself nor the subtype.
        0x05 => flat(sized(5)?),
        // Undefined, null, min key, max key.
        0x06 | 0x0A | 0x7F | 0xFF => flat(0),
        // Object id.
        0x07 => flat(12),
        // Boolean.
        0x08 => flat(1),
        // Two C strings.
        REGEX => Ok(Value::Flat(skip_cstring(bytes, skip_cstring(bytes, at)?)?)),
        // DBPointer: a string and an object id.
        0x0C => flat(sized(4 + 12)?),
        // Code with scope: a length, a string, and a document up to the end of the value.
        0x0F => {
            let total = sized(0)?;
            let text =
                read_i32(bytes, at.saturating_add(4)).map_err(|_| WireError::Document(at))?;
            let text = usize::try_from(text).map_err(|_| WireError::Document(at))?;
            nested(at, text.saturating_add(4 + 4 + 4), total)
        }
        // Int32.
        0x10 => flat(4),
        // Decimal128.
        0x13 => flat(16),
        _ => Err(WireError::Document(at)),
    }
}

/// A container at `at` of `length` bytes whose elements begin `skip` bytes in.
fn nested(at: usize, skip: usize, length: usize) -> Result<Value, WireError> {
    // At least the terminator follows the skipped bytes.
    if length <= skip {
        return Err(WireError::Document(at));
    }
    Ok(Value::Nested {
        body: at.saturating_add(skip),
        next: at.saturating_add(length),
    })
}

/// Bytes of a C string that are looked at one by one: most are short. In a longer one words at a time
/// are.
const SHORT: usize = 32;

fn skip_cstring(bytes: &[u8], at: usize) -> Result<usize, WireError> {
    let rest = bytes.get(at..).ok_or(WireError::Document(at))?;
    let length = match short_text(rest) {
        Some(length) => length,
        None => {
            let name = CStr::from_bytes_until_nul(rest);
            name.map_err(|_| WireError::Document(at))?.count_bytes()
        }
    };
    Ok(at + length + 1)
}

#[inline]
fn short_text(bytes: &[u8]) -> Option<usize> {
    let short = &bytes[..bytes.len().min(SHORT)];
    short.iter().position(|byte| *byte == 0)
}

/// [`skip_cstring`] in steps: `None` where the budget has no more. `looked_at` bytes were looked at in
/// earlier steps.
#[inline]
fn skip_text(
    bytes: &[u8],
    at: usize,
    looked_at: &mut usize,
    budget: &mut usize,
) -> Result<Option<usize>, WireError> {
    let from = at + *looked_at;
    let rest = bytes.get(from..).ok_or(WireError::Document(at))?;
    if let Some(length) = short_text(rest) {
        *looked_at = 0;
        return Ok(Some(from + length + 1));
    }
    let most = budget.saturating_mul(BYTES_PER_ELEMENT).min(rest.len());
    match CStr::from_bytes_until_nul(&rest[..most]) {
        Ok(text) => {
            let length = text.count_bytes();
            *looked_at = 0;
            *budget -= length / BYTES_PER_ELEMENT;
            Ok(Some(from + length + 1))
        }
        Err(_) if most < rest.len() => {
            *looked_at += most;
            *budget = 0;
            Ok(None)
        }
        Err(_) => Err(WireError::Document(at)),
    }
}

#[cfg(test)]
mod tests;
