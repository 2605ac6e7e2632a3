use std::sync::Arc;

use super::connector::{Connector, SocketConnector};
use super::proxy::ProxyConnector;
use super::stream::Stream;
use super::tls::Tls;
use crate::ServerAddress;
use crate::error::{Error, Result, Wait};
use crate::uri::ClientOptions;

/// How servers are reached, in layers: a connector opens a stream, and TLS goes on top of it.
#[derive(Clone)]
pub(crate) struct Transport {
    connector: Arc<dyn Connector>,
    tls: Option<Tls>,
}

/// What a user brings of it.
#[derive(Clone, Default)]
pub(crate) struct TransportBuilder {
    pub(crate) connector: Option<Arc<dyn Connector>>,
    pub(crate) tls: Option<Tls>,
}

impl TransportBuilder {
    /// The layers that the options ask for.
    ///
    /// # Errors
    /// What they ask for and this build, or this version, can't do; what contradicts itself.
    pub(crate) fn build(self, options: &ClientOptions) -> Result<Transport> {
        let connector: Arc<dyn Connector> = match (self.connector, &options.proxy) {
            (Some(own), _) => own,
            (None, Some(proxy)) => Arc::new(ProxyConnector::new(proxy.clone())?),
            (None, None) => Arc::new(SocketConnector::new()),
        };
        let tls = match self.tls {
            Some(_) if !options.uses_tls() => {
                return Err(Error::configuration(
                    "a TLS configuration of your own, but no `tls=true`",
                ));
            }
            Some(_) if options.tls.implied() => {
                return Err(Error::configuration(
                    "another option of TLS than `tls` beside a TLS configuration of your own",
                ));
            }
            Some(own) => Some(own),
            None if !options.uses_tls() || connector.is_secure() => None,
            None => Some(Tls::from_options(&options.tls)?),
        };
        Ok(Transport { connector, tls })
    }
}

impl Transport {
    /// Whether there is TLS on top of what the connector opens.
    pub(super) fn secures(&self) -> bool {
        self.tls.is_some()
    }

    /// The connector's part.
    pub(super) async fn connect(&self, address: &ServerAddress) -> Result<Stream> {
        self.connector.connect(address).await
    }

    /// The part of TLS, if there is one.
    pub(super) async fn secure(&self, stream: Stream, address: &ServerAddress) -> Result<Stream> {
        match &self.tls {
            Some(tls) => tls.secure(stream, address).await,
            None => Ok(stream),
        }
    }

    /// Both, one after the other. `enter` is told what is waited for.
    pub(super) async fn open(
        &self,
        address: &ServerAddress,
        mut enter: impl FnMut(Wait),
    ) -> Result<Stream> {
        enter(self.connector.waits_for());
        let stream = self.connect(address).await?;
        if self.secures() {
            enter(Wait::Tls);
        }
        self.secure(stream, address).await
    }
}
