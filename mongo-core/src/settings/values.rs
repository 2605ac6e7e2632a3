//! Implementations of `FromValue` for common types.

use std::fmt;

use super::value::{FromValue, SettingError, Value};

impl FromValue for Value {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        Ok(value)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        match value {
            Value::Null => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl FromValue for bool {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        let flag = match &value {
            Value::Flag(flag) => Some(*flag),
            Value::Number(0) => Some(false),
            Value::Number(1) => Some(true),
            Value::Text(text) => match &*text.to_ascii_lowercase() {
                "true" | "yes" | "on" | "1" => Some(true),
                "false" | "no" | "off" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        flag.ok_or_else(|| SettingError::expected("true or false", &value))
    }
}

/// A number in the range of a type, from a number or from a text of digits.
fn whole<T: TryFrom<i64>>(value: &Value, largest: impl fmt::Display) -> Result<T, SettingError> {
    let number = match value {
        Value::Number(number) => Some(*number),
        Value::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    number
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| {
            SettingError::expected(format_args!("a whole number from 0 to {largest}"), value)
        })
}

impl FromValue for u32 {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        whole(&value, Self::MAX)
    }
}

impl FromValue for u64 {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        whole(&value, i64::MAX)
    }
}

impl FromValue for usize {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        whole(&value, i64::MAX)
    }
}

/// Accepts a whole number too, as its digits.
impl FromValue for String {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        match value {
            Value::Text(text) => Ok(text),
            Value::Number(number) => Ok(number.to_string()),
            _ => Err(SettingError::expected("a text", &value)),
        }
    }
}

impl FromValue for Vec<String> {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        match value {
            Value::List(items) => items.into_iter().map(Value::read).collect(),
            _ => Err(SettingError::expected("a list of texts", &value)),
        }
    }
}
