//! Deserialization of configurations with serde.
//!
//! The types of a configuration do not derive `Deserialize`, because serde's own messages quote the
//! invalid value, which may be a misplaced connection string or password. An error of this module
//! names the key, the expected type and the type that was found, never a value. It shows an unknown
//! key only if the key has the form of a name.
//!
//! The names of choices are compared without regard to case, `_` and `-`. Numbers, booleans and
//! choices can also be read from a text, because environment variables have only text.

mod table;
mod value;
mod values;
mod visit;

use std::marker::PhantomData;

use serde::{Deserializer, de};

pub use value::{FromValue, SettingError, Settings, UnknownName, Value};
pub(crate) use value::{is_named, normalised, shown_key};
use visit::{TableVisitor, ValueVisitor};

/// [`Deserialize::deserialize`](de::Deserialize::deserialize) for a type that is read from any value.
///
/// # Errors
/// As [`FromValue::from_value`].
pub fn deserialize<'de, T: FromValue, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = deserializer.deserialize_any(ValueVisitor)?;
    T::from_value(value).map_err(de::Error::custom)
}

/// [`Deserialize::deserialize`](de::Deserialize::deserialize) for a table. A deserializer that adds keys
/// or positions to errors can do so for each field.
///
/// # Errors
/// It is not a table, a key is unknown or repeated, or as [`Settings::set`].
pub fn deserialize_table<'de, T: Settings, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(TableVisitor(PhantomData))
}

/// Implements deserialization from a table whose keys are the names of the fields.
#[doc(hidden)]
#[macro_export]
macro_rules! settings {
    ($type:ty { $($field:ident),* $(,)? }) => {
        impl $crate::settings::Settings for $type {
            const KEYS: &'static [&'static str] = &[$(stringify!($field)),*];

            fn set(
                &mut self,
                key: &'static str,
                value: $crate::settings::Value,
            ) -> Result<(), $crate::settings::SettingError> {
                match key {
                    $(stringify!($field) => self.$field = value.read()?,)*
                    _ => {}
                }
                Ok(())
            }
        }

        impl $crate::settings::FromValue for $type {
            fn from_value(
                value: $crate::settings::Value,
            ) -> Result<Self, $crate::settings::SettingError> {
                value.read_table()
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::settings::deserialize_table(deserializer)
            }
        }
    };
}

pub(crate) use settings;

#[cfg(test)]
mod tests;
