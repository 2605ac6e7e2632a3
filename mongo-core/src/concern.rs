//! Read concern and write concern.
//!
//! Specification: read and write concern. `run_command` adds neither to a command. `command` adds
//! them as the module [`operation`](crate::operation) says.

use std::borrow::Cow;
use std::time::Duration;

use bson::{Bson, Document, doc};

use crate::settings::{FromValue, SettingError, Settings, Value, settings};

/// The isolation of reads. The default is empty: the server decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ReadConcern {
    /// The level (`readConcernLevel`). Any text is allowed; the server validates it.
    pub level: Option<Cow<'static, str>>,
}

impl ReadConcern {
    /// Reads the server's newest data, which may be rolled back.
    pub const LOCAL: Self = Self::named("local");
    /// Reads data that a majority has acknowledged.
    pub const MAJORITY: Self = Self::named("majority");
    /// Reads all data that a majority acknowledged before the read began.
    pub const LINEARIZABLE: Self = Self::named("linearizable");
    /// Like local, but may return orphaned documents of sharded collections.
    pub const AVAILABLE: Self = Self::named("available");
    /// Reads data of one point in time.
    pub const SNAPSHOT: Self = Self::named("snapshot");

    const fn named(level: &'static str) -> Self {
        Self {
            level: Some(Cow::Borrowed(level)),
        }
    }

    /// A level by its name.
    pub fn new(level: impl Into<Cow<'static, str>>) -> Self {
        Self {
            level: Some(level.into()),
        }
    }

    /// Whether no level is set. The server then decides, and `readConcern` is omitted.
    pub fn is_default(&self) -> bool {
        self.level.is_none()
    }

    /// The value of a command's `readConcern`.
    pub fn to_document(&self) -> Document {
        match &self.level {
            Some(level) => doc! { "level": level.as_ref() },
            None => Document::new(),
        }
    }
}

/// The members that must acknowledge a write: the `w` of a [`WriteConcern`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Acknowledgment {
    /// This number of data-bearing members; 0 is an unacknowledged write. At most `i32::MAX`.
    Nodes(u32),
    /// The members that a tag of the replica set's configuration names; `majority` is predefined.
    Tag(Cow<'static, str>),
}

impl Acknowledgment {
    /// A majority of the data-bearing voting members.
    pub const MAJORITY: Self = Self::Tag(Cow::Borrowed("majority"));

    /// Parses a number, or else a tag.
    ///
    /// # Errors
    /// [`WriteConcernError::W`] for a number below 0 or over `i32::MAX`.
    pub(crate) fn from_text(text: &str) -> Result<Self, WriteConcernError> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        match !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text
                .parse()
                .map_err(|_| WriteConcernError::W)
                .and_then(Self::from_number),
            false => Ok(Self::Tag(text.to_owned().into())),
        }
    }

    fn from_number(number: i64) -> Result<Self, WriteConcernError> {
        i32::try_from(number)
            .ok()
            .and_then(|number| u32::try_from(number).ok())
            .map(Self::Nodes)
            .ok_or(WriteConcernError::W)
    }
}

/// A write concern that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteConcernError {
    /// `w` is a number that no replica set can meet.
    #[error("w is neither a number from 0 to 2147483647 nor a tag")]
    W,
    /// `wTimeoutMS` is negative, or too large for 64 bits.
    #[error("wTimeoutMS is negative or too large")]
    WTimeout,
    /// `w: 0` requests no acknowledgment, `journal: true` requests one.
    #[error("w=0 and journal=true contradict each other")]
    UnacknowledgedJournal,
}

/// The acknowledgment of writes. The default is empty: the server decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct WriteConcern {
    /// The members that must acknowledge the write (`w`).
    pub w: Option<Acknowledgment>,
    /// Whether the write must be in the journal on disk (`journal`).
    pub journal: Option<bool>,
    /// How long the server waits for the acknowledgments (`wTimeoutMS`, in milliseconds); zero is
    /// no limit. Deprecated in favour of `timeoutMS`.
    pub w_timeout: Option<Duration>,
}

impl WriteConcern {
    /// Requires the acknowledgment of this number of members.
    pub fn nodes(number: u32) -> Self {
        Self::default().with_w(Acknowledgment::Nodes(number))
    }

    /// Requires the acknowledgment of a majority.
    pub fn majority() -> Self {
        Self::default().with_w(Acknowledgment::MAJORITY)
    }

    /// Sets the members that must acknowledge the write.
    #[must_use]
    pub fn with_w(mut self, w: Acknowledgment) -> Self {
        self.w = Some(w);
        self
    }

    /// Sets whether the write must be in the journal.
    #[must_use]
    pub fn with_journal(mut self, journal: bool) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Sets how long the server waits for the acknowledgments; zero is no limit.
    #[must_use]
    pub fn with_w_timeout(mut self, timeout: Duration) -> Self {
        self.w_timeout = Some(timeout);
        self
    }

    /// Whether nothing is set. The server then decides, and `writeConcern` is omitted.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the server replies: always, except for `w: 0` without `journal: true`.
    pub fn is_acknowledged(&self) -> bool {
        self.w != Some(Acknowledgment::Nodes(0)) || self.journal == Some(true)
    }

    /// Checks that the parts agree and that their values fit the wire format.
    ///
    /// # Errors
    /// The first violated rule.
    pub fn validate(&self) -> Result<(), WriteConcernError> {
        match (&self.w, self.journal) {
            (Some(Acknowledgment::Nodes(0)), Some(true)) => {
                return Err(WriteConcernError::UnacknowledgedJournal);
            }
            (Some(Acknowledgment::Nodes(number)), _) if i32::try_from(*number).is_err() => {
                return Err(WriteConcernError::W);
            }
            _ => {}
        }
        match self.w_timeout {
            Some(timeout) if i64::try_from(timeout.as_millis()).is_err() => {
                Err(WriteConcernError::WTimeout)
            }
            _ => Ok(()),
        }
    }

    /// The value of a command's `writeConcern`. Numbers that are too large for the wire format,
    /// which [`validate`](Self::validate) refuses, are clamped.
    pub fn to_document(&self) -> Document {
        let mut document = Document::new();
        match &self.w {
            Some(Acknowledgment::Nodes(number)) => {
                let number = i32::try_from(*number).unwrap_or(i32::MAX);
                document.insert("w", Bson::Int32(number));
            }
            Some(Acknowledgment::Tag(tag)) => {
                document.insert("w", tag.as_ref());
            }
            None => {}
        }
        if let Some(journal) = self.journal {
            document.insert("j", journal);
        }
        if let Some(timeout) = self.w_timeout {
            let millis = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
            document.insert("wtimeout", Bson::Int64(millis));
        }
        document
    }
}

settings! { ReadConcern { level } }

impl FromValue for Cow<'static, str> {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        value.read().map(Self::Owned)
    }
}

impl Settings for WriteConcern {
    const KEYS: &'static [&'static str] = &[
        "w",
        "journal",
        "j",
        "wtimeoutMS",
        "wTimeoutMS",
        "wtimeout",
        "w_timeout_ms",
    ];

    fn set(&mut self, key: &'static str, value: Value) -> Result<(), SettingError> {
        match key {
            "w" => {
                let w = match &value {
                    Value::Number(number) => Acknowledgment::from_number(*number),
                    Value::Text(text) => Acknowledgment::from_text(text),
                    _ => Err(WriteConcernError::W),
                };
                self.w = Some(w.map_err(SettingError::unusable)?);
            }
            "journal" | "j" => self.journal = value.read()?,
            _ => {
                let millis = value.read().map(Duration::from_millis);
                let millis =
                    millis.map_err(|_| SettingError::unusable(WriteConcernError::WTimeout));
                self.w_timeout = Some(millis?);
            }
        }
        Ok(())
    }
}

impl FromValue for WriteConcern {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        value.read_table()
    }
}

impl<'de> serde::Deserialize<'de> for WriteConcern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::settings::deserialize_table(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_the_fields_that_are_set() {
        assert_eq!(ReadConcern::default().to_document(), doc! {});
        assert_eq!(
            ReadConcern::MAJORITY.to_document(),
            doc! { "level": "majority" }
        );
        let all = WriteConcern::nodes(3)
            .with_journal(true)
            .with_w_timeout(Duration::from_secs(1));
        assert_eq!(
            all.to_document(),
            doc! { "w": 3, "j": true, "wtimeout": 1000_i64 }
        );
        assert!(!all.is_default() && WriteConcern::default().is_default());
    }

    #[test]
    fn acknowledgment_follows_w_and_journal() {
        assert!(WriteConcern::default().is_acknowledged());
        assert!(!WriteConcern::nodes(0).is_acknowledged());
        assert!(!WriteConcern::nodes(0).with_journal(false).is_acknowledged());
        let both = WriteConcern::nodes(0).with_journal(true);
        assert!(both.is_acknowledged());
        assert_eq!(
            both.validate(),
            Err(WriteConcernError::UnacknowledgedJournal)
        );
    }

    #[test]
    fn w_is_a_number_or_a_tag() {
        let w = Acknowledgment::from_text;
        assert_eq!(w("2"), Ok(Acknowledgment::Nodes(2)));
        assert_eq!(w("majority"), Ok(Acknowledgment::MAJORITY));
        assert_eq!(w("dc-1"), Ok(Acknowledgment::Tag("dc-1".into())));
        for bad in ["-1", "2147483648", "99999999999999999999"] {
            assert_eq!(w(bad), Err(WriteConcernError::W), "{bad}");
        }
        let too_many = WriteConcern::nodes(u32::MAX).validate();
        assert_eq!(too_many, Err(WriteConcernError::W));
        let too_long = WriteConcern::default().with_w_timeout(Duration::MAX);
        assert_eq!(too_long.validate(), Err(WriteConcernError::WTimeout));
    }
}
