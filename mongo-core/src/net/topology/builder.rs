use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::broadcast;

use super::Topology;
use super::shared::Shared;
use crate::callback::guard_handler;
use crate::error::Result;
use crate::event::SdamEvent;
use crate::handshake::DriverInfo;
use crate::net::connection::metadata::Metadata;
use crate::net::dispatcher::{Handler, SDAM_HANDLER};
use crate::net::topology::monitor::Monitoring;
use crate::net::transport::dns::{DnsResolver, resolver_for};
use crate::net::{PROCESS, TransportBuilder};
use crate::select::{SelectionOptions, ServerSelector};
use crate::uri::ClientOptions;

/// Builds a [`Topology`].
pub struct TopologyBuilder {
    options: ClientOptions,
    transport: TransportBuilder,
    resolver: Option<Arc<dyn DnsResolver>>,
    handlers: Vec<Handler<SdamEvent>>,
    selector: Option<ServerSelector>,
    runtime: Option<Handle>,
    random_seed: Option<u64>,
    driver_info: Vec<DriverInfo>,
}

impl TopologyBuilder {
    pub(super) fn new(options: ClientOptions) -> Self {
        Self {
            options,
            transport: TransportBuilder::default(),
            resolver: None,
            handlers: Vec::new(),
            selector: None,
            runtime: None,
            random_seed: None,
            driver_info: Vec::new(),
        }
    }

    pub(crate) fn transport(mut self, transport: TransportBuilder) -> Self {
        self.transport = transport;
        self
    }

    crate::net::transport_setters!();

    crate::net::selection_setters!();

    /// Calls `handler` with each event, one at a time and in order, on the task or thread that
    /// caused the event. The handler holds no lock of the topology and may use the topology, but
    /// must not block, because monitoring waits for it. Several handlers get each event in the
    /// order in which they were added. A panic in a handler is caught and logged: that handler
    /// loses the event, and nothing else changes.
    #[must_use]
    pub fn event_handler(mut self, handler: impl Fn(&SdamEvent) + Send + Sync + 'static) -> Self {
        self.handlers.push(guard_handler(SDAM_HANDLER, handler));
        self
    }

    /// Sends each event, in order, to a channel with a capacity of `capacity` events, at least one.
    /// Monitoring never waits for the receiver: a receiver that lags behind gets the number of
    /// events it missed ([`Lagged`](broadcast::error::RecvError::Lagged)).
    pub fn event_channel(self, capacity: usize) -> (Self, broadcast::Receiver<SdamEvent>) {
        let (sender, receiver) = broadcast::channel(capacity.max(1));
        let builder = self.event_handler(move |event| {
            // The receiver may have been dropped.
            let _ = sender.send(event.clone());
        });
        (builder, receiver)
    }

    /// Sets the runtime for monitors, their sockets, and the task for `mongodb+srv`. Default: the
    /// runtime in which [`Topology::connect`] is called. If runtimes come and go, name one that
    /// outlives the others. Once the named runtime has shut down, the default applies. See
    /// [Runtimes](Topology#runtimes).
    #[must_use]
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Sets the seed for random choices: the server among several suitable ones, the pause of pools
    /// after failures, and the reduction of a connection's lifetime. For reproducible runs.
    /// Default: the system's randomness.
    #[must_use]
    pub fn random_seed(mut self, seed: u64) -> Self {
        self.random_seed = Some(seed);
        self
    }

    /// Builds the topology, not connected yet. The only I/O is to read the system's resolver
    /// configuration and TLS files, if they are needed.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) for options that this version
    /// does not support, and for `mongodb+srv` without a resolver.
    pub fn build(self) -> Result<Topology> {
        let options = self.options;
        options.validate()?;
        let transport = self.transport.build(&options)?;
        let resolver = resolver_for(&options, self.resolver)?;
        let metadata = Metadata::of(&options)?;
        metadata.append(self.driver_info)?;
        let mut selection = SelectionOptions::from(&options);
        selection.selector = self.selector;
        let monitoring = Monitoring::new(&options, transport, metadata, &PROCESS);
        Ok(Topology::of(Shared::new(
            options,
            monitoring,
            resolver,
            all(self.handlers),
            selection,
            self.runtime,
            self.random_seed
                .unwrap_or_else(|| getrandom::u64().unwrap_or_default()),
        )))
    }
}

/// Combines the handlers into one; `None` if there are none.
fn all(mut handlers: Vec<Handler<SdamEvent>>) -> Option<Handler<SdamEvent>> {
    match handlers.len() {
        0 | 1 => handlers.pop(),
        _ => Some(Arc::new(move |event| {
            handlers.iter().for_each(|handler| handler(event));
        })),
    }
}
