//! The types of option values, and their parsing from text and from serde values.

use std::time::Duration;

use super::draft::Draft;
use super::error::{UriError, UriWarning};
use crate::settings::Value;

/// Why a value was refused.
pub(super) enum Refused {
    /// It is not the expected value in the text. A warning in a connection string, else an error.
    Value(&'static str),
    /// An error in any source.
    Hard(UriError),
}

impl<E: Into<UriError>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Hard(error.into())
    }
}

pub(super) type Outcome = Result<(), Refused>;

/// The type of an option's value, its range, and the function that sets it.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Flag(fn(&mut Draft, bool)),
    /// A number from a minimum to `i32::MAX`.
    Count(i64, fn(&mut Draft, u32)),
    /// A TCP port.
    Port(fn(&mut Draft, u16)),
    /// A small number between two values.
    Level(i8, i8, fn(&mut Draft, i8)),
    /// A number of milliseconds between two values.
    Millis(i64, i64, fn(&mut Draft, Duration)),
    /// A number of seconds from a minimum to `i32::MAX`, or -1 for none.
    Seconds(i64, fn(&mut Draft, Option<Duration>)),
    Text(fn(&mut Draft, &str) -> Outcome),
    /// Comma-separated items: the function that clears earlier ones, and the one that adds an item.
    List(fn(&mut Draft), fn(&mut Draft, &str) -> Outcome),
    /// Names and values: `name:value,name:value`.
    Pairs(fn(&mut Draft, Vec<Pair<'_>>) -> Outcome),
}

/// `name:value`, or a part that lacks the colon.
pub(super) type Pair<'a> = Result<(&'a str, &'a str), MissingColon>;

/// A part of a list of pairs that has no colon.
#[derive(Clone, Copy)]
pub(super) struct MissingColon;

const NUMBER: Refused = Refused::Value("a number in the allowed range");
const MILLIS: Refused = Refused::Value("a number of milliseconds in the allowed range");
const SECONDS: Refused = Refused::Value("-1 or at least 90 seconds");

impl Kind {
    /// Applies a value of a connection string.
    pub(super) fn apply_text(self, draft: &mut Draft, name: &'static str, text: &str) -> Outcome {
        match self {
            Self::Flag(set) => {
                let value = read_flag(draft, name, text)?;
                set(draft, value);
                Ok(())
            }
            Self::Count(..)
            | Self::Port(_)
            | Self::Level(..)
            | Self::Millis(..)
            | Self::Seconds(..) => match read_number(text) {
                Some(number) => self.apply_number(draft, number),
                None => Err(self.number_refused()),
            },
            Self::Text(set) => set(draft, text),
            Self::List(clear, set) => {
                clear(draft);
                let mut outcome = Ok(());
                for item in text.split(',') {
                    // An invalid item does not affect the others.
                    if let Err(refused) = set(draft, item) {
                        outcome = Err(refused);
                    }
                }
                outcome
            }
            Self::Pairs(set) => set(draft, split_pairs(text)),
        }
    }

    /// Applies a serde value. Text is read as in a connection string, because environment variables
    /// have only text.
    pub(super) fn apply_value(
        self,
        draft: &mut Draft,
        name: &'static str,
        value: &Value,
    ) -> Outcome {
        match (self, value) {
            (Self::Millis(..) | Self::Seconds(..), Value::Text(text)) => {
                match read_duration(text) {
                    Some(duration) => self.apply_duration(draft, duration),
                    None => self.apply_text(draft, name, text),
                }
            }
            (Self::Millis(..) | Self::Seconds(..), Value::Table(fields)) => {
                let duration = duration_from_fields(fields).ok_or(self.another_type())?;
                self.apply_duration(draft, duration)
            }
            (_, Value::Text(text)) => self.apply_text(draft, name, text),
            (Self::Flag(set), Value::Flag(value)) => {
                set(draft, *value);
                Ok(())
            }
            (Self::Text(set), Value::Number(number)) => set(draft, &number.to_string()),
            (_, Value::Number(number)) => self.apply_number(draft, *number),
            (Self::List(clear, set), Value::List(items)) => {
                clear(draft);
                items.iter().try_for_each(|item| match item {
                    Value::Text(text) => set(draft, text),
                    _ => Err(self.another_type()),
                })
            }
            (Self::Pairs(_), Value::List(items)) => items.iter().try_for_each(|item| match item {
                Value::List(_) => Err(self.another_type()),
                _ => self.apply_value(draft, name, item),
            }),
            (Self::Pairs(set), Value::Table(fields)) => {
                let pairs = fields.iter().map(|(name, value)| match value {
                    Value::Text(text) => Ok(Ok((name.as_str(), text.as_str()))),
                    _ => Err(self.another_type()),
                });
                set(draft, pairs.collect::<Result<_, _>>()?)
            }
            (_, _) => Err(self.another_type()),
        }
    }

    fn apply_number(self, draft: &mut Draft, number: i64) -> Outcome {
        let refused = self.number_refused();
        let in_range = |min, max| (min..=max).contains(&number);
        match self {
            Self::Count(min, set) if in_range(min, i64::from(i32::MAX)) => {
                set(draft, u32::try_from(number).map_err(|_| refused)?);
            }
            Self::Port(set) if number != 0 => {
                set(draft, u16::try_from(number).map_err(|_| refused)?);
            }
            Self::Level(min, max, set) if in_range(min.into(), max.into()) => {
                set(draft, i8::try_from(number).map_err(|_| refused)?);
            }
            Self::Millis(min, max, set) if in_range(min, max) => {
                let number = u64::try_from(number).map_err(|_| refused)?;
                set(draft, Duration::from_millis(number));
            }
            Self::Seconds(_, set) if number == -1 => set(draft, None),
            Self::Seconds(min, set) if in_range(min, i64::from(i32::MAX)) => {
                let number = u64::try_from(number).map_err(|_| refused)?;
                set(draft, Some(Duration::from_secs(number)));
            }
            _ => return Err(refused),
        }
        Ok(())
    }

    fn apply_duration(self, draft: &mut Draft, duration: Duration) -> Outcome {
        let count = |number: u128| i64::try_from(number).unwrap_or(i64::MAX);
        match self {
            Self::Millis(min, max, set) if (min..=max).contains(&count(duration.as_millis())) => {
                set(draft, duration);
                Ok(())
            }
            Self::Seconds(min, set) if count(duration.as_secs().into()) >= min => {
                set(draft, Some(duration));
                Ok(())
            }
            _ => Err(self.number_refused()),
        }
    }

    fn number_refused(self) -> Refused {
        match self {
            Self::Port(_) => Refused::Value("a port from 1 to 65535"),
            Self::Millis(..) => MILLIS,
            Self::Seconds(..) => SECONDS,
            Self::Count(..) | Self::Level(..) => NUMBER,
            Self::Flag(_) | Self::Text(_) | Self::List(..) | Self::Pairs(_) => self.another_type(),
        }
    }

    fn another_type(self) -> Refused {
        Refused::Value(match self {
            Self::Flag(_) => "true or false",
            Self::Count(..) | Self::Port(_) | Self::Level(..) => "a whole number",
            Self::Millis(..) | Self::Seconds(..) => "a duration",
            Self::Text(_) => "a text",
            Self::List(..) => "a list of texts",
            Self::Pairs(_) => "a table of texts",
        })
    }
}

/// The duration, or `None` for zero, which is no limit.
pub(super) fn nonzero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn read_flag(draft: &mut Draft, option: &'static str, text: &str) -> Result<bool, Refused> {
    let value = match text {
        "true" => return Ok(true),
        "false" => return Ok(false),
        "1" | "yes" | "y" | "t" => true,
        "0" | "-1" | "no" | "n" | "f" => false,
        _ => return Err(Refused::Value("true or false")),
    };
    draft.warn(UriWarning::LegacyBoolean { option, value });
    Ok(value)
}

/// Parses a number of decimal digits with an optional minus, without a plus or spaces.
fn read_number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// Splits `name:value,name:value`. The empty text has no parts.
fn split_pairs(text: &str) -> Vec<Pair<'_>> {
    match text {
        "" => Vec::new(),
        _ => text
            .split(',')
            .map(|part| part.split_once(':').ok_or(MissingColon))
            .collect(),
    }
}

/// Parses a duration with its unit: `250ms`, `5s`, `2m`, `1h`.
fn read_duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number = u64::try_from(read_number(digits)?).ok()?;
    match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

/// Reads a duration in serde's format for the standard library's type: `secs` and `nanos`.
fn duration_from_fields(fields: &[(String, Value)]) -> Option<Duration> {
    let (mut secs, mut nanos) = (None, 0);
    for (name, value) in fields {
        let number = match value {
            Value::Number(number) => u64::try_from(*number).ok()?,
            Value::Text(text) => u64::try_from(read_number(text)?).ok()?,
            _ => return None,
        };
        match name.as_str() {
            "secs" => secs = Some(number),
            "nanos" => {
                nanos = u32::try_from(number)
                    .ok()
                    .filter(|nanos| *nanos < 1_000_000_000)?
            }
            _ => return None,
        }
    }
    secs.map(|secs| Duration::new(secs, nanos))
}
