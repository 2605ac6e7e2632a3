//! Cursors of the server.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bson::RawDocument;
use bson::raw::{RawDocumentBuf, cstr};

use super::request::{CursorOptions, Request};
use super::retry::may_have_been_sent;
use crate::error::{Error, ErrorKind, Result, Wait};
use crate::text::{MAX_NAME as MAX_SHOWN, printable};
use crate::wire::{as_integer, as_text, embedded, find_element, find_elements};

/// The types of BSON.
const DOCUMENT: u8 = 0x03;
const ARRAY: u8 = 0x04;

/// `CursorNotFound`.
const NOT_FOUND: i32 = 43;

/// The longest namespace of a cursor, in bytes: it is kept and sent with each command. Servers allow
/// 255.
const MAX_NAMESPACE: usize = 1024;

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
    /// Whether the server may have sent a batch that did not arrive. The next one would be another.
    pub(crate) is_broken: bool,
    /// The error of a fetch whose call was cancelled, for the next call.
    pub(crate) unseen: Option<Error>,
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
        let no_cursor = |()| no_cursor(command);
        let parts = Parts::of(&reply, "firstBatch").map_err(no_cursor)?;
        let namespace = parts.namespace.unwrap_or_default();
        if namespace.len() > MAX_NAMESPACE {
            return Err(unreadable(&format!(
                "the reply to `{command}` has a cursor whose namespace is longer than \
                 {MAX_NAMESPACE} bytes: {}",
                printable(namespace, MAX_SHOWN)
            )));
        }
        let namespace = namespace.to_owned();
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
            is_broken: false,
            unseen: None,
        })
    }

    /// Takes the reply to `getMore`.
    ///
    /// # Errors
    /// It has no batch.
    pub(crate) fn accept(&mut self, reply: RawDocumentBuf) -> Result<()> {
        let parts = Parts::of(&reply, "nextBatch").map_err(|()| no_cursor("getMore"))?;
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
        let mut batch = Batch {
            elements: self.reply.as_bytes().get(self.left.clone())?,
        };
        let next = batch.next();
        self.left.start = self.left.end - batch.elements.len();
        next
    }

    /// All documents that are left of the batch.
    pub(crate) fn take_batch(&mut self) -> Batch<'_> {
        let left = std::mem::replace(&mut self.left, 0..0);
        Batch {
            elements: self.reply.as_bytes().get(left).unwrap_or_default(),
        }
    }

    /// The request for the next batch; `max_time` in milliseconds.
    pub(crate) fn get_more(&self, max_time: Option<i64>) -> Box<Request> {
        let (database, collection) = self.names();
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
        let mut request = Request::on_cursor(database, command);
        request.cursor.exhaust = self.options.exhaust;
        request
    }

    /// The request that closes the cursor, unless the server has.
    pub(crate) fn kill(&self) -> Option<Box<Request>> {
        if self.id == 0 {
            return None;
        }
        let (database, collection) = self.names();
        let mut ids = bson::raw::RawArrayBuf::new();
        ids.push(self.id);
        let mut command = RawDocumentBuf::new();
        command.append(cstr!("killCursors"), collection);
        command.append(cstr!("cursors"), ids);
        Some(Request::kill_cursor(database, command))
    }

    /// Database and collection.
    pub(crate) fn names(&self) -> (&str, &str) {
        self.namespace.split_once('.').unwrap_or_default()
    }

    /// A `getMore` failed. If the server does not know the cursor, it is closed.
    ///
    /// Specification: retryable reads, "Why is getMore not retried".
    pub(crate) fn failed(&mut self, error: &Error) {
        if error.code() == Some(NOT_FOUND) {
            self.id = 0;
        }
        self.is_broken |= match error.kind() {
            ErrorKind::Network(_) | ErrorKind::Protocol(_) | ErrorKind::Deserialization(_) => true,
            ErrorKind::ConnectionClosed(_) => may_have_been_sent(error),
            ErrorKind::Timeout { wait, .. } => *wait == Wait::Command && error.code().is_none(),
            _ => false,
        };
    }

    /// Whether there is no further batch.
    pub(crate) fn is_over(&self) -> bool {
        self.id == 0 || self.is_broken
    }
}

impl Request {
    /// The cursor of the reply.
    ///
    /// # Errors
    /// The reply has none.
    pub(crate) fn open_cursor(&mut self, reply: RawDocumentBuf) -> Result<CursorState> {
        let mut options = std::mem::take(&mut self.cursor);
        options.comment = options.comment.or(self.comment.take());
        CursorState::open(reply, self.command_name(), options)
    }
}

/// The documents of a batch, borrowed from the cursor.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// The elements of the array that are left.
    elements: &'a [u8],
}

impl<'a> Iterator for Batch<'a> {
    type Item = Result<&'a RawDocument>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.elements.is_empty() {
            return None;
        }
        match first_document(self.elements) {
            Some((document, length)) => {
                self.elements = self.elements.get(length..).unwrap_or_default();
                Some(Ok(document))
            }
            None => {
                self.elements = &[];
                Some(Err(malformed()))
            }
        }
    }
}

/// The error of a cursor that goes on for ever without documents.
pub(crate) fn only_empty(cursor: &CursorState, batches: u32) -> Error {
    unreadable(&format!(
        "{batches} batches of the cursor {} on {} in a row were empty",
        cursor.id,
        printable(&cursor.namespace, MAX_SHOWN)
    ))
}

fn malformed() -> Error {
    unreadable("a batch has an element that is not a document")
}

fn no_cursor(command: &str) -> Error {
    unreadable(&format!("the reply to `{command}` has no cursor"))
}

fn unreadable(text: &str) -> Error {
    ErrorKind::Deserialization(Arc::new(serde::de::Error::custom(text))).into()
}

/// The server's time for the next batch (`maxTimeMS`), in milliseconds: what it waits for documents
/// at most.
///
/// Specification: client side operations timeout, "Tailable awaitData Cursors".
pub(crate) fn get_more_time(
    options: &CursorOptions,
    remaining: Option<Duration>,
    min_round_trip_time: Duration,
) -> Option<i64> {
    let time = options.max_await_time?;
    let left = remaining.map(|remaining| remaining.saturating_sub(min_round_trip_time));
    let time = left.map_or(time, |left| time.min(left));
    Some(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

/// The parts of a reply's `cursor`.
struct Parts<'a> {
    id: i64,
    namespace: Option<&'a str>,
    batch: Range<usize>,
}

impl<'a> Parts<'a> {
    fn of(reply: &'a RawDocument, batch: &str) -> Result<Self, ()> {
        let bytes = reply.as_bytes();
        let Ok(Some((DOCUMENT, start))) = find_element(bytes, b"cursor") else {
            return Err(());
        };
        let cursor = embedded(bytes, start).ok_or(())?.as_bytes();
        let (mut id, mut namespace, mut found) = (None, None, None);
        find_elements(cursor, |name, kind, at| match name {
            b"id" => id = as_integer(cursor, kind, at),
            b"ns" => namespace = as_text(cursor, kind, at),
            _ if name == batch.as_bytes() && kind == ARRAY => {
                let array = embedded(cursor, at).map(|array| array.as_bytes().len());
                // After the length, and before the end.
                found = array.map(|length| start + at + 4..start + at + length - 1);
            }
            _ => {}
        })
        .map_err(drop)?;
        Ok(Self {
            id: id.ok_or(())?,
            namespace,
            batch: found.ok_or(())?,
        })
    }
}

/// The document that is the first element, and the length of the element.
fn first_document(elements: &[u8]) -> Option<(&RawDocument, usize)> {
    let (&DOCUMENT, rest) = elements.split_first()? else {
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
            cursor.get_more(Some(5)).body(),
            &*RawDocumentBuf::try_from(&more).expect("BSON")
        );
        let next = rawdoc! { "cursor": { "nextBatch": [], "id": 0_i64, "ns": "shop.orders.old" } };
        cursor.accept(next).expect("a batch");
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
            rawdoc! { "cursor": { "id": 5.0, "ns": "a.b", "firstBatch": [] } },
            rawdoc! { "cursor": { "id": 5_i64, "ns": 1, "firstBatch": [] } },
            rawdoc! { "cursor": { "id": 5_i64, "ns": "a.b", "firstBatch": {} } },
            rawdoc! { "cursor": [] },
        ] {
            let error = open(reply).expect_err("no cursor");
            assert!(error.to_string().contains("`find`"), "{error}");
        }
    }

    #[test]
    fn a_truncated_cursor_is_an_error() {
        let cursor = rawdoc! { "id": 5_i64, "ns": "a.b", "firstBatch": [{ "a": 1 }] };
        let length = cursor.as_bytes().len();
        for end in 5..length {
            let mut bytes = cursor.as_bytes()[..end].to_vec();
            bytes[..4].copy_from_slice(&(end as i32).to_le_bytes());
            bytes[end - 1] = 0;
            let cursor = RawDocumentBuf::from_bytes(bytes).expect("a length and an end");
            let error = open(rawdoc! { "cursor": cursor }).expect_err("no cursor");
            assert!(error.to_string().contains("`find`"), "{end}: {error}");
        }
    }

    #[test]
    fn an_id_may_be_short() {
        let reply = rawdoc! { "cursor": { "firstBatch": [], "id": -7, "ns": "a.b" } };
        assert_eq!(open(reply).expect("a cursor").id, -7);
    }

    #[test]
    fn a_long_namespace_is_refused() {
        for (length, is_good) in [(MAX_NAMESPACE, true), (MAX_NAMESPACE + 1, false)] {
            let namespace = format!("shop.\n{}", "x".repeat(length - 6));
            let reply = rawdoc! {
                "cursor": { "firstBatch": [], "id": 7_i64, "ns": namespace },
            };
            match open(reply) {
                Ok(cursor) => {
                    assert!(is_good);
                    let error = only_empty(&cursor, 3).to_string();
                    assert!(!error.contains('\n') && error.len() < 400, "{error}");
                }
                Err(error) => {
                    let error = error.to_string();
                    assert!(!is_good && error.contains("`find`"), "{error}");
                    assert!(!error.contains('\n') && error.len() < 400, "{error}");
                }
            }
        }
    }

    #[test]
    fn the_server_waits_no_longer_than_the_limit_allows() {
        let millis = Duration::from_millis;
        for (own, remaining, expected) in [
            (None, None, None),
            (None, Some(50), None),
            (Some(100), None, Some(100)),
            (Some(100), Some(50), Some(40)),
            (Some(20), Some(50), Some(20)),
            (Some(100), Some(5), Some(0)),
        ] {
            let options = CursorOptions {
                max_await_time: own.map(millis),
                ..CursorOptions::default()
            };
            let time = get_more_time(&options, remaining.map(millis), millis(10));
            assert_eq!(time, expected);
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
