use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connector::{Connector, SocketConnector};
use super::stream::Stream;
use crate::ServerAddress;
use crate::error::{Error, ErrorKind, Result, Wait};
use crate::socks5::{Negotiation, ProxyError, ProxyProblem};
use crate::uri::ProxyOptions;

/// TCP through a SOCKS5 proxy; Unix domain sockets directly.
///
/// The server's host name is sent to the proxy, which looks it up. A failure of the proxy is
/// [`ErrorKind::Proxy`], which names the proxy. It never counts as a sign of an overloaded server.
///
/// Specification: SOCKS5 support.
#[derive(Clone, Debug)]
pub struct ProxyConnector {
    sockets: SocketConnector,
    proxy: ProxyOptions,
    /// The proxy's name in errors.
    name: Arc<str>,
}

impl ProxyConnector {
    /// Creates a connector that uses a proxy.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if the user name or the password is empty or longer than 255
    /// bytes.
    pub fn new(proxy: ProxyOptions) -> Result<Self> {
        // The credential is validated for any server.
        Negotiation::new("", 0, proxy.credential.as_ref())
            .map_err(|problem| Error::configuration(format!("proxy: {problem}")))?;
        let address = ServerAddress::tcp(&proxy.host, proxy.port);
        Ok(Self {
            sockets: SocketConnector::new(),
            name: address.to_string().into(),
            proxy,
        })
    }

    async fn tunnel(&self, host: &str, port: u16) -> Result<TcpStream, ProxyProblem> {
        let credential = self.proxy.credential.as_ref();
        let mut negotiation = Negotiation::new(host, port, credential)?;
        let bare = self.proxy.host.trim_matches(['[', ']']);
        let connected = self.sockets.connect_tcp(bare, self.proxy.port).await;
        let mut stream = connected.map_err(|error| ProxyProblem::Connect(Arc::new(error)))?;
        let failed = |error: io::Error| ProxyProblem::Network(Arc::new(error));
        let mut buf = [0; Negotiation::MAX_WANTED];
        loop {
            stream
                .write_all(negotiation.output())
                .await
                .map_err(failed)?;
            let answer = &mut buf[..negotiation.wanted()];
            stream.read_exact(answer).await.map_err(failed)?;
            if negotiation.handle(answer)? {
                return Ok(stream);
            }
        }
    }
}

#[async_trait]
impl Connector for ProxyConnector {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream> {
        match address {
            ServerAddress::Tcp { host, port } => {
                let tunnel = self.tunnel(host, *port).await;
                tunnel.map(Stream::Tcp).map_err(|problem| {
                    let proxy = self.name.clone();
                    Error::new(ErrorKind::Proxy(ProxyError { proxy, problem }))
                })
            }
            ServerAddress::Unix { .. } => self.sockets.connect(address).await,
        }
    }

    fn waits_for(&self) -> Wait {
        Wait::Proxy
    }
}
