//! The address of one server.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The port that MongoDB listens on where an address names none.
pub const DEFAULT_PORT: u16 = 27017;

/// Where a server listens: a host and port, or a Unix domain socket.
///
/// Host names are kept in lower case, as the server discovery and monitoring specification
/// compares them. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// An address that could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// There is no host.
    #[error("the host is empty")]
    EmptyHost,
    /// The port is not a number from 1 to 65535.
    #[error("port {0:?} of host {1:?} is not a number from 1 to 65535")]
    Port(String, String),
    /// An opening bracket of an IPv6 literal has no closing one, or what is inside is no IPv6 address.
    #[error("{0:?} is not an IPv6 literal in brackets")]
    Ipv6(String),
    /// A host holds a character that no host can hold, such as an unescaped `/` or a second colon.
    #[error("{0:?} is not a host name")]
    Host(String),
}

impl ServerAddress {
    /// A host and a port. The host is lower-cased; brackets round an IPv6 literal are taken off.
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

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "{}", path.display()),
        }
    }
}

/// Parses `host`, `host:port`, `[ipv6]`, `[ipv6]:port`, or a path that ends in `.sock`.
/// Percent-encoding is the connection string's business, not an address's.
impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.ends_with(".sock") && text.contains('/') {
            return Ok(Self::unix(text));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inner, after) = rest
                    .split_once(']')
                    .ok_or_else(|| AddressError::Ipv6(text.to_owned()))?;
                // A zone index ("fe80::1%eth0") is no part of what std parses.
                let bare = inner.split('%').next().unwrap_or(inner);
                bare.parse::<std::net::Ipv6Addr>()
                    .map_err(|_| AddressError::Ipv6(text.to_owned()))?;
                let port = match after {
                    "" => None,
                    _ => Some(
                        after
                            .strip_prefix(':')
                            .ok_or_else(|| AddressError::Ipv6(text.to_owned()))?,
                    ),
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
        if host.contains(['/', '@', '?', '#', ' ', '\0']) {
            return Err(AddressError::Host(host.to_owned()));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(digits) => Some(digits)
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|digits| digits.parse::<u16>().ok())
                .filter(|port| *port != 0)
                .ok_or_else(|| AddressError::Port(digits.to_owned(), host.to_owned()))?,
        };
        Ok(Self::tcp(host, port))
    }
}

impl Serialize for ServerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServerAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
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
    fn reads_and_writes_every_form() {
        assert_eq!(shown("Example.COM"), "example.com:27017");
        assert_eq!(shown("a:1"), "a:1");
        assert_eq!(shown("[::1]"), "[::1]:27017");
        assert_eq!(shown("[::1]:65535"), "[::1]:65535");
        assert_eq!(shown("/tmp/mongodb-27017.sock"), "/tmp/mongodb-27017.sock");
    }

    #[test]
    fn refuses_what_is_no_address() {
        for bad in [
            "", ":1", "a:", "a:0", "a:65536", "a:-1", "a:+1", "a:1:2", "[::1", "[::g]", "[::1]x",
            "a/b",
        ] {
            assert!(bad.parse::<ServerAddress>().is_err(), "{bad} was taken");
        }
    }
}
