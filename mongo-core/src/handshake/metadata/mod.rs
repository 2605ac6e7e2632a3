//! The client metadata: the `client` document of the hello.

use bson::raw::cstr;
use bson::{RawDocumentBuf, rawdoc};

use super::MetadataError;
use super::environment::{Environment, Surroundings, os_type};

/// The maximum length of a `client` document that servers accept, in bytes of BSON.
const MAX_LENGTH: usize = 512;

/// The maximum length of an application name that servers accept, in bytes.
const MAX_APPLICATION_NAME: usize = 128;

const DELIMITER: char = '|';

/// A library that wraps this crate, such as a framework or an adapter. Empty strings count as
/// unset.
///
/// Specification: handshake, `DriverInfoOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DriverInfo {
    name: Option<String>,
    version: Option<String>,
    platform: Option<String>,
}

impl DriverInfo {
    /// The information of a library, with its name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: set(name),
            ..Self::default()
        }
    }

    /// Adds the library's version.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = set(version);
        self
    }

    /// Adds the library's platform.
    #[must_use]
    pub fn with_platform(mut self, platform: impl Into<String>) -> Self {
        self.platform = set(platform);
        self
    }

    fn fields(&self) -> [(&'static str, Option<&str>); 3] {
        [
            ("name", self.name.as_deref()),
            ("version", self.version.as_deref()),
            ("platform", self.platform.as_deref()),
        ]
    }

    fn validate(&self) -> Result<(), MetadataError> {
        let has_delimiter =
            |value: Option<&str>| value.is_some_and(|text| text.contains(DELIMITER));
        match self
            .fields()
            .into_iter()
            .find(|(_, value)| has_delimiter(*value))
        {
            Some((field, _)) => Err(MetadataError::Delimiter { field }),
            None => Ok(()),
        }
    }
}

fn set(text: impl Into<String>) -> Option<String> {
    Some(text.into()).filter(|text| !text.is_empty())
}

/// The client metadata in the first hello on each connection: the application, this crate and the
/// libraries that wrap it, the operating system, and the runtime environment.
///
/// The document never has more than 512 bytes. If it would be longer, fields are left out in the
/// specification's order: first `env` except its name, then `os` except its type, then the rest of
/// `env`, and then the end of `platform`.
///
/// Specification: handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientMetadata {
    application: Option<String>,
    /// This crate first, then the appended libraries, without duplicates.
    drivers: Vec<DriverInfo>,
    surroundings: Surroundings,
}

/// The fields that are left out to stay within the limit, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Omit {
    Nothing,
    EnvButName,
    OsButType,
    Env,
    Platform,
}

impl ClientMetadata {
    /// The metadata of a process. `application_name` is the `appName`.
    ///
    /// # Errors
    /// [`MetadataError::ApplicationName`] if the name has more than 128 bytes.
    pub fn new(
        application: Option<&str>,
        environment: &Environment<'_>,
    ) -> Result<Self, MetadataError> {
        let application = application.filter(|name| !name.is_empty());
        match application.map(str::len) {
            Some(length) if length > MAX_APPLICATION_NAME => {
                Err(MetadataError::ApplicationName { length })
            }
            _ => Ok(Self {
                application: application.map(str::to_owned),
                drivers: vec![
                    DriverInfo::new(env!("CARGO_PKG_NAME"))
                        .with_version(env!("CARGO_PKG_VERSION"))
                        .with_platform("Rust"),
                ],
                surroundings: Surroundings::read(environment),
            }),
        }
    }

    /// Appends the information of a library that wraps this crate. New connections send it. Returns
    /// whether anything was added: duplicates are ignored.
    ///
    /// # Errors
    /// [`MetadataError::Delimiter`] if it contains a `|`, [`MetadataError::TooLong`] if the names
    /// and versions would no longer fit. The metadata is then unchanged.
    pub fn append(&mut self, driver: DriverInfo) -> Result<bool, MetadataError> {
        driver.validate()?;
        if driver == DriverInfo::default() || self.drivers.contains(&driver) {
            return Ok(false);
        }
        self.drivers.push(driver);
        let length = self.attempt(Omit::Platform, "").as_bytes().len();
        if length > MAX_LENGTH {
            self.drivers.pop();
            return Err(MetadataError::TooLong { length });
        }
        Ok(true)
    }

    /// The `client` document, within 512 bytes.
    pub fn document(&self) -> RawDocumentBuf {
        let platform = self.joined(|driver| driver.platform.as_deref());
        for omit in [Omit::Nothing, Omit::EnvButName, Omit::OsButType, Omit::Env] {
            let document = self.attempt(omit, &platform);
            if document.as_bytes().len() <= MAX_LENGTH {
                return document;
            }
        }
        // A field takes space for its name and length too, so an empty one is left out.
        let excess =
            (self.attempt(Omit::Env, &platform).as_bytes().len()).saturating_sub(MAX_LENGTH);
        let end = (0..=platform.len().saturating_sub(excess))
            .rev()
            .find(|end| platform.is_char_boundary(*end))
            .unwrap_or_default();
        let omit = if end == 0 { Omit::Platform } else { Omit::Env };
        self.attempt(omit, &platform[..end])
    }

    fn attempt(&self, omit: Omit, platform: &str) -> RawDocumentBuf {
        let mut client = RawDocumentBuf::new();
        if let Some(name) = &self.application {
            client.append(cstr!("application"), rawdoc! { "name": name.as_str() });
        }
        let name = self.joined(|driver| driver.name.as_deref());
        let version = self.joined(|driver| driver.version.as_deref());
        client.append(
            cstr!("driver"),
            rawdoc! { "name": name, "version": version },
        );
        let mut os = rawdoc! { "type": os_type() };
        if matches!(omit, Omit::Nothing | Omit::EnvButName) {
            os.append(cstr!("architecture"), std::env::consts::ARCH);
        }
        client.append(cstr!("os"), os);
        if omit != Omit::Platform && !platform.is_empty() {
            client.append(cstr!("platform"), platform);
        }
        let env = match omit {
            Omit::Nothing => self.surroundings.document(),
            Omit::EnvButName | Omit::OsButType => self.surroundings.name_only().document(),
            Omit::Env | Omit::Platform => None,
        };
        if let Some(env) = env {
            client.append(cstr!("env"), env);
        }
        client
    }

    fn joined<'a>(&'a self, field: impl Fn(&'a DriverInfo) -> Option<&'a str>) -> String {
        let parts: Vec<&str> = self.drivers.iter().filter_map(field).collect();
        parts.join("|")
    }
}

#[cfg(test)]
mod tests;
