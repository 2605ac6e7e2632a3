//! The typed options of a client.

use std::time::Duration;

use super::{ProxyOptions, ServerMonitoringMode, SrvOptions, TlsOptions, UriWarning};
use crate::address::{DEFAULT_PORT, ServerAddress};
use crate::auth::Credential;
use crate::concern::{ReadConcern, WriteConcern};
use crate::read_preference::ReadPreference;
use crate::server_api::ServerApi;
use crate::wire::Compressor;

/// The typed options of a client, each with the name that it has in a connection string.
///
/// Made from a connection string ([`ClientOptions::parse`]), in code ([`Default`] and the public
/// fields, then [`validate`](Self::validate)), or with serde from a connection string or a table,
/// see the [module](super).
///
/// `Debug` shows no password.
///
/// Specification: URI options, and the specifications that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The seeds. Default: `localhost:27017`. Empty for `mongodb+srv` until the records are looked
    /// up.
    pub hosts: Vec<ServerAddress>,
    /// The DNS seed list, for `mongodb+srv` (with `srvServiceName` and `srvMaxHosts`).
    pub srv: Option<SrvOptions>,
    /// The credential (`authMechanism`, `authMechanismProperties`, `authSource`, and the user name
    /// and password before the hosts). Default: none. For `mongodb+srv` without `authSource` it
    /// has no source until the records are looked up, because they may name one.
    pub credential: Option<Credential>,
    /// Whether `PLAIN`, which sends the password in plain text, and `MONGODB-OIDC`, which sends the
    /// access token so, are allowed without TLS. Not an option of connection strings: set it in
    /// code or in a table. Default: false; either without TLS is then refused before anything is
    /// sent.
    pub allow_plain_without_tls: bool,
    /// `authSource`: the authentication database of all credentials that name none, including those
    /// of a `CredentialProvider` or of `Pools::with_credential`. Mechanisms of the source
    /// `$external` ignore it. In code, set [`Credential::with_source`] instead.
    pub auth_source: Option<String>,
    /// The database after the hosts. For a connection it is only the default of `authSource`.
    pub default_database: Option<String>,
    /// The stable API that every command declares. The specification does not allow it in
    /// connection strings. Default: none.
    pub server_api: Option<ServerApi>,
    /// The application's name, sent to the server (`appname`). At most 128 bytes. Default: none.
    pub app_name: Option<String>,
    /// The compressors to offer, in order of preference (`compressors`). Default: none.
    pub compressors: Vec<Compressor>,
    /// The level of zlib (`zlibCompressionLevel`), -1 to 9: -1 is zlib's default, 0 no compression,
    /// 1 the fastest, 9 the smallest. Default -1.
    pub zlib_compression_level: i8,
    /// The time limit for making a connection: socket, TLS, handshake and authentication together
    /// (`connectTimeoutMS`). `None`, in a connection string 0, is no limit. Default 10 s.
    pub connect_timeout: Option<Duration>,
    /// The time limit of an application's command, from the first byte written to the last byte
    /// read (`socketTimeoutMS`). `None`, in a connection string 0, leaves it to the pool (60 s).
    /// Default: none. Deprecated in favour of `timeoutMS`.
    pub socket_timeout: Option<Duration>,
    /// The time limit of an operation (`timeoutMS`): of `command` with all its waits and retries. Of
    /// `get` and `run_command` it applies to each of them separately, because only the application
    /// knows which of them form an operation. It overrides
    /// [`wait_queue_timeout`](Self::wait_queue_timeout) and [`socket_timeout`](Self::socket_timeout).
    /// `None` leaves the limits to these; zero is no limit for a command, and the default for a
    /// check-out. Default: none.
    pub timeout: Option<Duration>,
    /// The time from the end of one check of a server to the next (`heartbeatFrequencyMS`). At least
    /// 500 ms. Default 10 s.
    pub heartbeat_frequency: Duration,
    /// The width of the latency window: how much slower than the fastest suitable server a server
    /// may be (`localThresholdMS`). Default 15 ms.
    pub local_threshold: Duration,
    /// The time limit of server selection (`serverSelectionTimeoutMS`). With zero, a selection does
    /// not wait for a suitable server. Default 30 s.
    pub server_selection_timeout: Duration,
    /// Whether a selection without background tasks scans the servers only once
    /// (`serverSelectionTryOnce`). Other selections ignore it. Default: true.
    pub server_selection_try_once: Option<bool>,
    /// How monitors follow a server (`serverMonitoringMode`). Default: auto.
    pub server_monitoring_mode: ServerMonitoringMode,
    /// How long a connection may be idle in a pool (`maxIdleTimeMS`). `None`, in a connection string
    /// 0, is no limit. Default: none.
    pub max_idle_time: Option<Duration>,
    /// The largest number of connections of a pool (`maxPoolSize`). 0 is no limit. Default 100.
    pub max_pool_size: u32,
    /// The number of connections that a pool maintains (`minPoolSize`). Default 0.
    pub min_pool_size: u32,
    /// The largest number of connections that a pool establishes concurrently (`maxConnecting`). At
    /// least 1. Default 2.
    pub max_connecting: u32,
    /// The time limit of a check-out (`waitQueueTimeoutMS`). `None`, in a connection string 0,
    /// leaves it to the pool. Default: none. Deprecated in favour of `timeoutMS`.
    pub wait_queue_timeout: Option<Duration>,
    /// The read preference (`readPreference`, `readPreferenceTags`, `maxStalenessSeconds`).
    /// Default: the primary. It applies to `command` with
    /// [`OperationKind::Read`](crate::operation::OperationKind::Read): `Pools::get` always selects
    /// the primary, `Pools::read` takes a read preference.
    pub read_preference: ReadPreference,
    /// The read concern (`readConcernLevel`). Default: the server's. It applies to `command` with
    /// [`OperationKind::Read`](crate::operation::OperationKind::Read) and to transactions; the
    /// application adds it to other commands.
    pub read_concern: ReadConcern,
    /// The write concern (`w`, `journal`, `wTimeoutMS`). Default: the server's. It applies to
    /// `command` with [`OperationKind::Write`](crate::operation::OperationKind::Write) and to
    /// transactions; the application adds it to other commands.
    pub write_concern: WriteConcern,
    /// The name of the replica set (`replicaSet`). Default: none.
    pub replica_set: Option<String>,
    /// Whether to connect to a single host, of any type (`directConnection`). Default: false.
    pub direct_connection: Option<bool>,
    /// Whether the host is a load balancer (`loadBalanced`). Default: false.
    pub load_balanced: Option<bool>,
    /// Whether a read is retried after a network error or a failover (`retryReads`). Default true.
    /// This and the next three options apply to `command`; `run_command` runs no command twice. See
    /// [`Error::is_retryable_read`](crate::Error::is_retryable_read).
    pub retry_reads: bool,
    /// Whether a write is retried after a network error or a failover (`retryWrites`).
    /// Default true. See [`Error::is_retryable_write`](crate::Error::is_retryable_write).
    pub retry_writes: bool,
    /// How often a command that an overloaded server refused is retried (`maxAdaptiveRetries`).
    /// Default 2.
    pub max_adaptive_retries: u32,
    /// Whether such a retry goes to another server (`enableOverloadRetargeting`). Default false.
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
    /// Options for these seeds, with all other options at their defaults.
    pub fn new(hosts: impl IntoIterator<Item = ServerAddress>) -> Self {
        Self {
            hosts: hosts.into_iter().collect(),
            ..Self::default()
        }
    }

    /// The time limit of a check-out, if one is set: [`timeout`](Self::timeout), or else
    /// [`wait_queue_timeout`](Self::wait_queue_timeout).
    pub fn wait_timeout(&self) -> Option<Duration> {
        let timeout = self.timeout.filter(|timeout| !timeout.is_zero());
        timeout.or(self.wait_queue_timeout)
    }

    /// The warnings of [`parse`](Self::parse), in the order of the connection string.
    pub fn warnings(&self) -> &[UriWarning] {
        &self.warnings
    }

    /// Whether connections use TLS: the value of `tls`, else true for `mongodb+srv` and if another
    /// TLS option implies it (see [`TlsOptions`]).
    pub fn uses_tls(&self) -> bool {
        self.tls
            .enabled
            .unwrap_or(self.srv.is_some() || self.tls.implied())
    }
}
