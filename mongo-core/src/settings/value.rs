//! Values that settings are read from, and the errors of reading them.

use std::fmt;

/// Names that other pools and drivers have for settings of an adapter's `Config`, and the settings.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("acquire_timeout", "`pool.timeouts.wait`"),
    ("connection_string", "`url`"),
    ("connection_timeout", "`pool.timeouts.wait`"),
    (
        "connect_timeout",
        "`connectTimeoutMS` in `url` or `options`",
    ),
    ("idle_timeout", "`manager.max_idle_time`"),
    ("max_connections", "`pool.max_size`"),
    ("max_idle_time", "`manager.max_idle_time`"),
    ("max_lifetime", "`manager.max_lifetime`"),
    (
        "max_pool_size",
        "`pool.max_size`, or `maxPoolSize` in `url` or `options`",
    ),
    ("max_size", "`pool.max_size`"),
    (
        "min_connections",
        "`minPoolSize` in `url` or `options`, or `pools.min_idle`",
    ),
    ("min_idle", "`pools.min_idle`"),
    (
        "min_pool_size",
        "`minPoolSize` in `url` or `options`, or `pools.min_idle`",
    ),
    (
        "min_size",
        "`minPoolSize` in `url` or `options`, or `pools.min_idle`",
    ),
    ("password", "`url` or `options`"),
    ("queue_mode", "`pool.queue_mode`"),
    ("queue_strategy", "`pool.queue_mode`"),
    ("recycling_method", "`manager.recycling_method`"),
    ("test_on_check_out", "`manager.recycling_method`"),
    ("uri", "`url`"),
    ("user", "`url` or `options`"),
    ("username", "`url` or `options`"),
    ("wait_timeout", "`pool.timeouts.wait`"),
];

/// A deserialized value. `Debug` shows only its type.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// A boolean.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// A table.
    Table(Vec<(String, Value)>),
    /// A value of a type that no setting has: the name of the type.
    Other(&'static str),
}

/// Why a configuration can't be read. Names keys and types, never a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// The keys that lead to the value, between dots.
    key: String,
    /// The problem, beginning with the space or the colon after the key.
    problem: String,
}

/// A name that an enumeration doesn't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name is not known")]
pub struct UnknownName;

/// A type that is read from a [`Value`].
pub trait FromValue: Sized {
    /// Reads a value.
    ///
    /// # Errors
    /// The value is not of the type.
    fn from_value(value: Value) -> Result<Self, SettingError>;
}

/// A type that is read from a table with optional fields.
pub trait Settings: Default {
    /// The keys.
    const KEYS: &'static [&'static str];

    /// Sets the field of one of the [`KEYS`](Self::KEYS).
    ///
    /// # Errors
    /// The value is invalid for the field.
    fn set(&mut self, key: &'static str, value: Value) -> Result<(), SettingError>;
}

impl SettingError {
    /// The value is of another type.
    pub fn expected(expected: impl fmt::Display, found: &Value) -> Self {
        Self {
            key: String::new(),
            problem: format!(" must be {expected}; it is {}", found.type_name()),
        }
    }

    /// The value can't be used. The text of the reason must not show the value.
    pub fn unusable(reason: impl fmt::Display) -> Self {
        Self {
            key: String::new(),
            problem: format!(": {reason}"),
        }
    }

    /// Adds the key before those that are already named.
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

    pub(super) fn unknown(key: &str, known: &[&str]) -> Self {
        let known = known.join(", ");
        let Some(key) = shown_key(key) else {
            return Self::unusable(format_args!("an unknown key; the known keys are {known}"));
        };
        let elsewhere = OTHER_NAMES.iter().find(|(name, _)| is_named(key, name));
        Self::unusable(match elsewhere {
            Some((_, place)) => {
                format!("unknown key `{key}`; set {place}; the known keys here are {known}")
            }
            None => format!("unknown key `{key}`; the known keys are {known}"),
        })
    }

    pub(super) fn repeated(key: &str) -> Self {
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

/// An unknown key, if it has the form of a name. Otherwise it may be a misplaced connection string
/// or password.
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

/// Whether two names are equal, without regard to case, underscores and hyphens.
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

    /// The choice that a text names.
    ///
    /// # Errors
    /// It is another text, or not a text; the error lists the choices.
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

    /// The fields of a table with these keys.
    pub(super) fn into_table(self, keys: &[&str]) -> Result<Vec<(String, Self)>, SettingError> {
        match self {
            Self::Table(fields) => Ok(fields),
            // Often the connection string itself, instead of a table with it.
            Self::Text(_) if keys.contains(&"url") => Err(SettingError::expected(
                "a table (a connection string belongs in its `url`)",
                &self,
            )),
            _ => {
                let keys = keys.join(", ");
                let table = format_args!("a table of any of {keys}");
                Err(SettingError::expected(table, &self))
            }
        }
    }

    /// The name of its type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Flag(_) => "a boolean",
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
