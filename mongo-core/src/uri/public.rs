//! A connection string without its secrets.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::draft::Draft;
use super::error::{EncodingProblem, UriError};
use super::parse::{ConnectionString, RawOption};
use super::table::{self, OptionSpec};
use super::value::Kind;
use crate::address::ServerAddress;
use crate::auth::is_public_property;

/// All characters except the unreserved ones of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Those except separators within a value.
const IN_VALUES: &AsciiSet = &RESERVED.remove(b',').remove(b':').remove(b'/');

impl ConnectionString {
    /// Writes the connection string again, without its secrets: the password, the options for
    /// passwords (with `proxyUsername`), mechanism properties that may be secrets, and options that
    /// are ignored, because a part of a secret may be in their place.
    ///
    /// # Errors
    /// There is an unescaped `@` after the hosts, which may be part of the password, so that any
    /// part of the string may be.
    pub fn without_secrets(&self) -> Result<String, UriError> {
        if self.options.iter().any(|option| !option.is_showable()) {
            return Err(UriError::UserInfo {
                part: "user name or password",
                problem: EncodingProblem::Unescaped('@'),
            });
        }
        let mut text = match self.srv_host {
            Some(_) => "mongodb+srv://".to_owned(),
            None => "mongodb://".to_owned(),
        };
        let mut write = |parts: std::fmt::Arguments<'_>| {
            // Writing to a string does not fail.
            let _ = text.write_fmt(parts);
        };
        if let Some(username) = self.username.as_deref().filter(|name| !name.is_empty()) {
            write(format_args!("{}@", utf8_percent_encode(username, RESERVED)));
        }
        if let Some(host) = &self.srv_host {
            write(format_args!("{host}"));
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            let shown = host.to_string();
            match host {
                ServerAddress::Tcp { .. } => write(format_args!("{separator}{shown}")),
                ServerAddress::Unix { .. } => {
                    let shown = utf8_percent_encode(&shown, RESERVED);
                    write(format_args!("{separator}{shown}"));
                }
            }
        }
        let database = self.default_database.as_deref().unwrap_or_default();
        write(format_args!("/{}", utf8_percent_encode(database, RESERVED)));
        for (index, (name, value)) in self.public_options().iter().enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            let value = utf8_percent_encode(value, IN_VALUES);
            write(format_args!("{separator}{name}={value}"));
        }
        Ok(text)
    }

    /// The options with their values.
    fn public_options(&self) -> Vec<(&'static str, String)> {
        let mut is_ignored = false;
        let specs = || {
            let options = self.options.iter();
            options.filter_map(|option| Some((option, table::find(option.name())?)))
        };
        let mut options: Vec<_> = specs()
            .filter(|(_, spec)| !spec.is_secret)
            .filter_map(|(option, spec)| match public_value(option, spec) {
                Some(value) => Some((spec.name, value)),
                None => {
                    is_ignored |= spec.name.starts_with("tls");
                    None
                }
            })
            .collect();
        // TLS options imply TLS, even if they are ignored.
        let implies_tls = |spec: &OptionSpec| spec.is_secret && spec.name.starts_with("tls");
        let is_left_out = is_ignored || specs().any(|(_, spec)| implies_tls(spec));
        if is_left_out
            && !options
                .iter()
                .any(|(name, _)| matches!(*name, "tls" | "ssl"))
        {
            options.push(("tls", "true".to_owned()));
        }
        options
    }
}

/// The value of an option, or the valid parts of it. `None` if it is ignored.
fn public_value(option: &RawOption, spec: &OptionSpec) -> Option<String> {
    let text = option.value().ok()?.expose();
    let is_valid = |text: &str| {
        let applied = spec.kind.apply_text(&mut Draft::default(), spec.name, text);
        applied.is_ok()
    };
    let valid_parts = |is_kept: &dyn Fn(&str) -> bool| {
        let parts: Vec<_> = text.split(',').filter(|part| is_kept(part)).collect();
        (!parts.is_empty()).then(|| parts.join(","))
    };
    match spec.kind {
        Kind::List(..) => valid_parts(&is_valid),
        Kind::Pairs(_) if spec.name == "authMechanismProperties" => valid_parts(&|part| {
            let name = part.split_once(':').map(|(name, _)| name);
            name.is_some_and(is_public_property)
        }),
        _ => is_valid(text).then(|| text.to_owned()),
    }
}
