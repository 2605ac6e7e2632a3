//! Reads the parts of a message, checking their bounds.

use bson::{Document, RawDocument};

use super::{CodecError, MAX_DEPTH};

/// The unread rest of a message.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn take(
        &mut self,
        length: usize,
        what: &'static str,
    ) -> Result<&'a [u8], CodecError> {
        let (head, tail) = self
            .rest
            .split_at_checked(length)
            .ok_or(CodecError::Truncated(what))?;
        self.rest = tail;
        Ok(head)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        let (head, tail) = self
            .rest
            .split_first_chunk()
            .ok_or(CodecError::Truncated(what))?;
        self.rest = tail;
        Ok(u32::from_le_bytes(*head))
    }

    pub(super) fn i32(&mut self, what: &'static str) -> Result<i32, CodecError> {
        self.u32(what).map(u32::cast_signed)
    }

    pub(super) fn c_string(&mut self, what: &'static str) -> Result<&'a str, CodecError> {
        let end = self
            .rest
            .iter()
            .position(|&byte| byte == 0)
            .ok_or(CodecError::String(what))?;
        let bytes = self.take(end + 1, what)?;
        std::str::from_utf8(&bytes[..end]).map_err(|_| CodecError::String(what))
    }

    pub(super) fn document(&mut self) -> Result<Document, CodecError> {
        let prefix = self
            .rest
            .first_chunk::<4>()
            .ok_or(CodecError::Truncated("document"))?;
        let length = usize::try_from(i32::from_le_bytes(*prefix))
            .map_err(|_| CodecError::Document("negative length".to_owned()))?;
        let bytes = self.take(length, "document")?;
        let wrong = |error: bson::error::Error| CodecError::Document(error.to_string());
        let raw = RawDocument::from_bytes(bytes).map_err(wrong)?;
        check_depth(raw)?;
        Document::try_from(raw).map_err(wrong)
    }

    pub(super) fn sequence(&mut self) -> Result<(String, Vec<Document>), CodecError> {
        let length = usize::try_from(self.i32("sequence")?).unwrap_or(0);
        let inner = length
            .checked_sub(4)
            .ok_or(CodecError::Sections("sequence length"))?;
        let mut reader = Reader {
            rest: self.take(inner, "sequence")?,
        };
        let name = reader.c_string("sequence identifier")?.to_owned();
        let mut documents = Vec::new();
        while !reader.rest.is_empty() {
            documents.push(reader.document()?);
        }
        Ok((name, documents))
    }
}

/// Prevents a stack overflow in the recursive conversion below.
fn check_depth(document: &RawDocument) -> Result<(), CodecError> {
    let wrong = |error: bson::error::Error| CodecError::Document(error.to_string());
    let mut levels = vec![document.iter()];
    while let Some(level) = levels.last_mut() {
        let Some(element) = level.next() else {
            levels.pop();
            continue;
        };
        let (_, value) = element.map_err(wrong)?;
        let nested = match value {
            bson::RawBsonRef::Document(inner) => inner,
            bson::RawBsonRef::Array(inner) => {
                RawDocument::from_bytes(inner.as_bytes()).map_err(wrong)?
            }
            _ => continue,
        };
        if levels.len() >= MAX_DEPTH {
            return Err(CodecError::Document(format!(
                "nested deeper than {MAX_DEPTH}"
            )));
        }
        levels.push(nested.iter());
    }
    Ok(())
}
