use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::broadcast;

use super::Topology;
use super::shared::Shared;
use crate::callback::guard_handler;
use crate::error::Result;
use crate::event::SdamEvent;
use crate::handshake::DriverInfo;
#[cfg(feature = "tls-rustls")]
use crate::net::Tls;
use crate::net::connection::metadata::Metadata;
use crate::net::dispatcher::{Handler, SDAM_HANDLER};
use crate::net::topology::monitor::Monitoring;
use crate::net::transport::connector::Connector;
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

    /// Names the embedding framework in the handshake's metadata, after those named before.
    #[must_use]
    pub fn driver_info(mut self, driver_info: DriverInfo) -> Self {
        self.driver_info.push(driver_info);
        self
    }

    /// What opens the monitors' transports. Default
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

    pub(crate) fn transport(mut self, transport: TransportBuilder) -> Self {
        self.transport = transport;
        self
    }

    /// What looks up the records of `mongodb+srv`, first and again while the topology is polled
    /// for. Default `HickoryResolver` with the system's name servers under feature `dns`, else
    /// none; not used without `mongodb+srv`.
    #[must_use]
    pub fn resolver(mut self, resolver: Arc<dyn DnsResolver>) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// Calls `handler` with each event, one at a time and in order, on whichever task or thread
    /// caused it. It holds no lock of the topology's, and may use the topology; but monitoring
    /// waits for it, so that it must not block. With several, each event goes to them in the order
    /// in which they were given. A panic in a handler is caught and logged: the event is lost for
    /// that handler, and nothing else changes.
    #[must_use]
    pub fn event_handler(mut self, handler: impl Fn(&SdamEvent) + Send + Sync + 'static) -> Self {
        self.handlers.push(guard_handler(SDAM_HANDLER, handler));
        self
    }

    /// Sends each event, in order, into a channel that holds `capacity` of them, at least one.
    /// Monitoring never waits for it: a receiver that falls behind by more is told how many events
    /// it missed ([`Lagged`](broadcast::error::RecvError::Lagged)).
    pub fn event_channel(self, capacity: usize) -> (Self, broadcast::Receiver<SdamEvent>) {
        let (sender, receiver) = broadcast::channel(capacity.max(1));
        let builder = self.event_handler(move |event| {
            // Nobody may be listening any more.
            let _ = sender.send(event.clone());
        });
        (builder, receiver)
    }

    /// Asks `selector` at each selection (`serverSelector`).
    #[must_use]
    pub fn server_selector(mut self, selector: ServerSelector) -> Self {
        self.selector = Some(selector);
        self
    }

    /// The runtime on which monitors, their sockets, and the task of `mongodb+srv` live. Default
    /// the one that [`Topology::connect`] is called in. Name one that outlives the others where
    /// runtimes come and go. Once it has ended, the default applies. See
    /// [Runtimes](Topology#runtimes).
    #[must_use]
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// What chance starts from: which of several servers is chosen, how long pools pause after
    /// failures, and how much is taken off a lifetime. For runs that are to replay. Default: the
    /// system's randomness.
    #[must_use]
    pub fn random_seed(mut self, seed: u64) -> Self {
        self.random_seed = Some(seed);
        self
    }

    /// The topology, not connected yet. No I/O, but that the system's resolver configuration and
    /// the files of TLS are read where they are needed.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) for what the options ask and
    /// this version can't do, and for `mongodb+srv` without a resolver.
    pub fn build(self) -> Result<Topology> {
        let options = self.options;
        options.validate()?;
        let transport = self.transport.build(&options)?;
        let resolver = resolver_for(&options, self.resolver)?;
        let metadata = Metadata::of(&options)?;
        for driver_info in self.driver_info {
            metadata.append(driver_info)?;
        }
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

/// The handlers as one; none, if there is none.
fn all(mut handlers: Vec<Handler<SdamEvent>>) -> Option<Handler<SdamEvent>> {
    match handlers.len() {
        0 | 1 => handlers.pop(),
        _ => Some(Arc::new(move |event| {
            handlers.iter().for_each(|handler| handler(event));
        })),
    }
}
