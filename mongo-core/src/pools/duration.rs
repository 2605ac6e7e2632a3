//! Durations in configuration: `"5s"`, `"1m 30s"`, `"100ms"`, or `{ secs = 5, nanos = 0 }`.

use std::fmt;
use std::time::Duration;

use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

#[derive(Clone, Copy)]
struct Wrapped(Duration);

impl<'de> Deserialize<'de> for Wrapped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor).map(Self)
    }
}

struct DurationVisitor;

impl<'de> Visitor<'de> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"5s\" or \"100ms\", or a table of `secs` and `nanos`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        humantime::parse_duration(text)
            .map_err(|error| E::custom(format!("duration {text:?}: {error}")))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Duration, A::Error> {
        let (mut secs, mut nanos) = (None::<u64>, None::<u32>);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "secs" => secs = Some(map.next_value()?),
                "nanos" => nanos = Some(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    return Err(de::Error::unknown_field(&key, &["secs", "nanos"]));
                }
            }
        }
        if secs.is_none() && nanos.is_none() {
            return Err(de::Error::missing_field("secs"));
        }
        // `Duration::new` panics where the sum overflows.
        Duration::from_secs(secs.unwrap_or(0))
            .checked_add(Duration::from_nanos(nanos.unwrap_or(0).into()))
            .ok_or_else(|| de::Error::custom("duration out of range"))
    }
}

/// For a [`Duration`] field: `#[serde(with = "mongo_core::pools::duration::plain")]`.
pub mod plain {
    use super::{Deserialize, Deserializer, Duration, Wrapped};
    use serde::Serializer;

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
    /// What is neither.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Wrapped::deserialize(deserializer).map(|wrapped| wrapped.0)
    }
}

/// For an `Option<Duration>` field: `#[serde(default, with = "mongo_core::pools::duration::option")]`.
pub mod option {
    use super::{Deserialize, Deserializer, Duration, Wrapped};
    use serde::Serializer;

    /// Writes the form of `"5s"`, or nothing.
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
    /// What is neither.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<Wrapped>::deserialize(deserializer).map(|wrapped| wrapped.map(|wrapped| wrapped.0))
    }
}
