//! Values of a configuration, as serde gives them, and how types are read from them.
//!
//! Every type of a configuration is read through these, and not by derived code: serde's own messages
//! quote the value that is wrong, which may be a connection string or a password in the wrong place.
//! An error here names the key, the type that is wanted and the type that was found, never a value; of
//! keys that are not known only those are shown that look like a name.
//!
//! The names of choices are compared without regard to case, `_` and `-`. A text is read as a
//! number, a truth value or a choice where one is wanted, since an environment variable has nothing
//! else.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::auth::Secret;

/// A value as serde gives it. `Debug` shows its type.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// A truth value.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// A table.
    Table(Vec<(String, Value)>),
    /// What no setting is, by the name of its type.
    Other(&'static str),
}

/// Why a configuration can't be read. Names keys and types, never a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// The keys that lead to the value, between dots.
    key: String,
    /// What is wrong, from the blank or the colon after the key on.
    problem: String,
}

/// A type that is read from a [`Value`].
pub trait FromValue: Sized {
    /// Reads a value.
    ///
    /// # Errors
    /// The value is not of the type.
    fn from_value(value: Value) -> Result<Self, SettingError>;
}

/// A type that is read from a table whose fields may all be left out.
pub trait Settings: Default {
    /// The keys.
    const KEYS: &'static [&'static str];

    /// Sets the field of one of the [`KEYS`](Self::KEYS).
    ///
    /// # Errors
    /// The value can't be the field's.
    fn set(&mut self, key: &'static str, value: Value) -> Result<(), SettingError>;
}

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
/// or places to errors can do so for each field.
///
/// # Errors
/// It is no table, a key is not known or given twice, or as [`Settings::set`].
pub fn deserialize_table<'de, T: Settings, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(TableVisitor(PhantomData))
}

impl SettingError {
    /// The value is of another type.
    pub fn expected(expected: impl fmt::Display, found: &Value) -> Self {
        Self {
            key: String::new(),
            problem: format!(" must be {expected}; it is {}", found.type_name()),
        }
    }

    /// The value can't be used, for a reason whose text shows no value.
    pub fn unusable(reason: impl fmt::Display) -> Self {
        Self {
            key: String::new(),
            problem: format!(": {reason}"),
        }
    }

    /// Names the key, in front of those that are named.
    #[must_use]
    pub fn within(mut self, key: &str) -> Self {
        self.key = match &*self.key {
            "" => key.to_owned(),
            inner => format!("{key}.{inner}"),
        };
        self
    }

    /// The value is none of the choices.
    pub(crate) fn unknown_choice(choices: impl fmt::Display, found: &Value) -> Self {
        match found {
            Value::Text(text) if !text.is_empty() => Self {
                key: String::new(),
                problem: format!(" must be {choices}; it is an unknown text"),
            },
            _ => Self::expected(choices, found),
        }
    }

    fn unknown(key: &str, known: &[&str]) -> Self {
        let known = known.join(", ");
        Self::unusable(match shown_key(key) {
            Some(key) => format!("unknown key `{key}`; the known keys are {known}"),
            None => format!("an unknown key; the known keys are {known}"),
        })
    }

    fn repeated(key: &str) -> Self {
        Self::unusable("it is given more than once").within(key)
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.key {
            "" => f.write_str(
                self.problem
                    .strip_prefix(": ")
                    .unwrap_or(self.problem.trim_start()),
            ),
            key => write!(f, "`{key}`{}", self.problem),
        }
    }
}

impl std::error::Error for SettingError {}

/// A key that is not known, if it looks like the name of one: a connection string or a password may
/// stand in its place.
pub(crate) fn shown_key(key: &str) -> Option<&str> {
    let fits = |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'-');
    (key.len() <= 40 && key.bytes().all(fits)).then_some(key)
}

/// A name without regard to case, underscores and hyphens.
pub(crate) fn normalised(name: &str) -> String {
    name.chars()
        .filter(|character| !matches!(character, '_' | '-'))
        .map(|character| character.to_ascii_lowercase())
        .collect()
}

/// Whether two names are one, without regard to case, underscores and hyphens.
pub(crate) fn is_named(text: &str, name: &str) -> bool {
    normalised(text) == normalised(name)
}

impl Value {
    /// Reads the value as a type.
    ///
    /// # Errors
    /// It is not of that type.
    pub fn read<T: FromValue>(self) -> Result<T, SettingError> {
        T::from_value(self)
    }

    /// Reads a table as a type whose fields may be left out.
    ///
    /// # Errors
    /// As [`deserialize_table`].
    pub fn read_table<T: Settings>(self) -> Result<T, SettingError> {
        let mut fields = Fields::<T>::default();
        for (key, value) in self.into_table()? {
            let key = fields.enter(&key)?;
            fields.set(key, value)?;
        }
        Ok(fields.settings)
    }

    /// The choice that a text names.
    ///
    /// # Errors
    /// It is another text, or none; the error lists the choices.
    pub fn choose<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, SettingError> {
        let named = match self {
            Self::Text(text) => choices.iter().find(|(name, _)| is_named(text, name)),
            _ => None,
        };
        named.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            SettingError::unknown_choice(format_args!("one of {}", names.join(", ")), self)
        })
    }

    pub(crate) fn into_table(self) -> Result<Vec<(String, Self)>, SettingError> {
        match self {
            Self::Table(fields) => Ok(fields),
            // Often the connection string itself, in place of the table with its key.
            Self::Text(_) => Err(SettingError::expected(
                "a table (a connection string belongs in its `url`)",
                &self,
            )),
            _ => Err(SettingError::expected("a table", &self)),
        }
    }

    /// The name of its type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Flag(_) => "a truth value",
            Self::Number(_) => "a whole number",
            Self::Text(text) if text.is_empty() => "an empty text",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(name) => name,
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name())
    }
}

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

/// A number of a type's range, from a number or from a text of digits.
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

/// A whole number is taken for its digits.
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

/// A number is none: it may have lost zeros at its beginning.
impl FromValue for Secret {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        match value {
            Value::Text(text) => Ok(Self::new(text)),
            _ => Err(SettingError::expected("a secret in quotes: a text", &value)),
        }
    }
}

/// A table while it is read.
struct Fields<T> {
    settings: T,
    seen: Vec<&'static str>,
}

impl<T: Settings> Default for Fields<T> {
    fn default() -> Self {
        Self {
            settings: T::default(),
            seen: Vec::new(),
        }
    }
}

impl<T: Settings> Fields<T> {
    /// The known key that a table's key is.
    fn enter(&mut self, key: &str) -> Result<&'static str, SettingError> {
        let known = T::KEYS.iter().find(|known| **known == key);
        let known = *known.ok_or_else(|| SettingError::unknown(key, T::KEYS))?;
        if self.seen.contains(&known) {
            return Err(SettingError::repeated(known));
        }
        self.seen.push(known);
        Ok(known)
    }

    /// What is null is left out.
    fn set(&mut self, key: &'static str, value: Value) -> Result<(), SettingError> {
        match value {
            Value::Null => Ok(()),
            value => self
                .settings
                .set(key, value)
                .map_err(|error| error.within(key)),
        }
    }
}

struct TableVisitor<T>(PhantomData<T>);

/// Fails in the middle of its field, where a deserializer knows the key or the place.
struct Field<'a, T>(&'a mut Fields<T>, &'static str);

impl<'de, T: Settings> DeserializeSeed<'de> for Field<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let value = deserializer.deserialize_any(ValueVisitor)?;
        self.0.set(self.1, value).map_err(de::Error::custom)
    }
}

/// Whatever is no table is refused without being quoted.
macro_rules! refuse {
    ($($visit:ident($type:ty) = $value:expr;)*) => {$(
        fn $visit<E: de::Error>(self, _: $type) -> Result<T, E> {
            Err(E::custom(SettingError::expected("a table", &$value)))
        }
    )*};
}

impl<'de, T: Settings> Visitor<'de> for TableVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    refuse! {
        visit_bool(bool) = Value::Flag(false);
        visit_i64(i64) = Value::Number(0);
        visit_i128(i128) = Value::Number(0);
        visit_u64(u64) = Value::Number(0);
        visit_u128(u128) = Value::Number(0);
        visit_f64(f64) = FRACTION;
        visit_bytes(&[u8]) = BYTES;
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<T, E> {
        let error = Value::Text("text".to_owned()).into_table().err();
        Err(E::custom(
            error.map_or_else(String::new, |error| error.to_string()),
        ))
    }

    fn visit_unit<E: de::Error>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_none<E: de::Error>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<T, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<T, A::Error> {
        let list = Value::List(Vec::new());
        Err(de::Error::custom(SettingError::expected("a table", &list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut fields = Fields::<T>::default();
        while let Some(Key(key)) = map.next_key()? {
            let key = fields.enter(&key).map_err(de::Error::custom)?;
            map.next_value_seed(Field(&mut fields, key))?;
        }
        Ok(fields.settings)
    }
}

const FRACTION: Value = Value::Other("a number with a fraction");
const BYTES: Value = Value::Other("bytes");
const TOO_LARGE: Value = Value::Other("a number that is too large");

/// A key of any type. One that is no text is none of ours.
struct Key(String);

impl<'de> de::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(ValueVisitor)? {
            Value::Text(key) => Ok(Self(key)),
            _ => Ok(Self(".".to_owned())),
        }
    }
}

impl<'de> de::Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// Takes whatever there is: what is not wanted is refused by its key, where that is known.
struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Flag(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(TOO_LARGE, Value::Number))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(TOO_LARGE, Value::Number))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(TOO_LARGE, Value::Number))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(FRACTION)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Value, E> {
        Ok(BYTES)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((Key(key), value)) = map.next_entry()? {
            fields.push((key, value));
        }
        Ok(Value::Table(fields))
    }

    /// A variant with a value is a table of one key.
    fn visit_enum<A: de::EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        use de::VariantAccess;
        let (Key(key), variant) = data.variant()?;
        Ok(Value::Table(vec![(key, variant.newtype_variant()?)]))
    }
}

/// Reads a type from a table: its keys are the names of its fields.
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
