//! The typed options of a client.

use std::str::FromStr;
use std::time::Duration;

use super::draft::Draft;
use super::{
    Compressor, ConnectionString, ProxyOptions, ServerMonitoringMode, SrvOptions, TlsOptions,
    UriError, UriWarning,
};
use crate::address::{DEFAULT_PORT, ServerAddress};
use crate::auth::Credential;
use crate::concern::{ReadConcern, WriteConcern};
use crate::handshake::ServerApi;
use crate::select::ReadPreference;

/// The typed options of a client, each with the name that it has in a connection string.
///
/// Made from a connection string ([`ClientOptions::parse`]), by hand ([`Default`] and the public
/// fields, then [`validate`](Self::validate)), or by serde: from a connection string, or from a
/// table, see the [module](super).
///
/// `Debug` shows no password.
///
/// Specification: URI options, and those that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The seeds. Default: `localhost:27017`. Empty for `mongodb+srv` until its records were looked
    /// up.
    pub hosts: Vec<ServerAddress>,
    /// Where the seeds are looked up in DNS, for `mongodb+srv` (with `srvServiceName` and
    /// `srvMaxHosts`).
    pub srv: Option<SrvOptions>,
    /// Who connects (`authMechanism`, `authMechanismProperties`, `authSource`, and the user name
    /// and password before the hosts). Default: nobody. For `mongodb+srv` without `authSource` it
    /// has no source until the records were looked up, as they may name one.
    pub credential: Option<Credential>,
    /// Whether `PLAIN`, which sends the password as it is, and `MONGODB-OIDC`, which does so with the
    /// access token, may be used without TLS. Not an option of connection strings: set it by hand, or
    /// in a table. Default: false, and either without TLS is refused before anything is sent.
    pub allow_plain_without_tls: bool,
    /// `authSource`: the authentication database of all credentials that name none, also of those of a
    /// `CredentialProvider` or of `Pools::with_credential`. Mechanisms that prove the user elsewhere
    /// (`$external`) have no use for it. By hand set [`Credential::with_source`] instead.
    pub auth_source: Option<String>,
    /// The database named after the hosts. It has no meaning for a connection but that it is the
    /// default of `authSource`.
    pub default_database: Option<String>,
    /// The stable API that every command is to keep to. No connection string can declare it, as the
    /// specification asks. Default: none.
    pub server_api: Option<ServerApi>,
    /// The application's name, told to the server (`appname`). At most 128 bytes. Default: none.
    pub app_name: Option<String>,
    /// The compressors to offer, the preferred one first (`compressors`). Default: none.
    pub compressors: Vec<Compressor>,
    /// The level of zlib (`zlibCompressionLevel`), -1 to 9: -1 is zlib's default, 0 no compression,
    /// 1 the fastest, 9 the smallest. Default -1.
    pub zlib_compression_level: i8,
    /// How long making a connection may take in all: socket, TLS, handshake and authentication
    /// (`connectTimeoutMS`). `None`, in a connection string 0, is without end. Default 10 s.
    pub connect_timeout: Option<Duration>,
    /// How long an application's command may take, from the first byte written to the last one read
    /// (`socketTimeoutMS`). `None`, in a connection string 0, leaves it to the pool (60 s).
    /// Default: none. Deprecated for `timeoutMS`.
    pub socket_timeout: Option<Duration>,
    /// How long a check-out may take, and how long a command (`timeoutMS`): each by itself, as what
    /// is an operation is the application's to say. It goes before
    /// [`wait_queue_timeout`](Self::wait_queue_timeout) and [`socket_timeout`](Self::socket_timeout).
    /// `None` leaves it to these; zero is without end for a command, and the default for a
    /// check-out. Default: none.
    pub timeout: Option<Duration>,
    /// The time from the end of one check of a server to the next (`heartbeatFrequencyMS`). At least
    /// 500 ms. Default 10 s.
    pub heartbeat_frequency: Duration,
    /// How much slower than the fastest a suitable server may be (`localThresholdMS`). Default
    /// 15 ms.
    pub local_threshold: Duration,
    /// How long a server may be looked for (`serverSelectionTimeoutMS`). Zero takes only what is
    /// suitable at once. Default 30 s.
    pub server_selection_timeout: Duration,
    /// Whether a selection without background tasks scans the servers once only
    /// (`serverSelectionTryOnce`). Others do not heed it. Default: true.
    pub server_selection_try_once: Option<bool>,
    /// How monitors follow a server (`serverMonitoringMode`). Default: auto.
    pub server_monitoring_mode: ServerMonitoringMode,
    /// How long a connection may be idle in a pool (`maxIdleTimeMS`). `None`, in a connection string
    /// 0, is for ever. Default: none.
    pub max_idle_time: Option<Duration>,
    /// The largest number of connections of a pool (`maxPoolSize`). 0 is no limit. Default 100.
    pub max_pool_size: u32,
    /// The number of connections that a pool keeps (`minPoolSize`). Default 0.
    pub min_pool_size: u32,
    /// The largest number of connections that a pool opens at a time (`maxConnecting`). At least 1.
    /// Default 2.
    pub max_connecting: u32,
    /// How long a check-out may take (`waitQueueTimeoutMS`). `None`, in a connection string 0, leaves
    /// it to the pool. Default: none. Deprecated for `timeoutMS`.
    pub wait_queue_timeout: Option<Duration>,
    /// Which members may be read from (`readPreference`, `readPreferenceTags`,
    /// `maxStalenessSeconds`). Default: the primary. Yours to apply: `Pools::get` is for the primary
    /// whatever it says, `Pools::read` takes one.
    pub read_preference: ReadPreference,
    /// The read concern (`readConcernLevel`). Default: the server's. Yours to add to commands.
    pub read_concern: ReadConcern,
    /// The write concern (`w`, `journal`, `wTimeoutMS`). Default: the server's. Yours to add to
    /// commands.
    pub write_concern: WriteConcern,
    /// The name of the replica set (`replicaSet`). Default: none.
    pub replica_set: Option<String>,
    /// Whether to connect to one host only, whatever it is (`directConnection`). Default: false.
    pub direct_connection: Option<bool>,
    /// Whether the host is a load balancer (`loadBalanced`). Default: false.
    pub load_balanced: Option<bool>,
    /// Whether a read is to be tried again after a network error or a failover (`retryReads`).
    /// Default true. Yours to heed, as this and the next three: nothing here runs a command twice.
    /// See [`Error::is_retryable_read`](crate::Error::is_retryable_read).
    pub retry_reads: bool,
    /// Whether a write is to be tried again after a network error or a failover (`retryWrites`).
    /// Default true. See [`Error::is_retryable_write`](crate::Error::is_retryable_write).
    pub retry_writes: bool,
    /// How often a command is to be tried again that an overloaded server refused
    /// (`maxAdaptiveRetries`). Default 2.
    pub max_adaptive_retries: u32,
    /// Whether such another try is to go to another server (`enableOverloadRetargeting`). Default
    /// false.
    pub enable_overload_retargeting: bool,
    /// The TLS options (`tls`, `ssl`, `tls…`).
    pub tls: TlsOptions,
    /// A SOCKS5 proxy (`proxyHost`, `proxyPort`, `proxyUsername`, `proxyPassword`). Default: none.
    pub proxy: Option<ProxyOptions>,
    pub(super) warnings: Vec<UriWarning>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            hosts: vec![ServerAddress::tcp("localhost", DEFAULT_PORT)],
            srv: None,
            credential: None,
            allow_plain_without_tls: false,
            auth_source: None,
            default_database: None,
            server_api: None,
            app_name: None,
            compressors: Vec::new(),
            zlib_compression_level: -1,
            connect_timeout: Some(Duration::from_secs(10)),
            socket_timeout: None,
            timeout: None,
            heartbeat_frequency: Duration::from_secs(10),
            local_threshold: Duration::from_millis(15),
            server_selection_timeout: Duration::from_secs(30),
            server_selection_try_once: None,
            server_monitoring_mode: ServerMonitoringMode::Auto,
            max_idle_time: None,
            max_pool_size: 100,
            min_pool_size: 0,
            max_connecting: 2,
            wait_queue_timeout: None,
            read_preference: ReadPreference::default(),
            read_concern: ReadConcern::default(),
            write_concern: WriteConcern::default(),
            replica_set: None,
            direct_connection: None,
            load_balanced: None,
            retry_reads: true,
            retry_writes: true,
            max_adaptive_retries: 2,
            enable_overload_retargeting: false,
            tls: TlsOptions::default(),
            proxy: None,
            warnings: Vec::new(),
        }
    }
}

impl ClientOptions {
    /// Options for given seeds, all else by default.
    pub fn new(hosts: impl IntoIterator<Item = ServerAddress>) -> Self {
        Self {
            hosts: hosts.into_iter().collect(),
            ..Self::default()
        }
    }

    /// How long a check-out may take, if anything says so: [`timeout`](Self::timeout), or else
    /// [`wait_queue_timeout`](Self::wait_queue_timeout).
    pub fn wait_timeout(&self) -> Option<Duration> {
        let timeout = self.timeout.filter(|timeout| !timeout.is_zero());
        timeout.or(self.wait_queue_timeout)
    }

    /// Reads a connection string. No I/O: for `mongodb+srv` the seeds are still to be looked up.
    ///
    /// Unknown options, and most values that an option can't have, are ignored, as the specification
    /// asks: each is a [warning](Self::warnings) and a `tracing` event of level WARN.
    ///
    /// # Errors
    /// Invalid syntax, options that contradict each other, a credential that its mechanism can't
    /// use, and an option without which a secret or a write could go where it must not
    /// ([`UriError::Option`]): `tls` that is neither `true` nor `false`, for one. That a password is missing is no error yet: it may come from elsewhere, and
    /// [`validate`](Self::validate) asks for it.
    pub fn parse(uri: &str) -> Result<Self, UriError> {
        let parts = ConnectionString::parse(uri)?;
        let options = Draft::from_connection_string(parts)?.finish()?.checked()?;
        for warning in options.warnings() {
            tracing::warn!("connection string: {warning}");
        }
        Ok(options)
    }

    /// What [`parse`](Self::parse) left out, in the order of the connection string.
    pub fn warnings(&self) -> &[UriWarning] {
        &self.warnings
    }

    /// Whether connections use TLS: as `tls` says, else for `mongodb+srv` and where any other TLS
    /// option asks for it (see [`TlsOptions`]).
    pub fn uses_tls(&self) -> bool {
        self.tls
            .enabled
            .unwrap_or(self.srv.is_some() || self.tls.implied())
    }
}

impl FromStr for ClientOptions {
    type Err = UriError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        Self::parse(uri)
    }
}
