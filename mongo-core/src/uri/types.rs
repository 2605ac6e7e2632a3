//! The smaller types of options.

use std::str::FromStr;
use std::time::Duration;

use crate::auth::Secret;
use crate::settings::{UnknownName, is_named};

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
