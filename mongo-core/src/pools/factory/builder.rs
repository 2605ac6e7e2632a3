//! From options to factories.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{ConnectionFactory, Source};
use crate::ServerAddress;
use crate::error::{Error, Result};
use crate::event::EventHandlers;
use crate::handshake::DriverInfo;
#[cfg(feature = "tls-rustls")]
use crate::net::Tls;
use crate::net::{
    AuthParts, Authenticator, AwsCredentialProvider, Compression, Connector, CredentialProvider,
    KeyService, Metadata, OidcCallback, Topology, TransportBuilder,
};
use crate::pools::config::{DEFAULT_DRAIN_TIMEOUT, ManagerConfig, RecyclingMethod};
use crate::pools::follow::Floating;
use crate::pools::pool::{FactoryConfig, PoolParams};
use crate::select::Criterion;
use crate::uri::ClientOptions;

/// Builds a [`ConnectionFactory`].
pub struct ConnectionFactoryBuilder {
    options: ClientOptions,
    config: ManagerConfig,
    transport: TransportBuilder,
    auth: AuthParts,
    driver_info: Vec<DriverInfo>,
    /// Of the topology, where there is one.
    metadata: Option<Metadata>,
    events: EventHandlers,
    floating: Option<(Topology, Criterion)>,
}

impl ConnectionFactoryBuilder {
    pub(super) fn new(options: ClientOptions) -> Self {
        Self {
            options,
            config: ManagerConfig::default(),
            transport: TransportBuilder::default(),
            auth: AuthParts::default(),
            driver_info: Vec::new(),
            metadata: None,
            events: EventHandlers::default(),
            floating: None,
        }
    }

    /// How connections are checked and bounded. Default [`ManagerConfig::default`].
    #[must_use]
    pub fn config(mut self, config: ManagerConfig) -> Self {
        self.config = config;
        self
    }

    /// What opens the transport. Default
    /// [`SocketConnector`](crate::net::SocketConnector), or
    /// [`ProxyConnector`](crate::net::ProxyConnector) where the options name a proxy.
    #[must_use]
    pub fn connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.transport.connector = Some(connector);
        self
    }

    /// TLS of your own: a [`Tls`], or an `Arc` of a `rustls::ClientConfig`. Default: what the options
    /// say.
    #[cfg(feature = "tls-rustls")]
    #[must_use]
    pub fn tls(mut self, tls: impl Into<Tls>) -> Self {
        self.transport.tls = Some(tls.into());
        self
    }

    pub(in crate::pools) fn transport(mut self, transport: TransportBuilder) -> Self {
        self.transport = transport;
        self
    }

    /// The cache of derived keys, and the executor that fills it. Default one of its own, on
    /// tokio's blocking threads.
    #[must_use]
    pub fn keys(mut self, keys: Arc<KeyService>) -> Self {
        self.auth.keys = Some(keys);
        self
    }

    /// Who gives the credential whenever a connection is made; the options have none then. For
    /// secrets that change. Default: the options' credential.
    #[must_use]
    pub fn credential_provider(mut self, provider: Arc<dyn CredentialProvider>) -> Self {
        self.auth.provider = Some(provider);
        self
    }

    /// Who gives the credentials of AWS for `MONGODB-AWS`. Default
    /// [`AwsSources`](crate::net::AwsSources).
    #[must_use]
    pub fn aws_credential_provider(mut self, provider: Arc<dyn AwsCredentialProvider>) -> Self {
        self.auth.aws = Some(provider);
        self
    }

    /// Who gives the access tokens for `MONGODB-OIDC`, where the credential has no `ENVIRONMENT`.
    #[must_use]
    pub fn oidc_callback(mut self, callback: Arc<dyn OidcCallback>) -> Self {
        self.auth.oidc = Some(callback);
        self
    }

    /// Names the embedding framework in the handshake's metadata, after those named before; of a
    /// factory that [floats](Self::floating) also in that of the topology's monitors.
    #[must_use]
    pub fn driver_info(mut self, driver_info: DriverInfo) -> Self {
        self.driver_info.push(driver_info);
        self
    }

    /// The `client` document of another part of the same client, to which `driver_info` goes.
    pub(in crate::pools) fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Who is told of the connections and of the commands that are run on them. Default nobody.
    #[must_use]
    pub fn event_handlers(mut self, events: EventHandlers) -> Self {
        self.events = events;
        self
    }

    /// Follows a topology: each connection is to whichever server `criterion` selects at the time,
    /// and none is handed out again whose server it would not select any more. What connections
    /// meet is told to the topology, and what the topology finds out makes connections stale.
    ///
    /// For a generic pool of the user's own, with its configuration and hooks: as many connections
    /// are made at a time as that pool asks for. Of the options, the hosts are not used. The
    /// topology is connected with the first connection, if it is not; it ends with its last handle,
    /// of which the factory has one.
    ///
    /// A connection for a criterion of writes runs no command, by
    /// [`ErrorKind::NotWritable`](crate::ErrorKind::NotWritable), once its server is known to take
    /// none.
    #[must_use]
    pub fn floating(mut self, topology: Topology, criterion: Criterion) -> Self {
        self.metadata = Some(topology.metadata().clone());
        self.floating = Some((topology, criterion));
        self
    }

    /// The factory. No I/O, but that the files of TLS are read.
    ///
    /// If it is not [floating](Self::floating), it connects to the first host alone: others get a
    /// warning (`tracing`). With `replicaSet` a server that gives another name, or none, is refused by
    /// [`HandshakeError::OtherReplicaSet`](crate::handshake::HandshakeError::OtherReplicaSet).
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) for what the options ask and
    /// this version can't do; it names the option. Nothing that a connection should have is left
    /// out silently; read preference, concerns and retries are the application's.
    pub fn build(mut self) -> Result<ConnectionFactory> {
        let auth = std::mem::take(&mut self.auth);
        self.options.validate()?;
        let authenticator = Authenticator::new(&self.options, auth)?;
        if let Some((topology, criterion)) = self.floating.take() {
            let floating = Floating::new(topology, criterion, self.template()?, authenticator);
            let source = Source::Floating(floating);
            return Ok(ConnectionFactory { source });
        }
        let server = only_host(&self.options)?;
        let load_balanced = self.options.load_balanced == Some(true);
        let place = PoolParams::alone(server, authenticator, load_balanced);
        Ok(self.template()?.shared(place).into())
    }

    /// What all factories of these options have in common.
    pub(in crate::pools) fn template(self) -> Result<FactoryConfig> {
        let options = &self.options;
        let metadata = self.metadata.map_or_else(|| Metadata::of(options), Ok)?;
        for driver_info in self.driver_info {
            metadata.append(driver_info)?;
        }
        let config = &self.config;
        let max_idle_time = config.max_idle_time(options);
        let times_idleness = max_idle_time.is_some()
            || matches!(config.recycling_method, RecyclingMethod::VerifiedAfter(_));
        Ok(FactoryConfig {
            transport: self.transport.build(options)?,
            metadata,
            server_api: options.server_api,
            connect_timeout: options.connect_timeout,
            command_timeout: config.command_timeout(options),
            retries_writes: options.retry_writes,
            drain_timeout: config.drain_timeout.unwrap_or(DEFAULT_DRAIN_TIMEOUT),
            recycling_method: config.recycling_method,
            max_idle_time,
            times_idleness: Arc::new(AtomicBool::new(times_idleness)),
            max_lifetime: config.max_lifetime.filter(|max| !max.is_zero()),
            replica_set: options.replica_set.as_deref().map(Arc::from),
            compression: Compression::from_options(options),
            events: self.events,
        })
    }
}

/// The host of a pool that has no topology.
///
/// # Errors
/// There is none, or it is still to be looked up.
pub(in crate::pools) fn only_host(options: &ClientOptions) -> Result<ServerAddress> {
    match options.hosts.first() {
        Some(host) => {
            warn_of_unused_hosts(options);
            Ok(host.clone())
        }
        None if options.srv.is_some() => Err(Error::configuration(
            "`mongodb+srv` can't be looked up by a pool of one server, which needs its host when it is \
             built: use `Pools` (`create_pools` of an adapter's `Config`), or look the hosts up \
             before, by `mongo_core::net::resolve`",
        )),
        None => Err(Error::configuration("there is no host")),
    }
}

/// A pool that is alone connects to one host. Whoever names more expects a failover.
fn warn_of_unused_hosts(options: &ClientOptions) {
    if let [first, unused @ ..] = &*options.hosts
        && !unused.is_empty()
    {
        let count = unused.len();
        tracing::warn!(
            target: "mongodb::connection",
            "a plain pool connects to its first host, {first}; {count} more of the connection string \
             are not used: `Pools`, or a floating manager, follow all of them"
        );
    }
}
