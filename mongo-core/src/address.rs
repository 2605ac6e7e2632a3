//! The address of one server.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::settings::{FromValue, SettingError, Value};
use crate::text::{is_printable, write_printable};

/// The port that MongoDB listens on where an address names none.
pub const DEFAULT_PORT: u16 = 27017;

/// The address of a server: a host and port, or a Unix domain socket.
///
/// Host names are stored in lower case, because the server discovery and monitoring specification
/// compares them so. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ServerAddress {
    /// A host name, IPv4 or IPv6 address (without brackets) and a port.
    Tcp {
        /// The host, lower case, without the brackets of an IPv6 literal.
        host: Arc<str>,
        /// The port, 1 to 65535.
        port: u16,
    },
    /// The path of a Unix domain socket, which ends in `.sock`.
    Unix {
        /// The path.
        path: Arc<Path>,
    },
}

/// An address that could not be parsed. No message shows a part of it, because a part may be a
/// misplaced password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// There is no host.
    #[error("the host is empty")]
    EmptyHost,
    /// The port is not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// An opening bracket of an IPv6 literal has no closing one, or the text inside is no IPv6
    /// address.
    #[error("the host is not an IPv6 literal in brackets")]
    Ipv6,
    /// The host contains an invalid character, such as an unescaped `/`, white space, or an
    /// unprintable character.
    #[error("the host contains an invalid character")]
    Host,
}

impl ServerAddress {
    /// A host and a port. The host is converted to lower case; the brackets of an IPv6 literal are
    /// removed.
    pub fn tcp(host: &str, port: u16) -> Self {
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host);
        Self::Tcp {
            host: bare.to_lowercase().into(),
            port,
        }
    }

    /// The path of a Unix domain socket.
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self::Unix {
            path: path.as_ref().into(),
        }
    }

    /// The host name, or `None` for a Unix domain socket.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp { host, .. } => Some(host),
            Self::Unix { .. } => None,
        }
    }

    /// The port, or `None` for a Unix domain socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp { port, .. } => Some(*port),
            Self::Unix { .. } => None,
        }
    }
}

/// Unprintable characters are escaped.
impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => {
                write_printable(f, format_args!("[{host}]:{port}"))
            }
            Self::Tcp { host, port } => write_printable(f, format_args!("{host}:{port}")),
            Self::Unix { path } => write_printable(f, format_args!("{}", path.display())),
        }
    }
}

/// Parses `host`, `host:port`, `[ipv6]`, `[ipv6]:port`, or a path that ends in `.sock`.
/// Percent-encoding is part of the connection string, not of an address.
impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains(|character| !is_printable(character)) {
            return Err(AddressError::Host);
        }
        if text.ends_with(".sock") && text.contains('/') {
            return Ok(Self::unix(text));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inner, after) = rest.split_once(']').ok_or(AddressError::Ipv6)?;
                // std does not parse a zone index ("fe80::1%eth0").
                let bare = inner.split('%').next().unwrap_or(inner);
                bare.parse::<std::net::Ipv6Addr>()
                    .map_err(|_| AddressError::Ipv6)?;
                let port = match after {
                    "" => None,
                    _ => Some(after.strip_prefix(':').ok_or(AddressError::Ipv6)?),
                };
                (inner, port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.is_empty() {
            return Err(AddressError::EmptyHost);
        }
        let forbidden = |character: char| {
            matches!(character, '/' | '@' | '?' | '#') || character.is_whitespace()
        };
        if host.contains(forbidden) {
            return Err(AddressError::Host);
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(digits) => Some(digits)
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|digits| digits.parse::<u16>().ok())
                .filter(|port| *port != 0)
                .ok_or(AddressError::Port)?,
        };
        Ok(Self::tcp(host, port))
    }
}

impl Serialize for ServerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromValue for ServerAddress {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        match &value {
            Value::Text(text) => text.parse().map_err(SettingError::unusable),
            _ => Err(SettingError::expected("a host and port", &value)),
        }
    }
}

impl<'de> Deserialize<'de> for ServerAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::settings::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<ServerAddress>()
            .expect("an address")
            .to_string()
    }

    #[test]
    fn every_form_of_address_is_read_and_written() {
        assert_eq!(shown("Example.COM"), "example.com:27017");
        assert_eq!(shown("a:1"), "a:1");
        assert_eq!(shown("[::1]"), "[::1]:27017");
        assert_eq!(shown("[::1]:65535"), "[::1]:65535");
        assert_eq!(shown("/tmp/mongodb-27017.sock"), "/tmp/mongodb-27017.sock");
    }

    #[test]
    fn other_texts_than_addresses_are_refused() {
        for bad in [
            "", ":1", "a:", "a:0", "a:65536", "a:-1", "a:+1", "a:1:2", "[::1", "[::g]", "[::1]x",
            "a/b",
        ] {
            assert!(bad.parse::<ServerAddress>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn unprintable_addresses_are_refused_and_escaped() {
        for character in [
            '\0', '\n', '\r', '\t', '\u{1b}', '\u{7f}', '\u{85}', '\u{9b}', '\u{a0}', '\u{200e}',
            '\u{2028}', '\u{2029}', '\u{202e}', '\u{2066}', '\u{3000}',
        ] {
            for text in [
                format!("a{character}b:1"),
                format!("[fe80::1%{character}]:1"),
                format!("a:1{character}"),
            ] {
                assert!(text.parse::<ServerAddress>().is_err(), "{text:?} was taken");
            }
            if !character.is_whitespace() || character.is_control() {
                let path = format!("/tmp/{character}.sock");
                assert!(path.parse::<ServerAddress>().is_err(), "{path:?} was taken");
            }
        }
        assert_eq!(
            ServerAddress::tcp("a\u{1b}[2J\u{202e}", 1).to_string(),
            "a\\u{1b}[2j\\u{202e}:1"
        );
        assert_eq!(ServerAddress::unix("/\n.sock").to_string(), "/\\n.sock");
    }

    #[test]
    fn errors_show_no_part_of_the_text() {
        for text in [
            "app:S3CRET@db",
            "S3CRET@db",
            "[S3CRET",
            "db:S3CRET",
            "[::1]S3CRET",
            "a/S3CRET",
        ] {
            let error = text.parse::<ServerAddress>().expect_err(text);
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("S3CRET"), "{shown}");
        }
    }
}
