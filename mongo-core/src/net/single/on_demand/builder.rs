use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bson::oid::ObjectId;

use super::OnDemandTopology;
use super::srv::{Srv, check_balanced};
use crate::ServerAddress;
use crate::callback::guard_handler;
use crate::error::{Result, Wait};
use crate::event::{EventHandlers, SdamEvent};
use crate::handshake::{DriverInfo, ServerApi};
use crate::net::auth::authenticator::{AuthParts, Authenticator};
use crate::net::connection::compression::Compression;
use crate::net::connection::establish::Establisher;
use crate::net::connection::generations::Generations;
use crate::net::dispatcher::{Handler, SDAM_HANDLER};
use crate::net::transport::dns::{DnsResolver, resolver_for};
use crate::net::{Metadata, Transport, TransportBuilder};
use crate::sdam::{Input, SCAN_FREQUENCY, Scan, TopologyDescription, TopologySettings};
use crate::select::{SelectionIndex, SelectionOptions, ServerSelector};
use crate::uri::ClientOptions;

/// The time-out for draining the reply to a cancelled command.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);
/// The time-out for commands, if the options set none.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Builds an [`OnDemandTopology`], or the [`SingleClient`](crate::net::SingleClient) over one.
pub struct OnDemandTopologyBuilder {
    options: ClientOptions,
    transport: TransportBuilder,
    auth: AuthParts,
    driver_info: Vec<DriverInfo>,
    handler: Option<Handler<SdamEvent>>,
    events: EventHandlers,
    selector: Option<ServerSelector>,
    frequency: Option<Duration>,
    try_once: Option<bool>,
    resolver: Option<Arc<dyn DnsResolver>>,
}

/// Creates the [`Establisher`] of any server.
pub(crate) struct Establishers {
    pub(crate) transport: Transport,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) metadata: Metadata,
    pub(crate) server_api: Option<ServerApi>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) command_timeout: Option<Duration>,
    pub(crate) retries_writes: bool,
    compression: Compression,
    events: EventHandlers,
}

impl Establishers {
    pub(crate) fn server(&self, server: &ServerAddress) -> Establisher {
        Establisher {
            transport: self.transport.clone(),
            authenticator: self.authenticator.clone(),
            server: server.clone(),
            metadata: self.metadata.clone(),
            server_api: self.server_api,
            connect_timeout: self.connect_timeout,
            command_timeout: self.command_timeout,
            drain_timeout: DRAIN_TIMEOUT,
            retries_writes: self.retries_writes,
            times_idleness: Arc::default(),
            load_balanced: false,
            // The topology checks it.
            replica_set: None,
            compression: self.compression.clone(),
            events: self.events.clone(),
            on_connect: None,
            generations: Generations::default(),
            phase: Mutex::new(Wait::Connect),
        }
    }
}

impl OnDemandTopologyBuilder {
    pub(crate) fn new(options: ClientOptions) -> Self {
        Self {
            options,
            transport: TransportBuilder::default(),
            auth: AuthParts::default(),
            driver_info: Vec::new(),
            handler: None,
            events: EventHandlers::new(),
            selector: None,
            frequency: None,
            try_once: None,
            resolver: None,
        }
    }

    crate::net::transport_setters!();

    crate::net::selection_setters!();

    crate::net::auth_setters!();

    /// Calls `handler` with each event, in order, on the task that selects.
    #[must_use]
    pub fn event_handler(mut self, handler: impl Fn(&SdamEvent) + Send + Sync + 'static) -> Self {
        self.handler = Some(guard_handler(SDAM_HANDLER, handler));
        self
    }

    /// Sets the handlers for the command events of a [`SingleClient`](crate::net::SingleClient). It has no pool events.
    /// Default: no handlers.
    #[must_use]
    pub fn event_handlers(mut self, events: EventHandlers) -> Self {
        self.events = events;
        self
    }

    /// Sets the maximum age of the description (`heartbeatFrequencyMS`), at least 500 ms. Default:
    /// the options' value unless it is 10 s, the default for monitors; else 60 s.
    #[must_use]
    pub fn heartbeat_frequency(mut self, frequency: Duration) -> Self {
        self.frequency = Some(frequency);
        self
    }

    /// Sets whether a selection fails after one scan (`serverSelectionTryOnce`), instead of
    /// retrying for `serverSelectionTimeoutMS`. Default: the options' value, else true.
    #[must_use]
    pub fn try_once(mut self, try_once: bool) -> Self {
        self.try_once = Some(try_once);
        self
    }

    /// Builds the topology, which does not authenticate. The only I/O is to read the system's
    /// resolver configuration and TLS files, if they are needed.
    ///
    /// # Errors
    /// [`Configuration`](crate::ErrorKind::Configuration) for options that this version does not
    /// support, and for `mongodb+srv` without a resolver.
    pub fn build(self) -> Result<OnDemandTopology> {
        self.finish(Authenticator::anonymous())
    }

    /// Takes the parts of an authenticator for the options' credential.
    pub(in crate::net::single) fn authenticator(&mut self) -> Result<Authenticator> {
        Authenticator::new(&self.options, std::mem::take(&mut self.auth))
    }

    /// The topology, with the authenticator of its connections.
    pub(in crate::net::single) fn finish(
        self,
        authenticator: Authenticator,
    ) -> Result<OnDemandTopology> {
        let options = self.options;
        options.validate()?;
        check_balanced(&options)?;
        let resolver = resolver_for(&options, self.resolver)?;
        let transport = self.transport.build(&options)?;
        let metadata = Metadata::of(&options)?;
        metadata.append(self.driver_info)?;
        let of_monitors = ClientOptions::default().heartbeat_frequency;
        let frequency = match (self.frequency, options.heartbeat_frequency) {
            (Some(frequency), _) => frequency,
            (None, given) if given == of_monitors => SCAN_FREQUENCY,
            (None, given) => given,
        };
        let mut selection = SelectionOptions::from(&options);
        selection.heartbeat_frequency = frequency;
        selection.selector = self.selector;
        let command_timeout = options.timeout.or(options.socket_timeout);
        let description = Arc::new(TopologyDescription::default());
        let mut topology = OnDemandTopology {
            settings: TopologySettings::from_options(ObjectId::new(), &options),
            index: Arc::new(SelectionIndex::new(description.clone(), selection)),
            description,
            scan: Scan::new(frequency),
            members: BTreeMap::new(),
            next_connection: 1,
            selection_timeout: options.server_selection_timeout,
            timeout: options.timeout.filter(|timeout| !timeout.is_zero()),
            try_once: self.try_once.or(options.server_selection_try_once) != Some(false),
            is_closed: false,
            srv: Srv::new(&options, resolver),
            handler: self.handler,
            establishers: Establishers {
                transport,
                authenticator: Arc::new(authenticator),
                metadata,
                server_api: options.server_api,
                compression: Compression::from_options(&options),
                connect_timeout: options.connect_timeout,
                retries_writes: options.retry_writes,
                command_timeout: command_timeout
                    .or(Some(COMMAND_TIMEOUT))
                    .filter(|bound| !bound.is_zero()),
                events: self.events,
            },
        };
        if topology.is_open() {
            topology.apply(Input::Connect);
        }
        Ok(topology)
    }
}
