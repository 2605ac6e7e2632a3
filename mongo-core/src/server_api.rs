//! The stable API.

use bson::RawDocumentBuf;
use bson::raw::cstr;
use serde::{Deserialize, Deserializer, Serialize};

use crate::settings::{FromValue, SettingError, Value, settings};

/// A version of the stable API. With serde it is the string that is sent to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum ServerApiVersion {
    /// Version 1, of MongoDB 5.0 and later.
    #[serde(rename = "1")]
    V1,
}

impl ServerApiVersion {
    /// The string that is sent to the server.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "1",
        }
    }
}

/// The stable API settings, sent with every command, including those of the handshake and the
/// monitors.
///
/// The application's commands are not checked for these fields, as the specification requires: a
/// command that already has such fields then has them twice, which servers refuse. A message that
/// the application has encoded itself (`Connection::send`) is sent unchanged.
///
/// Specification: stable API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct ServerApi {
    /// The version.
    pub version: ServerApiVersion,
    /// Whether commands outside the API fail; the server's default is `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
    /// Whether deprecated commands fail; the server's default is `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecation_errors: Option<bool>,
}

impl ServerApi {
    /// A version, with the server's defaults for the rest.
    pub fn new(version: ServerApiVersion) -> Self {
        Self {
            version,
            strict: None,
            deprecation_errors: None,
        }
    }

    /// The fields.
    pub fn fields(&self) -> RawDocumentBuf {
        let mut fields = RawDocumentBuf::new();
        self.append_to(&mut fields);
        fields
    }

    /// Appends the fields to a command.
    pub fn append_to(&self, command: &mut RawDocumentBuf) {
        command.append(cstr!("apiVersion"), self.version.as_str());
        if let Some(strict) = self.strict {
            command.append(cstr!("apiStrict"), strict);
        }
        if let Some(errors) = self.deprecation_errors {
            command.append(cstr!("apiDeprecationErrors"), errors);
        }
    }
}

/// The fields of a [`ServerApi`] while it is parsed: the version has no default.
#[derive(Default)]
struct Parts {
    version: Option<ServerApiVersion>,
    strict: Option<bool>,
    deprecation_errors: Option<bool>,
}

settings! { Parts { version, strict, deprecation_errors } }

impl FromValue for ServerApi {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        let Parts {
            version,
            strict,
            deprecation_errors,
        } = value.read()?;
        let missing = || SettingError::unusable("it is missing").within("version");
        Ok(Self {
            version: version.ok_or_else(missing)?,
            strict,
            deprecation_errors,
        })
    }
}

impl FromValue for ServerApiVersion {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        match value {
            Value::Number(1) => Ok(Self::V1),
            value => value.choose(&[("1", Self::V1), ("v1", Self::V1)]),
        }
    }
}

impl<'de> Deserialize<'de> for ServerApi {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::settings::deserialize(deserializer)
    }
}

impl<'de> Deserialize<'de> for ServerApiVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::settings::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn only_fields_that_are_set_are_sent() {
        let mut api = ServerApi::new(ServerApiVersion::V1);
        let mut command = rawdoc! { "ping": 1 };
        api.append_to(&mut command);
        assert_eq!(command, rawdoc! { "ping": 1, "apiVersion": "1" });
        api.strict = Some(true);
        api.deprecation_errors = Some(false);
        let mut command = rawdoc! {};
        api.append_to(&mut command);
        let all = rawdoc! { "apiVersion": "1", "apiStrict": true, "apiDeprecationErrors": false };
        assert_eq!(command, all);
    }
}
