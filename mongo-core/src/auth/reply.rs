//! The fields that all replies have in common: `ok`, and an error's code and message.

use bson::RawDocument;
use bson::raw::RawBsonRef;

use crate::text::{MAX_LABELS, MAX_MESSAGE, MAX_NAME, printable};

/// The maximum number of fields that are read in a reply, or in a document in it.
const MAX_FIELDS: usize = 16 * 1024;

/// A reply with `ok: 0`, within bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerError {
    pub(crate) code: i32,
    pub(crate) code_name: String,
    pub(crate) message: String,
    pub(crate) labels: Vec<String>,
}

impl ServerError {
    /// Takes a field of a reply, if it belongs to an error. A field of the wrong type is ignored,
    /// so that the error itself is not lost.
    pub(crate) fn take(&mut self, key: &str, value: RawBsonRef<'_>) {
        match (key, value) {
            ("code", value) => {
                self.code = integer(value)
                    .and_then(|code| i32::try_from(code).ok())
                    .unwrap_or_default();
            }
            ("codeName", RawBsonRef::String(name)) => {
                self.code_name = printable(name, MAX_NAME);
            }
            ("errmsg", RawBsonRef::String(text)) => {
                self.message = printable(text, MAX_MESSAGE);
            }
            ("errorLabels", RawBsonRef::Array(labels)) => {
                self.labels = labels
                    .into_iter()
                    .map_while(Result::ok)
                    .take(MAX_LABELS)
                    .filter_map(RawBsonRef::as_str)
                    .map(|label| printable(label, MAX_NAME))
                    .collect();
            }
            _ => {}
        }
    }

    /// Whether [`take`](Self::take) uses a field.
    pub(crate) fn wants(key: &str) -> bool {
        matches!(key, "code" | "codeName" | "errmsg" | "errorLabels")
    }
}

/// Whether `ok` says that a command succeeded; `None` if the value can't be an `ok`.
pub(crate) fn is_ok(value: RawBsonRef<'_>) -> Option<bool> {
    match value {
        RawBsonRef::Boolean(ok) => Some(ok),
        other => integer(other).map(|ok| ok == 1),
    }
}

/// A whole number of any numeric type.
pub(crate) fn integer(value: RawBsonRef<'_>) -> Option<i64> {
    /// Up to here an `f64` can represent every whole number exactly.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        RawBsonRef::Int32(number) => Some(number.into()),
        RawBsonRef::Int64(number) => Some(number),
        RawBsonRef::Double(number) if number.fract() == 0.0 && number.abs() <= EXACT => {
            Some(number as i64)
        }
        _ => None,
    }
}

/// The fields of a reply that `wanted` selects. The values of all others are skipped. `None` ends
/// the pass: the reply is malformed, or has more than 16,384 fields.
pub(crate) fn fields<'a>(
    reply: &'a RawDocument,
    wanted: impl Fn(&str) -> bool,
) -> impl Iterator<Item = Option<(&'a str, RawBsonRef<'a>)>> {
    let elements = reply.iter_elements().take(MAX_FIELDS + 1).enumerate();
    elements.filter_map(move |(place, element)| {
        let Ok(element) = element else {
            return Some(None);
        };
        if place == MAX_FIELDS {
            return Some(None);
        }
        let key = element.key().as_str();
        // A text that is no UTF-8 is a value of a wrong type, not the end of the pass.
        wanted(key).then(|| Some((key, element.value().unwrap_or(RawBsonRef::Undefined))))
    })
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn numbers_of_every_type_are_read() {
        assert_eq!(integer(RawBsonRef::Int32(-1)), Some(-1));
        assert_eq!(integer(RawBsonRef::Int64(i64::MAX)), Some(i64::MAX));
        assert_eq!(integer(RawBsonRef::Double(25.0)), Some(25));
        for bad in [1.5, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(integer(RawBsonRef::Double(bad)), None, "{bad}");
        }
        assert_eq!(integer(RawBsonRef::Boolean(true)), None);
        assert_eq!(is_ok(RawBsonRef::Boolean(true)), Some(true));
        assert_eq!(is_ok(RawBsonRef::Double(0.0)), Some(false));
        assert_eq!(is_ok(RawBsonRef::Int32(2)), Some(false));
        assert_eq!(is_ok(RawBsonRef::Null), None);
    }

    #[test]
    fn an_error_is_bounded() {
        let long = "x".repeat(5000);
        let reply = rawdoc! {
            "ok": 0, "code": 18.0, "codeName": &*long, "errmsg": &*long,
            "errorLabels": ["a", 1, "b"],
        };
        let mut error = ServerError::default();
        for field in fields(&reply, ServerError::wants) {
            let (key, value) = field.expect("well-formed");
            error.take(key, value);
        }
        assert_eq!((error.code, error.message.len()), (18, 1024));
        assert_eq!(error.code_name.len(), 128);
        assert_eq!(error.labels, ["a", "b"]);
        let many = bson::RawArrayBuf::from_iter(["label"; MAX_LABELS + 1]);
        error.take("errorLabels", RawBsonRef::Array(&many));
        assert_eq!(error.labels.len(), MAX_LABELS);
    }
}
