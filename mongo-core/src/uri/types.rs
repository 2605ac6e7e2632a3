//! The smaller types of options.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::auth::Secret;
use crate::settings::is_named;

/// A compression algorithm for messages (`compressors`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compressor {
    /// Snappy.
    Snappy,
    /// Zlib.
    Zlib,
    /// Zstandard.
    Zstd,
}

impl Compressor {
    /// The name in connection strings and in the handshake.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snappy => "snappy",
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Without regard to case, `_` and `-`.
impl FromStr for Compressor {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Snappy, Self::Zlib, Self::Zstd]
            .into_iter()
            .find(|compressor| is_named(name, compressor.as_str()))
            .ok_or(UnknownName)
    }
}

/// How monitors follow a server (`serverMonitoringMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerMonitoringMode {
    /// Poll on a function-as-a-service platform, else stream. The default.
    #[default]
    Auto,
    /// The streaming protocol, if the server supports it.
    Stream,
    /// The polling protocol.
    Poll,
}

impl ServerMonitoringMode {
    /// The name in connection strings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Stream => "stream",
            Self::Poll => "poll",
        }
    }
}

/// Without regard to case, `_` and `-`.
impl FromStr for ServerMonitoringMode {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Auto, Self::Stream, Self::Poll]
            .into_iter()
            .find(|mode| is_named(name, mode.as_str()))
            .ok_or(UnknownName)
    }
}

/// A name that an enumeration doesn't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name is not known")]
pub struct UnknownName;

/// The DNS seed list of a `mongodb+srv` connection string.
///
/// Specification: initial DNS seedlist discovery.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SrvOptions {
    /// The host name whose SRV and TXT records are looked up, in lower case.
    pub host_name: String,
    /// The service name (`srvServiceName`), `mongodb` by default: the record is that of
    /// `_mongodb._tcp.` and the host name.
    pub service_name: String,
    /// The largest number of hosts, chosen at random (`srvMaxHosts`). Default 0: all of them.
    pub max_hosts: u32,
    /// The lowest time to live of the SRV records. `None` before they are looked up.
    pub lowest_ttl: Option<Duration>,
}

impl SrvOptions {
    /// A host name with the default service name and no limit of hosts.
    pub fn new(host_name: impl AsRef<str>) -> Self {
        Self {
            host_name: host_name.as_ref().to_lowercase(),
            service_name: "mongodb".to_owned(),
            max_hosts: 0,
            lowest_ttl: None,
        }
    }
}

/// A SOCKS5 proxy that all connections go through.
///
/// Specification: SOCKS5 support.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ProxyOptions {
    /// The proxy's host name or address (`proxyHost`).
    pub host: String,
    /// The proxy's port (`proxyPort`). Default 1080.
    pub port: u16,
    /// The user name and password for the proxy (`proxyUsername`, `proxyPassword`).
    pub credential: Option<(String, Secret)>,
}

impl ProxyOptions {
    /// The default port of a SOCKS5 proxy.
    pub const DEFAULT_PORT: u16 = 1080;

    /// A proxy on its default port, without a password.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port: Self::DEFAULT_PORT,
            credential: None,
        }
    }
}
