//! The builder of connection factories.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{ConnectionFactory, Source};
use crate::ServerAddress;
use crate::error::{Error, Result};
use crate::event::EventHandlers;
use crate::handshake::DriverInfo;
use crate::net::{
    AuthParts, Authenticator, Compression, Metadata, OnConnect, Topology, TransportBuilder,
};
use crate::operation::{ClientContext, Defaults};
use crate::pools::config::{DEFAULT_DRAIN_TIMEOUT, ManagerConfig, RecyclingMethod};
use crate::pools::follow::Floating;
use crate::pools::pool::{FactoryConfig, PoolParams};
use crate::select::Criterion;
use crate::uri::ClientOptions;

/// Builds a [`ConnectionFactory`].
pub struct ConnectionFactoryBuilder {
    pub(in crate::pools) options: ClientOptions,
    pub(in crate::pools) config: ManagerConfig,
    pub(in crate::pools) transport: TransportBuilder,
    pub(in crate::pools) auth: AuthParts,
    pub(in crate::pools) driver_info: Vec<DriverInfo>,
    /// The topology's metadata, if there is a topology.
    metadata: Option<Metadata>,
    pub(in crate::pools) events: EventHandlers,
    pub(in crate::pools) on_connect: Option<OnConnect>,
    floating: Option<(Topology, Criterion)>,
}

impl ConnectionFactoryBuilder {
    pub(in crate::pools) fn new(options: ClientOptions) -> Self {
        Self {
            options,
            config: ManagerConfig::default(),
            transport: TransportBuilder::default(),
            auth: AuthParts::default(),
            driver_info: Vec::new(),
            metadata: None,
            events: EventHandlers::default(),
            on_connect: None,
            floating: None,
        }
    }

    crate::net::transport_setters!();

    crate::net::auth_setters!();

    crate::net::connect_setters!();

    /// Sets how connections are checked and bounded. Default [`ManagerConfig::default`].
    #[must_use]
    pub fn config(mut self, config: ManagerConfig) -> Self {
        self.config = config;
        self
    }

    /// Shares the metadata of a topology, and the TLS files that its monitors have read.
    #[must_use]
    pub(in crate::pools) fn of_topology(mut self, topology: &Topology) -> Self {
        self.metadata = Some(topology.metadata().clone());
        self.transport.topology_tls = topology.tls().cloned();
        self
    }

    /// Sets the handlers for events of connections and of commands on them. Default none.
    #[must_use]
    pub fn event_handlers(mut self, events: EventHandlers) -> Self {
        self.events = events;
        self
    }

    /// Makes the factory follow a topology: each new connection is to the server that `criterion`
    /// selects at the time, and a connection is not handed out again if its server would no longer
    /// be selected. Errors of connections update the topology, and changes of the topology make
    /// connections stale.
    ///
    /// For a generic pool of the user's own, with its configuration and hooks. That pool alone
    /// limits how many connections are made at a time. The hosts in the options are not used. The
    /// first connection connects the topology, if it is not connected. The topology ends with its
    /// last handle; the factory holds one.
    ///
    /// With a criterion for writes, commands fail with
    /// [`ErrorKind::NotWritable`](crate::ErrorKind::NotWritable), and are not sent, once the server
    /// is known to be no longer writable.
    #[must_use]
    pub fn floating(mut self, topology: Topology, criterion: Criterion) -> Self {
        self = self.of_topology(&topology);
        self.floating = Some((topology, criterion));
        self
    }

    /// Builds the factory. The only I/O is reading TLS files.
    ///
    /// Unless it is [floating](Self::floating), it connects to the first host only; a warning
    /// (`tracing`) tells of further hosts. With `replicaSet`, a server that reports another name,
    /// or none, is refused with
    /// [`HandshakeError::OtherReplicaSet`](crate::handshake::HandshakeError::OtherReplicaSet).
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) this version does not support
    /// an option, which the error names. No option of a connection is ignored silently; read
    /// preference, concerns and retries are up to the application.
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

    /// The configuration that all factories of these options share.
    pub(in crate::pools) fn template(self) -> Result<FactoryConfig> {
        let options = &self.options;
        let metadata = self.metadata.map_or_else(|| Metadata::of(options), Ok)?;
        let config = &self.config;
        let max_idle_time = config.max_idle_time(options);
        let times_idleness = max_idle_time.is_some()
            || matches!(config.recycling_method, RecyclingMethod::VerifiedAfter(_));
        let transport = self.transport.build(options)?;
        // Last: the metadata may be that of a topology, which keeps it.
        metadata.append(self.driver_info)?;
        Ok(FactoryConfig {
            transport,
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
            on_connect: self.on_connect,
            client: Arc::new(ClientContext::new(Defaults::of(options))),
        })
    }
}

/// The host of a pool that has no topology.
///
/// # Errors
/// There is no host, or it has yet to be looked up.
pub(in crate::pools) fn only_host(options: &ClientOptions) -> Result<ServerAddress> {
    match options.hosts.first() {
        Some(host) => {
            warn_of_unused_hosts(options);
            Ok(host.clone())
        }
        None if options.srv.is_some() => Err(Error::configuration(
            "a pool of one server does not look up `mongodb+srv`, because it needs its host when it is \
             built: use `Pools` (`create_pools` of an adapter's `Config`), or resolve the hosts \
             first with `mongo_core::net::resolve`",
        )),
        None => Err(Error::configuration("there is no host")),
    }
}

/// Warns of unused hosts: a connection string with several hosts suggests that failover is
/// expected.
fn warn_of_unused_hosts(options: &ClientOptions) {
    if let [first, unused @ ..] = &*options.hosts
        && !unused.is_empty()
    {
        let count = unused.len();
        tracing::warn!(
            target: "mongodb::connection",
            "a plain pool connects to its first host only, {first}; {count} more in the connection \
             string are not used: use `Pools` or a floating manager to follow all hosts"
        );
    }
}
