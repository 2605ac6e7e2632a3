//! The options of a connection string, applied to a draft.

use std::collections::HashSet;
use std::str::FromStr;

use super::ClientOptions;
use super::draft::Draft;
use super::error::{UriError, UriWarning};
use super::parse::{ConnectionString, RawOption};
use super::table::{self, OptionSpec, Repeat};
use super::value::Refused;

impl Draft {
    /// Interprets the options of a connection string.
    pub(super) fn from_connection_string(parts: ConnectionString) -> Result<Self, UriError> {
        let mut draft = Self {
            username: parts.username,
            password: parts.password,
            ..Self::default()
        };
        draft.options.default_database = parts.default_database;
        match parts.srv_host {
            Some(name) => draft.set_srv(&name),
            None => draft.options.hosts = parts.hosts,
        }
        let specs: Vec<_> = parts
            .options
            .iter()
            .map(|option| table::find(option.name()))
            .collect();
        let names: HashSet<_> = specs.iter().flatten().map(|spec| spec.name).collect();
        for (index, (option, spec)) in parts.options.iter().zip(specs).enumerate() {
            if option.is_after_entity() {
                draft.warn(UriWarning::Entity { number: index + 1 });
            }
            match spec {
                // A deprecated name is ignored if its replacement is given, before or after it.
                Some(spec) if draft.gives_way(spec, &names) => {}
                Some(spec) => draft.apply_option(spec, option)?,
                None => draft.warn(option.unknown(index + 1)),
            }
        }
        Ok(draft)
    }

    fn gives_way(&mut self, spec: &OptionSpec, names: &HashSet<&'static str>) -> bool {
        let Some(instead) = spec.instead else {
            return false;
        };
        let ignored = names.contains(instead);
        self.warn(UriWarning::Deprecated {
            option: spec.name,
            instead,
            ignored,
        });
        ignored
    }

    pub(super) fn apply_option(
        &mut self,
        spec: &OptionSpec,
        option: &RawOption,
    ) -> Result<(), UriError> {
        self.note_repeat(spec)?;
        let outcome = match option.value() {
            Ok(value) => spec.kind.apply_text(self, spec.name, value.expose()),
            Err(_) => Err(Refused::Value("percent-encoded UTF-8")),
        };
        match outcome {
            Ok(()) => {}
            Err(Refused::Value(expected)) if spec.is_strict => {
                return Err(UriError::Option {
                    option: spec.name,
                    expected,
                });
            }
            Err(Refused::Value(expected)) => {
                self.tls_ignored |= spec.name.starts_with("tls");
                self.warn(UriWarning::BadValue {
                    option: spec.name,
                    expected,
                });
            }
            Err(Refused::Hard(error)) => return Err(error),
        }
        Ok(())
    }

    fn note_repeat(&mut self, spec: &OptionSpec) -> Result<(), UriError> {
        if self.seen.insert(spec.name) {
            return Ok(());
        }
        match spec.repeat {
            Repeat::Collect => {}
            Repeat::Warn => self.warn(UriWarning::Repeated(spec.name)),
            Repeat::Refuse => return Err(UriError::Repeated(spec.name)),
        }
        Ok(())
    }
}

impl ClientOptions {
    /// Parses a connection string. No I/O: the seeds of `mongodb+srv` are not looked up.
    ///
    /// Unknown options and most invalid values are ignored, as the specification requires. Each
    /// gives a [warning](Self::warnings) and a `tracing` event of level WARN.
    ///
    /// # Errors
    /// Invalid syntax, options that exclude each other, a credential that its mechanism can't use,
    /// and an invalid value of an option without which a secret or a write could go to the wrong
    /// server ([`UriError::Option`]), such as a `tls` that is neither `true` nor `false`. A missing
    /// password is no error here, because it may be added later; [`validate`](Self::validate)
    /// requires it.
    pub fn parse(uri: &str) -> Result<Self, UriError> {
        let options = Self::parse_quietly(uri)?;
        for warning in options.warnings() {
            tracing::warn!("connection string: {warning}");
        }
        Ok(options)
    }

    /// [`parse`](Self::parse) that logs no warnings.
    pub(crate) fn parse_quietly(uri: &str) -> Result<Self, UriError> {
        let parts = ConnectionString::parse(uri)?;
        Draft::from_connection_string(parts)?.finish()?.checked()
    }
}

impl FromStr for ClientOptions {
    type Err = UriError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        Self::parse(uri)
    }
}
