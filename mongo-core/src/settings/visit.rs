//! The serde visitors for values and tables.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::table::Fields;
use super::value::{Settings, Value};

pub(super) struct TableVisitor<T>(pub(super) PhantomData<T>);

/// Reads one field. It fails within the field, where a deserializer knows the key or the position.
struct Field<'a, T>(&'a mut Fields<T>, &'static str);

impl<'de, T: Settings> DeserializeSeed<'de> for Field<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let value = deserializer.deserialize_any(ValueVisitor)?;
        self.0.set(self.1, value).map_err(de::Error::custom)
    }
}

/// The error for a value that is no table.
fn not_a_table<T: Settings, E: de::Error>(value: Value) -> E {
    E::custom(match value.into_table(T::KEYS) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    })
}

/// Refuses other types without quoting the value.
macro_rules! refuse {
    ($($visit:ident($type:ty) = $value:expr;)*) => {$(
        fn $visit<E: de::Error>(self, _: $type) -> Result<T, E> {
            Err(not_a_table::<T, E>($value))
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

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        let is_empty = text.is_empty();
        let text = if is_empty { "" } else { "text" };
        Err(not_a_table::<T, E>(Value::Text(text.to_owned())))
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
        Err(not_a_table::<T, A::Error>(Value::List(Vec::new())))
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

/// A key of any type. One that is not a text is unknown.
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

/// Accepts any value. Invalid values are refused later, where the key is known.
pub(super) struct ValueVisitor;

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

    /// A variant with a value becomes a table with one key.
    fn visit_enum<A: de::EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        use de::VariantAccess;
        let (Key(key), variant) = data.variant()?;
        Ok(Value::Table(vec![(key, variant.newtype_variant()?)]))
    }
}
