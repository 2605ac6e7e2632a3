//! Durations in configuration: `"5s"`, `"1m 30s"`, `"100ms"`, or `{ secs = 5, nanos = 0 }`.

use std::time::Duration;

use crate::settings::{FromValue, SettingError, Settings, Value};

#[derive(Default)]
struct Parts {
    secs: Option<u64>,
    nanos: Option<u32>,
}

impl Settings for Parts {
    const KEYS: &'static [&'static str] = &["secs", "nanos"];

    fn set(&mut self, key: &'static str, value: Value) -> Result<(), SettingError> {
        match key {
            "secs" => self.secs = Some(value.read()?),
            _ => self.nanos = Some(value.read()?),
        }
        Ok(())
    }
}

impl FromValue for Duration {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        let wrong = SettingError::expected(
            "a duration such as \"5s\" or \"100ms\", or a table of `secs` and `nanos`",
            &value,
        );
        let parts: Parts = match value {
            Value::Text(text) => return humantime::parse_duration(&text).map_err(|_| wrong),
            value @ Value::Table(_) => value.read_table()?,
            _ => return Err(wrong),
        };
        if parts.secs.is_none() && parts.nanos.is_none() {
            return Err(wrong);
        }
        // `Duration::new` panics where the sum overflows.
        Self::from_secs(parts.secs.unwrap_or(0))
            .checked_add(Self::from_nanos(parts.nanos.unwrap_or(0).into()))
            .ok_or_else(|| SettingError::unusable("the duration is out of range"))
    }
}

/// Serde functions for a [`Duration`] field:
/// `#[serde(with = "mongo_core::pools::duration::plain")]`.
pub mod plain {
    use super::Duration;
    use serde::{Deserializer, Serializer};

    /// Writes the form of `"5s"`.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    /// Reads either form.
    ///
    /// # Errors
    /// The value has neither form.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        crate::settings::deserialize(deserializer)
    }
}

/// Serde functions for an `Option<Duration>` field:
/// `#[serde(default, with = "mongo_core::pools::duration::option")]`.
pub mod option {
    use super::Duration;
    use serde::{Deserializer, Serializer};

    /// Writes the form of `"5s"`, or none.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::plain::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads either form, or nothing.
    ///
    /// # Errors
    /// The value has neither form.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        crate::settings::deserialize(deserializer)
    }
}
