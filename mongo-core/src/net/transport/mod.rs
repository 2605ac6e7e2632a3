use std::pin::pin;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::runtime;
use crate::ServerAddress;
use crate::callback::{Panicked, guard, guard_async};
use crate::error::{Error, ErrorKind, Result, Wait};
use crate::net::transport::stream::TLS_CONFIG;
use crate::uri::ClientOptions;
use connector::{Connector, SocketConnector, Untried};
use proxy::ProxyConnector;
use stream::Stream;
use tls::Tls;

pub(super) mod connector;
pub(super) mod dns;
pub(super) mod proxy;
pub(super) mod stream;
pub(super) mod tls;
pub(super) mod together;

const CONNECTOR: &str = "connector";

/// The transport layers: a connector opens a stream, and TLS runs on top of it.
#[derive(Clone)]
pub(crate) struct Transport {
    connector: Arc<dyn Connector>,
    /// Used instead of the connector if no other one was set, because it can try one address after
    /// the other.
    sockets: Option<SocketConnector>,
    /// Whether the connector is a built-in one, which opens tokio sockets.
    opens_sockets: bool,
    tls: Option<Tls>,
}

/// The parts that the user has set.
#[derive(Clone, Default)]
pub(crate) struct TransportBuilder {
    pub(crate) connector: Option<Arc<dyn Connector>>,
    pub(crate) tls: Option<Tls>,
    /// The TLS of the client's topology: pools use the files that its monitors have read.
    pub(crate) topology_tls: Option<Tls>,
}

impl TransportBuilder {
    /// The layers that the options ask for.
    ///
    /// # Errors
    /// The options are not supported by this build or version, or contradict each other.
    pub(crate) fn build(self, options: &ClientOptions) -> Result<Transport> {
        let opens_sockets = self.connector.is_none();
        let is_direct = opens_sockets && options.proxy.is_none();
        let connector: Arc<dyn Connector> = match (self.connector, &options.proxy) {
            (Some(own), _) => own,
            (None, Some(proxy)) => Arc::new(ProxyConnector::new(proxy.clone())?),
            (None, None) => Arc::new(SocketConnector::new()),
        };
        let is_secure = guard(CONNECTOR, || connector.is_secure()).map_err(not_connected)?;
        let tls = match self.tls {
            Some(_) if !options.uses_tls() => {
                return Err(Error::configuration(
                    "a custom TLS configuration needs `tls=true`",
                ));
            }
            Some(_) if options.tls.implied() => {
                return Err(Error::configuration(
                    "a custom TLS configuration can't be combined with TLS options other than `tls`",
                ));
            }
            Some(own) => Some(own),
            None if !options.uses_tls() || is_secure => None,
            None => match self.topology_tls {
                Some(tls) if tls.is_of(&options.tls) => Some(tls),
                Some(_) | None => Some(Tls::from_options(&options.tls)?),
            },
        };
        Ok(Transport {
            connector,
            sockets: is_direct.then(SocketConnector::new),
            opens_sockets,
            tls,
        })
    }
}

impl Transport {
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Whether TLS runs on top of the connector's streams.
    pub(super) fn secures(&self) -> bool {
        self.tls.is_some()
    }

    /// Checks, as far as possible beforehand, that connections can be made on the current runtime,
    /// and returns that runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`]: there is no runtime, it has no timer, or no I/O driver and the
    /// connector needs one.
    pub(crate) fn runtime(&self) -> Result<Handle> {
        let runtime = runtime::current()?;
        if self.opens_sockets {
            runtime::check_io()?;
        }
        Ok(runtime)
    }

    /// Runs the connector, to an address of the host that was not tried yet. It
    /// [reports](connector::telling) what it waits for.
    pub(super) async fn connect(
        &self,
        address: &ServerAddress,
        untried: &mut Untried,
    ) -> Result<Stream> {
        let wait = guard(CONNECTOR, || self.connector.waits_for());
        connector::waits_for(wait.unwrap_or(Wait::Connect));
        if let Some(sockets) = &self.sockets {
            return sockets.connect_untried(address, untried).await;
        }
        guard_async(CONNECTOR, || self.connector.connect(address))
            .await
            .map_err(not_connected)?
    }

    /// Does the TLS handshake, if TLS is enabled.
    pub(super) async fn secure(&self, stream: Stream, address: &ServerAddress) -> Result<Stream> {
        let Some(tls) = &self.tls else {
            return Ok(stream);
        };
        // An application's `rustls::ClientConfig` has callbacks.
        let secured = guard_async(TLS_CONFIG, || Box::pin(tls.secure(stream, address)));
        let secured = secured.await.map_err(not_connected)?;
        if let Err(error) = &secured {
            self.note_failure(error).await;
        }
        secured
    }

    /// An attempt has failed. If TLS was the cause, the certificate files may have been renewed.
    pub(super) async fn note_failure(&self, error: &Error) {
        if let (Some(tls), ErrorKind::Tls(_)) = (&self.tls, error.kind()) {
            tls.renew().await;
        }
    }

    /// Connects, then does the TLS handshake. Calls `enter` with each wait.
    pub(super) async fn open(
        &self,
        address: &ServerAddress,
        untried: &mut Untried,
        enter: &mut (dyn FnMut(Wait) + Send),
    ) -> Result<Stream> {
        loop {
            let stream = {
                let connecting = pin!(self.connect(address, untried));
                connector::telling(connecting, &mut *enter).await?
            };
            if self.secures() {
                enter(Wait::Tls);
            }
            match self.secure(stream, address).await {
                Err(error) if untried.is_left_after(&error) => {}
                secured => return secured,
            }
        }
    }
}

/// A panic in application code counts as a failure to connect.
fn not_connected(panicked: Panicked) -> Error {
    ErrorKind::Connect(Arc::new(panicked.into_io())).into()
}
