//! Text of messages: printable and bounded; and the format of durations.

use std::fmt::{self, Write};
use std::time::Duration;

/// The longest message of a server that an error keeps, in bytes.
pub(crate) const MAX_MESSAGE: usize = 1024;
/// The longest code's name, or label, that an error keeps, in bytes.
pub(crate) const MAX_NAME: usize = 128;
/// How many labels of a server are read and kept.
pub(crate) const MAX_LABELS: usize = 16;

/// Whether a character needs no escape in a line of text: it is no control character (C0, DEL, C1),
/// no line or paragraph separator, and no bidirectional control.
pub(crate) fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{061c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

/// A writer that escapes unprintable characters, as in `\n` and `\u{1b}`.
pub(crate) struct Printable<W>(pub(crate) W);

impl<W: Write> Write for Printable<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(|character| !is_printable(character)) {
            let (before, after) = rest.split_at(at);
            self.0.write_str(before)?;
            let mut characters = after.chars();
            for character in characters.by_ref().take(1) {
                write!(self.0, "{}", character.escape_default())?;
            }
            rest = characters.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Formats with unprintable characters escaped.
pub(crate) fn write_printable(
    f: &mut fmt::Formatter<'_>,
    arguments: fmt::Arguments<'_>,
) -> fmt::Result {
    Printable(f).write_fmt(arguments)
}

/// At most `max_bytes` bytes of the beginning of an external text, with unprintable characters
/// escaped.
pub(crate) fn printable(text: &str, max_bytes: usize) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        let before = shown.len();
        match is_printable(character) {
            true => shown.push(character),
            false => shown.extend(character.escape_default()),
        }
        if shown.len() > max_bytes {
            shown.truncate(before);
            break;
        }
    }
    shown
}

/// Formats a duration: `2.0 s`, `50 ms`, `1.5 ms`.
pub(crate) struct Rounded(pub(crate) Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(duration) = self;
        match duration.as_millis() {
            0..10 => write!(f, "{:.1} ms", duration.as_secs_f64() * 1e3),
            millis @ 10..1000 => write!(f, "{millis} ms"),
            _ => write!(f, "{:.1} s", duration.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C0, DEL, C1, both separators, and all bidirectional controls.
    const UNPRINTABLE: &str = "\0\t\n\r\u{1b}\u{7f}\u{80}\u{85}\u{9b}\u{9f}\u{61c}\u{200e}\u{200f}\
        \u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";

    #[test]
    fn unprintable_characters_are_escaped() {
        let mut written = String::new();
        let text = format!("a{UNPRINTABLE}\u{e4}\u{1f600}\u{200d}");
        write!(Printable(&mut written), "{text}").expect("written");
        assert!(written.chars().all(is_printable), "{written:?}");
        assert!(
            written.starts_with("a\\u{0}\\t\\n\\r\\u{1b}\\u{7f}\\u{80}"),
            "{written}"
        );
        assert!(
            written.ends_with("\\u{2069}\u{e4}\u{1f600}\u{200d}"),
            "{written}"
        );
        assert_eq!(printable(&text, 1000), written);
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(printable("a\u{e4}\nb", 10), "a\u{e4}\\nb");
        assert_eq!(printable("a\u{e4}", 2), "a");
        assert_eq!(printable("ab\n", 3), "ab");
        assert_eq!(printable("", 2), "");
        assert_eq!(printable(&"\u{1b}".repeat(5000), 1024).len(), 1020);
    }

    #[test]
    fn durations_are_rounded() {
        let words = |nanos| Rounded(Duration::from_nanos(nanos)).to_string();
        assert_eq!(words(2_000_890_627), "2.0 s");
        assert_eq!(words(1_000_000_000), "1.0 s");
        assert_eq!(words(999_999_999), "999 ms");
        assert_eq!(words(50_123_456), "50 ms");
        assert_eq!(words(1_534_000), "1.5 ms");
        assert_eq!(words(600_000_000_000), "600.0 s");
    }
}
