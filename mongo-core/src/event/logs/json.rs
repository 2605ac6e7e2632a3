use std::fmt::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use bson::raw::RawBsonRef;
use bson::{RawDocument, RawDocumentBuf};

use crate::text::is_printable;

/// The default maximum length of a logged document, in characters, by the logging specification.
const DEFAULT_LENGTH: usize = 1000;

/// The specification's environment variable for the maximum length.
const VARIABLE: &str = "MONGODB_LOG_MAX_DOCUMENT_LENGTH";

/// Process-wide, like the logs.
static MAX_LENGTH: AtomicUsize = AtomicUsize::new(UNREAD);

/// The environment variable has not been read yet.
const UNREAD: usize = usize::MAX;

/// Sets the maximum length of a command or a reply in `tracing` events, in characters of its
/// extended JSON. A longer one is truncated and ends with `...`. Applies to the whole process, from
/// now on.
///
/// Default: the value of the environment variable `MONGODB_LOG_MAX_DOCUMENT_LENGTH` when the first
/// document is logged, if it is a whole number, else 1000.
///
/// Specification: logging, "Truncation of large documents".
pub fn set_max_logged_length(characters: usize) {
    MAX_LENGTH.store(characters.min(UNREAD - 1), Ordering::Relaxed);
}

fn max_length() -> usize {
    match MAX_LENGTH.load(Ordering::Relaxed) {
        UNREAD => {
            let length = length_in(std::env::var(VARIABLE).ok().as_deref());
            // A length that was set concurrently is kept.
            let set =
                MAX_LENGTH.compare_exchange(UNREAD, length, Ordering::Relaxed, Ordering::Relaxed);
            set.err().unwrap_or(length)
        }
        length => length,
    }
}

/// The length in the environment variable; an invalid one is ignored. There is no warning, because
/// this runs while an event is written.
fn length_in(variable: Option<&str>) -> usize {
    let length = variable.and_then(|text| text.trim().parse::<usize>().ok());
    length.map_or(DEFAULT_LENGTH, |length| length.min(UNREAD - 1))
}

/// A document as relaxed extended JSON, truncated to the maximum length.
///
/// It does not use a library, so that the truncated part is not even read: a document of
/// megabytes costs no more than its beginning, and nesting is followed no deeper than it is shown.
///
/// Specifications: extended JSON; logging.
pub(crate) struct Json<'a>(pub(crate) &'a RawDocument);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        JsonUpTo(self.0, max_length()).fmt(f)
    }
}

/// A document as relaxed extended JSON, truncated to a length of its own.
pub(super) struct JsonUpTo<'a>(pub(super) &'a RawDocument, pub(super) usize);

impl fmt::Display for JsonUpTo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut writer = Bounded {
            out: f,
            left: self.1,
            is_cut: false,
        };
        match write_document(&mut writer, self.0) {
            Err(fmt::Error) if writer.is_cut => f.write_str("..."),
            written => written,
        }
    }
}

/// Writes `left` characters, and fails at the next one.
struct Bounded<'a, 'f> {
    out: &'a mut fmt::Formatter<'f>,
    left: usize,
    is_cut: bool,
}

impl Write for Bounded<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.char_indices().skip(self.left);
        if let Some((end, _)) = rest.next() {
            self.is_cut = true;
            self.out.write_str(text.get(..end).unwrap_or_default())?;
            return Err(fmt::Error);
        }
        self.left -= text.chars().count();
        self.out.write_str(text)
    }
}

type Out<'a, 'b, 'f> = &'a mut Bounded<'b, 'f>;

fn write_document(out: Out<'_, '_, '_>, document: &RawDocument) -> fmt::Result {
    out.write_char('{')?;
    for (place, element) in document.iter().enumerate() {
        let Ok((key, value)) = element else {
            return out.write_str("malformed}");
        };
        separate(out, place)?;
        write_string(out, key.as_str())?;
        out.write_char(':')?;
        write_value(out, value)?;
    }
    out.write_char('}')
}

fn write_value(out: Out<'_, '_, '_>, value: RawBsonRef<'_>) -> fmt::Result {
    match value {
        RawBsonRef::Double(number) => write_double(out, number),
        RawBsonRef::Int32(number) => write!(out, "{number}"),
        RawBsonRef::Int64(number) => write!(out, "{number}"),
        RawBsonRef::Boolean(flag) => write!(out, "{flag}"),
        RawBsonRef::Null => out.write_str("null"),
        RawBsonRef::String(text) => write_string(out, text),
        RawBsonRef::Document(document) => write_document(out, document),
        RawBsonRef::Array(array) => {
            out.write_char('[')?;
            for (place, value) in array.into_iter().enumerate() {
                let Ok(value) = value else {
                    return out.write_str("malformed]");
                };
                separate(out, place)?;
                write_value(out, value)?;
            }
            out.write_char(']')
        }
        RawBsonRef::ObjectId(id) => write!(out, r#"{{"$oid":"{id}"}}"#),
        RawBsonRef::DateTime(date) => write_date(out, date),
        RawBsonRef::Binary(binary) => {
            let base64 = Base64Display::new(binary.bytes, &STANDARD);
            let subtype = u8::from(binary.subtype);
            write!(
                out,
                r#"{{"$binary":{{"base64":"{base64}","subType":"{subtype:02x}"}}}}"#
            )
        }
        RawBsonRef::Timestamp(timestamp) => write!(
            out,
            r#"{{"$timestamp":{{"t":{},"i":{}}}}}"#,
            timestamp.time, timestamp.increment
        ),
        RawBsonRef::Decimal128(number) => write!(out, r#"{{"$numberDecimal":"{number}"}}"#),
        RawBsonRef::RegularExpression(regex) => {
            out.write_str(r#"{"$regularExpression":{"pattern":"#)?;
            write_string(out, regex.pattern.as_str())?;
            out.write_str(r#","options":"#)?;
            write_string(out, regex.options.as_str())?;
            out.write_str("}}")
        }
        RawBsonRef::JavaScriptCode(code) => write_wrapped(out, "$code", code),
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            out.write_str(r#"{"$code":"#)?;
            write_string(out, code.code)?;
            out.write_str(r#","$scope":"#)?;
            write_document(out, code.scope)?;
            out.write_char('}')
        }
        RawBsonRef::Symbol(symbol) => write_wrapped(out, "$symbol", symbol),
        RawBsonRef::Undefined => out.write_str(r#"{"$undefined":true}"#),
        RawBsonRef::MinKey => out.write_str(r#"{"$minKey":1}"#),
        RawBsonRef::MaxKey => out.write_str(r#"{"$maxKey":1}"#),
        pointer @ RawBsonRef::DbPointer(_) => write_db_pointer(out, pointer),
    }
}

fn separate(out: Out<'_, '_, '_>, place: usize) -> fmt::Result {
    match place {
        0 => Ok(()),
        _ => out.write_char(','),
    }
}

fn write_wrapped(out: Out<'_, '_, '_>, key: &str, text: &str) -> fmt::Result {
    write!(out, r#"{{"{key}":"#)?;
    write_string(out, text)?;
    out.write_char('}')
}

fn write_string(out: Out<'_, '_, '_>, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            // All unprintable characters are below U+10000.
            other if !is_printable(other) => write!(out, "\\u{:04x}", u32::from(other))?,
            other => out.write_char(other)?,
        }
    }
    out.write_char('"')
}

fn write_double(out: Out<'_, '_, '_>, number: f64) -> fmt::Result {
    if number.is_finite() {
        // Always has a fraction or an exponent, unlike `Display`.
        return write!(out, "{number:?}");
    }
    let name = match (number.is_nan(), number > 0.0) {
        (true, _) => "NaN",
        (false, true) => "Infinity",
        (false, false) => "-Infinity",
    };
    write!(out, r#"{{"$numberDouble":"{name}"}}"#)
}

fn write_date(out: Out<'_, '_, '_>, date: bson::DateTime) -> fmt::Result {
    // The years 1970 to 9999; other dates are numbers.
    const READABLE: std::ops::Range<i64> = 0..253_402_300_800_000;
    let milliseconds = date.timestamp_millis();
    match date.try_to_rfc3339_string() {
        Ok(text) if READABLE.contains(&milliseconds) => write!(out, r#"{{"$date":"{text}"}}"#),
        _ => write!(out, r#"{{"$date":{{"$numberLong":"{milliseconds}"}}}}"#),
    }
}

/// The type is deprecated; its fields are accessible only through its bytes.
fn write_db_pointer(out: Out<'_, '_, '_>, pointer: RawBsonRef<'_>) -> fmt::Result {
    // Of a document: its length, a type and an empty name; of the value: the namespace's length.
    const NAMESPACE: usize = 4 + 2 + 4;
    let mut document = RawDocumentBuf::new();
    document.append(bson::cstr!(""), pointer);
    let value = document.as_bytes().get(NAMESPACE..).unwrap_or_default();
    // The namespace is followed by its terminator, the id, and the document's terminator.
    let Some((namespace, [_, id @ .., _])) = value.split_last_chunk::<14>() else {
        return out.write_str("malformed");
    };
    out.write_str(r#"{"$dbPointer":{"$ref":"#)?;
    write_string(out, &String::from_utf8_lossy(namespace))?;
    out.write_str(r#","$id":{"$oid":""#)?;
    for byte in id {
        write!(out, "{byte:02x}")?;
    }
    out.write_str(r#""}}}"#)
}

#[cfg(test)]
mod tests {
    use bson::oid::ObjectId;
    use bson::spec::BinarySubtype;
    use bson::{Bson, Document, doc};

    use super::*;

    fn shown(document: &Document) -> String {
        let raw = RawDocumentBuf::try_from(document).expect("a document");
        Json(&raw).to_string()
    }

    fn is_as_bson_has_it(document: Document) {
        let own = shown(&document);
        let theirs = Bson::Document(document).into_relaxed_extjson();
        let own: serde_json::Value = serde_json::from_str(&own).expect(&own);
        assert_eq!(own, theirs);
    }

    #[test]
    fn the_environment_says_how_much_is_shown() {
        assert_eq!(length_in(None), DEFAULT_LENGTH);
        for (text, length) in [("0", 0), ("5", 5), (" 20000 ", 20_000)] {
            assert_eq!(length_in(Some(text)), length, "{text}");
        }
        for odd in ["", "-1", "1.5", "many"] {
            assert_eq!(length_in(Some(odd)), DEFAULT_LENGTH, "{odd}");
        }
    }

    #[test]
    fn every_type_is_written_as_bson_writes_it() {
        let id = ObjectId::from_bytes([7; 12]);
        is_as_bson_has_it(doc! {
            "double": 1.0, "large": 1e300, "small": -2.5e-7,
            "string": "a\"b\\c\n\r\t\u{1}\u{1f}é\u{1F600}/",
            "unprintable": "\u{7f}\u{85}\u{9b}\u{200e}\u{2028}\u{2029}\u{202e}\u{2066}",
            "document": { "a": { "b": {} } }, "array": [1, [2, "c"], []],
            "bool": true, "null": null, "int": -7, "long": i64::MIN,
            "oid": id,
            "binary": bson::Binary { subtype: BinarySubtype::Uuid, bytes: (0..=16).collect() },
            "user": bson::Binary { subtype: BinarySubtype::UserDefined(0x81), bytes: vec![] },
            "date": bson::DateTime::from_millis(1_700_000_000_123),
            "whole": bson::DateTime::from_millis(1_700_000_000_000),
            "timestamp": bson::Timestamp { time: 4_000_000_000, increment: 2 },
            "regex": bson::Regex { pattern: bson::cstr!("^\\d\"").into(), options: bson::cstr!("im").into() },
            "code": Bson::JavaScriptCode("x = \"1\"".into()),
            "scoped": bson::JavaScriptCodeWithScope { code: "y".into(), scope: doc! { "y": 1 } },
            "symbol": Bson::Symbol("s".into()), "undefined": Bson::Undefined,
            "min": Bson::MinKey, "max": Bson::MaxKey,
            "decimal": "1.20E+3".parse::<bson::Decimal128>().expect("a number"),
        });
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e16] {
            is_as_bson_has_it(doc! { "number": number });
        }
        for date in [i64::MIN, -1, 0, 253_402_300_799_999] {
            is_as_bson_has_it(doc! { "date": bson::DateTime::from_millis(date) });
        }
        // Unlike bson, which takes it for the end of the previous year.
        let late = doc! { "date": bson::DateTime::from_millis(253_402_300_800_000) };
        assert_eq!(
            shown(&late),
            r#"{"date":{"$date":{"$numberLong":"253402300800000"}}}"#
        );
    }

    #[test]
    fn unprintable_characters_are_escaped() {
        let shown = shown(&doc! { "k\u{202e}": "\u{1b}[2J\u{7f}\u{9b}\u{2028}\u{2066}" });
        assert_eq!(shown, r#"{"k\u202e":"\u001b[2J\u007f\u009b\u2028\u2066"}"#);
    }

    /// The corpus's example: there is no other way to make a value of this type.
    #[test]
    fn a_db_pointer_is_written() {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(b"\x0ca\0\x02\0\0\0b\0");
        bytes.extend_from_slice(&[0x56; 12]);
        bytes.push(0);
        bytes[0] = u8::try_from(bytes.len()).expect("small");
        let document = RawDocument::from_bytes(&bytes).expect("a document");
        let expected = format!(
            r#"{{"a":{{"$dbPointer":{{"$ref":"b","$id":{{"$oid":"{}"}}}}}}}}"#,
            "56".repeat(12)
        );
        assert_eq!(Json(document).to_string(), expected);
    }

    #[test]
    fn a_long_document_is_cut_at_a_character() {
        // Between `{"a":"` and `"}`.
        let fits = shown(&doc! { "a": "é".repeat(DEFAULT_LENGTH - 8) });
        assert_eq!(fits.chars().count(), DEFAULT_LENGTH);
        assert!(fits.ends_with("\"}"));
        let cut = shown(&doc! { "a": "é".repeat(DEFAULT_LENGTH - 7) });
        assert_eq!(cut.chars().count(), DEFAULT_LENGTH + 3);
        assert!(cut.ends_with("é\"..."), "{cut}");
        let cut = shown(&doc! { "a": "é".repeat(5000) });
        assert!(cut.ends_with("éé..."), "{cut}");
    }

    #[test]
    fn no_nesting_is_followed_deeper_than_is_shown() {
        const DEPTH: usize = 200_000;
        // From the inside out: each level is `{ "": ... }`, all of the right length.
        let mut bytes = vec![0; DEPTH * 7 + 5];
        for level in 0..=DEPTH {
            let start = level * 6;
            let length = bytes.len() - start - level;
            bytes[start..start + 4]
                .copy_from_slice(&i32::try_from(length).expect("small").to_le_bytes());
            if level < DEPTH {
                bytes[start + 4] = 3;
            }
        }
        let document = RawDocument::from_bytes(&bytes).expect("a document");
        let shown = Json(document).to_string();
        assert_eq!(shown.len(), DEFAULT_LENGTH + 3);
        assert!(shown.starts_with(r#"{"":{"":{"#), "{shown}");
    }

    #[test]
    fn malformed_documents_are_shown_as_such() {
        // An element of an unknown type.
        let bytes = b"\x08\0\0\0\x55a\0\0";
        let document = RawDocument::from_bytes(bytes).expect("lazily");
        assert_eq!(Json(document).to_string(), "{malformed}");
    }
}
