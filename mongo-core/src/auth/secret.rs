//! A string that is wiped from memory on drop and never shown.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::settings::{FromValue, SettingError, Value};

/// A secret string: a password, a token, a key's passphrase.
///
/// The string is overwritten when the last clone is dropped. `Debug` prints `Secret(..)`. There is
/// no `Display` and no `Serialize`, so that a secret can't reach a log or a file by accident.
/// Cloning is cheap and does not copy the string. Comparison takes the same time wherever the
/// strings differ.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Wraps a string. A `String` is moved. A `&str` is copied, and the caller has to wipe the
    /// original.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    /// Returns the string. Don't log it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the string is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Refuses a number, because it may have lost leading zeros.
impl FromValue for Secret {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        match value {
            Value::Text(text) => Ok(Self::new(text)),
            _ => Err(SettingError::expected("a secret in quotes: a text", &value)),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        bool::from(self.expose().as_bytes().ct_eq(other.expose().as_bytes()))
    }
}

impl Eq for Secret {}

impl Hash for Secret {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expose().hash(state);
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// Accepts only a string. The error for another type does not show the value: a password of digits
/// that a file format reads as a number is still a secret.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::settings::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_from_a_string_and_other_values_are_not_quoted() {
        let read = serde_json::from_str::<Secret>;
        assert_eq!(read("\"12345678\"").expect("a string").expose(), "12345678");
        for wrong in [
            "12345678",
            "-12345678",
            "12345678.5",
            "[12345678]",
            "{\"a\":12345678}",
        ] {
            let error = read(wrong).expect_err("no string");
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("must be a secret in quotes"), "{shown}");
            assert!(!shown.contains("12345678"), "{shown}");
        }
    }

    #[test]
    fn a_secret_compares_by_its_text_and_is_not_shown() {
        let secret = Secret::from("hunter2");
        assert_eq!(secret, Secret::new("hunter2".to_owned()));
        assert_ne!(secret, Secret::from("hunter3"));
        assert_ne!(secret, Secret::from("hunter22"));
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert!(Secret::from("").is_empty() && !secret.is_empty());
    }
}
