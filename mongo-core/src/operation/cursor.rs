//! Cursors of the server.

use std::ops::Range;

use bson::raw::{RawBsonRef, RawDocumentBuf, cstr};
use bson::{RawArray, RawDocument};

use super::command::CursorOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::wire::WireError;

/// `CursorNotFound`.
const NOT_FOUND: i32 = 43;

/// A cursor: where the server keeps it, and the documents of its last batch that were not taken yet.
#[derive(Debug)]
pub(crate) struct CursorState {
    /// Zero once the server has closed it.
    pub(crate) id: i64,
    /// Database and collection.
    pub(crate) namespace: String,
    pub(crate) options: CursorOptions,
    reply: RawDocumentBuf,
    /// The elements of the batch in the reply that were not taken yet.
    left: Range<usize>,
}

impl CursorState {
    /// The cursor of the reply to a command.
    ///
    /// # Errors
    /// The reply has none.
    pub(crate) fn open(
        reply: RawDocumentBuf,
        command: &str,
        options: CursorOptions,
    ) -> Result<Self> {
        let no_cursor = |_| Error::configuration(format!("the reply to `{command}` has no cursor"));
        let parts = Parts::of(&reply, "firstBatch").map_err(no_cursor)?;
        let namespace = parts.namespace.unwrap_or_default().to_owned();
        let (id, left) = (parts.id, parts.batch);
        if id != 0 && !namespace.contains('.') {
            return Err(no_cursor(()));
        }
        Ok(Self {
            id,
            namespace,
            options,
            reply,
            left,
        })
    }

    /// Takes the reply to `getMore`.
    ///
    /// # Errors
    /// It has no batch.
    pub(crate) fn take_batch(&mut self, reply: RawDocumentBuf) -> Result<()> {
        let parts = Parts::of(&reply, "nextBatch")
            .map_err(|()| Error::configuration("the reply to `getMore` has no cursor"))?;
        (self.id, self.left) = (parts.id, parts.batch);
        self.reply = reply;
        Ok(())
    }

    /// Whether a document of the batch is left.
    pub(crate) fn has_documents(&self) -> bool {
        !self.left.is_empty()
    }

    /// The next document of the batch.
    pub(crate) fn next(&mut self) -> Option<Result<&RawDocument>> {
        let bytes = self.reply.as_bytes().get(self.left.clone())?;
        if bytes.is_empty() {
            return None;
        }
        match first_document(bytes) {
            Some((document, length)) => {
                self.left.start += length;
                Some(Ok(document))
            }
            None => {
                self.left.start = self.left.end;
                Some(Err(
                    ErrorKind::Protocol(WireError::Document(self.left.end)).into()
                ))
            }
        }
    }

    /// The command for the next batch; `max_time` in milliseconds.
    pub(crate) fn get_more(&self, max_time: Option<i64>) -> RawDocumentBuf {
        let (_, collection) = self.names();
        let mut command = RawDocumentBuf::new();
        command.append(cstr!("getMore"), self.id);
        command.append(cstr!("collection"), collection);
        if let Some(size) = self.options.batch_size.filter(|size| *size > 0) {
            command.append(cstr!("batchSize"), i64::from(size));
        }
        if let Some(time) = max_time {
            command.append(cstr!("maxTimeMS"), time);
        }
        if let Some(comment) = self.options.comment.clone() {
            command.append(cstr!("comment"), comment);
        }
        command
    }

    /// The command that closes the cursor.
    pub(crate) fn kill(&self) -> RawDocumentBuf {
        let (_, collection) = self.names();
        let mut ids = bson::raw::RawArrayBuf::new();
        ids.push(self.id);
        let mut command = RawDocumentBuf::new();
        command.append(cstr!("killCursors"), collection);
        command.append(cstr!("cursors"), ids);
        command
    }

    /// Database and collection.
    pub(crate) fn names(&self) -> (&str, &str) {
        self.namespace.split_once('.').unwrap_or_default()
    }

    /// A command on the cursor failed. If the server does not know it, it is closed.
    pub(crate) fn failed(&mut self, error: &Error) {
        if error.code() == Some(NOT_FOUND) {
            self.id = 0;
        }
    }
}

/// The parts of a reply's `cursor`.
struct Parts<'a> {
    id: i64,
    namespace: Option<&'a str>,
    batch: Range<usize>,
}

impl<'a> Parts<'a> {
    fn of(reply: &'a RawDocument, batch: &str) -> Result<Self, ()> {
        let cursor = reply.get_document("cursor").map_err(drop)?;
        let (mut id, mut namespace, mut found) = (None, None, None);
        for element in cursor.iter_elements() {
            let element = element.map_err(drop)?;
            match (element.key().as_str(), element.value()) {
                ("id", Ok(RawBsonRef::Int64(number))) => id = Some(number),
                ("id", Ok(RawBsonRef::Int32(number))) => id = Some(number.into()),
                ("ns", Ok(RawBsonRef::String(name))) => namespace = Some(name),
                (name, Ok(RawBsonRef::Array(documents))) if name == batch => {
                    found = Some(place(reply, documents));
                }
                _ => {}
            }
        }
        Ok(Self {
            id: id.ok_or(())?,
            namespace,
            batch: found.ok_or(())?,
        })
    }
}

/// The elements of an array within a document.
fn place(reply: &RawDocument, array: &RawArray) -> Range<usize> {
    let bytes = array.as_bytes();
    let start = bytes.as_ptr().addr() - reply.as_bytes().as_ptr().addr();
    // After the length, and before the end.
    start + 4..start + bytes.len() - 1
}

/// The document that is the first element, and the length of the element.
fn first_document(elements: &[u8]) -> Option<(&RawDocument, usize)> {
    let (0x03, rest) = elements.split_first()? else {
        return None;
    };
    let key = rest.iter().position(|byte| *byte == 0)?;
    let value = rest.get(key + 1..)?;
    let length = i32::from_le_bytes(*value.first_chunk()?);
    let document = value.get(..usize::try_from(length).ok()?)?;
    let document = RawDocument::from_bytes(document).ok()?;
    Some((document, 2 + key + document.as_bytes().len()))
}

#[cfg(test)]
mod tests {
    use bson::{doc, rawdoc};

    use super::*;

    fn open(reply: RawDocumentBuf) -> Result<CursorState> {
        CursorState::open(reply, "find", CursorOptions::default())
    }

    #[test]
    fn documents_come_in_order_and_batch_by_batch() {
        let first = rawdoc! {
            "cursor": { "firstBatch": [{ "a": 1 }, { "a": 2 }], "id": 7_i64, "ns": "shop.orders.old" },
            "ok": 1,
        };
        let mut cursor = open(first).expect("a cursor");
        assert_eq!(cursor.names(), ("shop", "orders.old"));
        let mut taken = Vec::new();
        while let Some(document) = cursor.next() {
            taken.push(
                document
                    .expect("a document")
                    .get_i32("a")
                    .expect("a number"),
            );
        }
        assert_eq!(taken, [1, 2]);
        cursor.options.batch_size = Some(3);
        let more = doc! {
            "getMore": 7_i64, "collection": "orders.old", "batchSize": 3_i64, "maxTimeMS": 5_i64,
        };
        assert_eq!(
            cursor.get_more(Some(5)),
            RawDocumentBuf::try_from(&more).expect("BSON")
        );
        let next = rawdoc! { "cursor": { "nextBatch": [], "id": 0_i64, "ns": "shop.orders.old" } };
        cursor.take_batch(next).expect("a batch");
        assert!(!cursor.has_documents() && cursor.next().is_none());
        assert_eq!(cursor.id, 0);
    }

    #[test]
    fn a_reply_without_a_cursor_is_an_error() {
        for reply in [
            rawdoc! { "ok": 1 },
            rawdoc! { "cursor": {} },
            rawdoc! { "cursor": { "id": 5_i64, "ns": "a.b" } },
            rawdoc! { "cursor": { "id": 5_i64, "ns": "none", "firstBatch": [] } },
            rawdoc! { "cursor": { "id": "5", "ns": "a.b", "firstBatch": [] } },
        ] {
            let error = open(reply).expect_err("no cursor");
            assert!(error.to_string().contains("`find`"), "{error}");
        }
    }

    #[test]
    fn a_batch_of_other_values_is_an_error_once() {
        let reply =
            rawdoc! { "cursor": { "firstBatch": [1, { "a": 1 }], "id": 0_i64, "ns": "a.b" } };
        let mut cursor = open(reply).expect("a cursor");
        assert!(cursor.next().expect("an element").is_err());
        assert!(cursor.next().is_none());
    }
}
