//! Tables with optional fields.

use super::value::{SettingError, Settings, Value};

/// A table while it is read.
pub(super) struct Fields<T> {
    pub(super) settings: T,
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
    /// Finds a table's key among the known ones.
    pub(super) fn enter(&mut self, key: &str) -> Result<&'static str, SettingError> {
        let known = T::KEYS.iter().find(|known| **known == key);
        let known = *known.ok_or_else(|| SettingError::unknown(key, T::KEYS))?;
        if self.seen.contains(&known) {
            return Err(SettingError::repeated(known));
        }
        self.seen.push(known);
        Ok(known)
    }

    /// Sets a field. Null is ignored.
    pub(super) fn set(&mut self, key: &'static str, value: Value) -> Result<(), SettingError> {
        match value {
            Value::Null => Ok(()),
            value => self
                .settings
                .set(key, value)
                .map_err(|error| error.within(key)),
        }
    }
}

impl Value {
    /// Reads a table as a type with optional fields.
    ///
    /// # Errors
    /// As [`deserialize_table`](super::deserialize_table).
    pub fn read_table<T: Settings>(self) -> Result<T, SettingError> {
        let mut fields = Fields::<T>::default();
        for (key, value) in self.into_table(T::KEYS)? {
            let key = fields.enter(&key)?;
            fields.set(key, value)?;
        }
        Ok(fields.settings)
    }
}
