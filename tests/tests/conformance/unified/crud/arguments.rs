//! The arguments of an operation.

use std::cell::RefCell;

use bson::{Bson, Document};

/// The arguments of an operation. An argument that the translation does not use is an error.
pub(in crate::unified) struct Arguments<'a> {
    all: &'a Document,
    used: RefCell<Vec<&'a str>>,
}

impl<'a> Arguments<'a> {
    pub(in crate::unified) fn new(all: &'a Document) -> Self {
        Self {
            all,
            used: RefCell::default(),
        }
    }

    pub(in crate::unified) fn get(&self, key: &str) -> Option<&'a Bson> {
        let (key, value) = self.all.iter().find(|(own, _)| *own == key)?;
        self.used.borrow_mut().push(key);
        Some(value)
    }

    pub(in crate::unified) fn need(&self, key: &str) -> Result<&'a Bson, String> {
        self.get(key).ok_or_else(|| format!("{key} is missing"))
    }

    pub(in crate::unified) fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        let text = |value: &'a Bson| value.as_str().ok_or_else(|| format!("{key} is no text"));
        self.get(key).map(text).transpose()
    }

    pub(in crate::unified) fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        let flag = |value: &Bson| {
            value
                .as_bool()
                .ok_or_else(|| format!("{key} is no boolean"))
        };
        self.get(key).map(flag).transpose()
    }

    pub(in crate::unified) fn number(&self, key: &str) -> Result<Option<i64>, String> {
        let number = |value: &Bson| match value {
            Bson::Int32(number) => Ok(i64::from(*number)),
            Bson::Int64(number) => Ok(*number),
            _ => Err(format!("{key} is no number")),
        };
        self.get(key).map(number).transpose()
    }

    pub(in crate::unified) fn document(&self, key: &str) -> Result<Option<&'a Document>, String> {
        let document = |value: &'a Bson| {
            let document = value.as_document();
            document.ok_or_else(|| format!("{key} is no document"))
        };
        self.get(key).map(document).transpose()
    }

    pub(in crate::unified) fn list(&self, key: &str) -> Result<&'a Vec<Bson>, String> {
        let list = self.need(key)?.as_array();
        list.ok_or_else(|| format!("{key} is no array"))
    }

    /// Copies the arguments that are there into a command, under the same names.
    pub(in crate::unified) fn copy(&self, keys: &[&str], command: &mut Document) {
        for key in keys {
            if let Some(value) = self.get(key) {
                command.insert(*key, value.clone());
            }
        }
    }

    /// Fails if an argument was not used.
    pub(in crate::unified) fn finish(&self, operation: &str) -> Result<(), String> {
        let used = self.used.borrow();
        match self.all.keys().find(|key| !used.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(format!("{operation}: the runner does not know {key}")),
        }
    }
}
