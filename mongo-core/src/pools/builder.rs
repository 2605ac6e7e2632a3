//! The builder of pools.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::runtime::Handle;

use super::factory::only_host;
use super::operation::send_leftover;
use super::options::{PoolOptions, PoolsConfig};
use super::pool::PoolParams;
use super::registry::Parts;
use super::server_cap::ServerCaps;
use super::{
    Backend, ConnectionFactory, ConnectionFactoryBuilder, ManagerConfig, PoolState, Pools,
    ServerPool,
};
use crate::error::Result;
use crate::event::{EventHandler, EventHandlers, SdamEvent};
use crate::net::{Authenticator, DnsResolver, Topology};
use crate::select::ServerSelector;
use crate::uri::ClientOptions;

/// Builds [`Pools`].
pub struct PoolsBuilder<B: Backend> {
    /// What concerns connections.
    factory: ConnectionFactoryBuilder,
    config: PoolsConfig,
    backend: B::Config,
    resolver: Option<Arc<dyn DnsResolver>>,
    sdam: Vec<EventHandler<SdamEvent>>,
    selector: Option<ServerSelector>,
    topology: Option<Topology>,
    runtime: Option<Handle>,
}

impl<B: Backend> Pools<B> {
    /// Creates pools for a connection string, with default settings. Does not connect yet.
    ///
    /// With feature `dns` also for `mongodb+srv`: the first check-out looks up the records, within
    /// its own deadline.
    ///
    /// # Errors
    /// See [`PoolsBuilder::build`].
    pub fn new(url: &str) -> Result<Self>
    where
        B::Config: Default,
    {
        Self::builder(ClientOptions::parse(url)?).build()
    }

    /// A builder over client options. The hosts of `mongodb+srv` need not be looked up before.
    pub fn builder(options: ClientOptions) -> PoolsBuilder<B>
    where
        B::Config: Default,
    {
        PoolsBuilder::new(options)
    }
}

impl<B: Backend> PoolsBuilder<B> {
    fn new(options: ClientOptions) -> Self
    where
        B::Config: Default,
    {
        Self {
            factory: ConnectionFactory::builder(options),
            config: PoolsConfig::default(),
            backend: B::Config::default(),
            resolver: None,
            sdam: Vec::new(),
            selector: None,
            topology: None,
            runtime: None,
        }
    }

    crate::net::transport_setters!(factory);

    crate::net::selection_setters!();

    crate::net::auth_setters!(factory);

    crate::net::connect_setters!(factory);

    /// Sets the settings that all pools share. Default [`PoolsConfig::default`].
    #[must_use]
    pub fn config(mut self, config: PoolsConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets how connections are checked and bounded. Default [`ManagerConfig::default`].
    #[must_use]
    pub fn manager_config(mut self, manager: ManagerConfig) -> Self {
        self.factory.config = manager;
        self
    }

    /// Sets the generic pools' own settings.
    #[must_use]
    pub fn pool_config(mut self, backend: B::Config) -> Self {
        self.backend = backend;
        self
    }

    /// Sets the handlers for pool, connection and command events. Default none.
    #[must_use]
    pub fn event_handlers(mut self, events: EventHandlers) -> Self {
        self.factory.events = events;
        self
    }

    /// Adds a handler for events of the topology. See
    /// [`TopologyBuilder::event_handler`](crate::net::TopologyBuilder::event_handler).
    #[must_use]
    pub fn on_sdam(mut self, handler: impl Fn(&SdamEvent) + Send + Sync + 'static) -> Self {
        self.sdam.push(Arc::new(handler));
        self
    }

    /// Uses an existing topology, which must have the same options, instead of a new one. It is not
    /// closed with the pools. The resolver, the selector and the handlers of its events are then
    /// those of the topology.
    #[must_use]
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// Sets the runtime of monitors, of maintenance, of the sockets of both, and of tasks that the
    /// generic pools spawn. Default: the one in which the pools are first used. Name one that
    /// outlives the others where runtimes come and go: those of actix-web's workers, or one for
    /// each test. Once it has ended, the default applies. The tasks of a given
    /// [topology](Self::topology) run on [its own runtime](crate::net::TopologyBuilder::runtime).
    #[must_use]
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Builds a single pool, for the first host and the credential of the options, without a
    /// topology: for applications that monitor the server by other means. It begins paused. Errors
    /// of the server clear and pause it, until it is made [`ready`](ServerPool::ready) again. It
    /// does nothing in the background: see [`ServerPool`].
    ///
    /// # Errors
    /// See [`build`](Self::build).
    pub fn build_server_pool(self) -> Result<ServerPool<B>> {
        self.config.check()?;
        let pool_options = self.pool_options()?;
        let options = self.factory.options.clone();
        let server = only_host(&options)?;
        let cap = ServerCaps::new(self.config.server_limits()).of(&server);
        options.validate()?;
        let auth = self.factory.auth.clone();
        let shared = self.factory.template()?.shared(PoolParams {
            server,
            authenticator: Arc::new(Authenticator::new(&options, auth)?),
            load_balanced: options.load_balanced == Some(true),
            state: PoolState::Paused,
            limits: pool_options.limits(),
            cap,
            takes_writes: Arc::new(AtomicBool::new(true)),
            topology: None,
            client: None,
            wake: None,
            runtime: None,
        });
        let pool = ServerPool::new(shared, &pool_options, &self.backend)?;
        pool.announce();
        pool.shared().set_announced();
        pool.shared().set_settled();
        Ok(pool)
    }

    fn pool_options(&self) -> Result<PoolOptions> {
        let backend_size = B::max_size(&self.backend);
        let (options, max_lifetime) = (&self.factory.options, self.factory.config.max_lifetime);
        PoolOptions::new(options, max_lifetime, backend_size, &self.config)
    }

    /// Builds the pools. Does not connect, and looks up nothing for `mongodb+srv`: the first
    /// check-out, or [`Pools::connect`], starts that.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration), naming the option: this
    /// version does not support it, sizes contradict each other, or there is no resolver for
    /// `mongodb+srv`.
    pub fn build(mut self) -> Result<Pools<B>> {
        self.config.check()?;
        let pool_options = self.pool_options()?;
        let options = self.factory.options.clone();
        let mut auth = std::mem::take(&mut self.factory.auth);
        auth.keys.get_or_insert_default();
        let authenticator = Arc::new(Authenticator::new(&options, auth.clone())?);
        options.validate()?;
        let owns_topology = self.topology.is_none();
        let topology = self
            .topology
            .take()
            .map_or_else(|| self.own_topology(), Ok)?;
        Ok(Pools::assemble(Parts {
            template: self.factory.of_topology(&topology).template()?,
            topology,
            owns_topology,
            options,
            config: self.config,
            pool_options,
            backend: self.backend,
            auth,
            authenticator,
            runtime: self.runtime,
            send_leftover: |pools, leftover, limits| {
                Box::pin(send_leftover(pools, leftover, limits))
            },
        }))
    }

    fn own_topology(&mut self) -> Result<Topology> {
        let mut builder = Topology::builder(self.factory.options.clone())
            .transport(self.factory.transport.clone());
        if let Some(runtime) = self.runtime.clone() {
            builder = builder.runtime(runtime);
        }
        if let Some(resolver) = self.resolver.take() {
            builder = builder.resolver(resolver);
        }
        if let Some(selector) = self.selector.take() {
            builder = builder.server_selector(selector);
        }
        for handler in std::mem::take(&mut self.sdam) {
            builder = builder.event_handler(move |event| handler(event));
        }
        builder.build()
    }
}

impl<B: Backend> std::fmt::Debug for PoolsBuilder<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolsBuilder")
            .field("options", &self.factory.options)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
