//! The shell: the only place with sockets, timers and tasks.
//!
//! It is thin. What a connection may do next is decided by [`crate::wire::Exchange`], what a
//! handshake sends by [`crate::handshake::Handshake`]; the shell moves their bytes and holds them
//! to a [`Deadline`].

mod authenticator;
mod channel;
mod connection;
mod connector;
mod conversing;
mod deadline;
mod dispatcher;
mod dns;
mod establish;
mod generations;
mod keys;
mod life;
mod monitor;
mod oidc;
mod on_demand;
mod proxy;
mod reply;
mod single;
mod stream;
mod tls;
mod together;
mod topology;
mod transport;

pub use authenticator::CredentialProvider;
pub(crate) use authenticator::{AuthParts, Authenticator};
pub use connection::Connection;
pub use connector::{Connector, SocketConnector};
pub use deadline::{Deadline, Elapsed};
#[cfg(feature = "dns")]
pub use dns::HickoryResolver;
pub use dns::{DnsResolver, resolve, system_random};
pub(crate) use establish::{Compression, Establisher};
pub(crate) use generations::Generations;
pub use keys::{BlockingExecutor, KeyService, TokioBlocking};
pub use oidc::{AccessToken, KubernetesTokens, OidcCallback, OidcRequest};
pub use on_demand::{OnDemandTopology, OnDemandTopologyBuilder};
pub use proxy::ProxyConnector;
pub use reply::Reply;
pub use single::SingleClient;
pub use stream::{AsyncStream, Stream};
#[cfg(feature = "tls-rustls")]
pub use tls::Tls;
pub use topology::{ClusterTime, SelectedServer, Topology, TopologyBuilder};
pub(crate) use transport::{Transport, TransportBuilder};

use crate::handshake::Environment;

/// The environment of this process.
pub(crate) const PROCESS: Environment<'static> = Environment {
    variable: &|name| std::env::var(name).ok(),
    file_exists: &|path| std::path::Path::new(path).exists(),
};
