//! The shell: the only place with sockets, timers and tasks.
//!
//! It is thin. What a connection may do next is decided by [`crate::wire::Exchange`], what a
//! handshake sends by [`crate::handshake::Handshake`]; the shell moves their bytes and holds them
//! to a [`Deadline`].

mod authenticator;
mod aws;
mod background;
mod channel;
mod connect_clock;
mod connection;
mod connector;
mod conversing;
mod deadline;
mod dispatcher;
mod dns;
mod establish;
mod generations;
#[cfg(feature = "cloud-credentials")]
mod http;
mod keys;
mod metadata;
mod monitor;
mod oidc;
mod on_demand;
mod proxy;
mod reply;
mod runtime;
mod single;
mod stream;
mod suspicion;
mod tie;
mod tls;
mod together;
mod topology;
mod transport;

pub use authenticator::CredentialProvider;
pub(crate) use authenticator::{AuthParts, Authenticator};
pub use aws::{AwsCredentialProvider, AwsSources};
pub(crate) use background::{Alive, Home, Tasks, is_running};
pub use connection::Connection;
pub(crate) use connection::Identity;
pub use connector::{Connector, SocketConnector};
pub(crate) use deadline::sleep_until;
pub use deadline::{Deadline, Elapsed};
pub(crate) use dispatcher::Dispatcher;
#[cfg(feature = "dns")]
pub use dns::HickoryResolver;
pub use dns::{DnsResolver, resolve, system_random};
pub(crate) use establish::{Compression, Establisher, Failed, Service};
pub(crate) use generations::Generations;
pub use keys::{BlockingExecutor, KeyService, TokioBlocking};
pub(crate) use metadata::Metadata;
pub use oidc::{AccessToken, KubernetesTokens, OidcCallback, OidcRequest};
#[cfg(feature = "cloud-credentials")]
pub use oidc::{AzureTokens, GcpTokens};
pub use on_demand::{OnDemandTopology, OnDemandTopologyBuilder};
pub use proxy::ProxyConnector;
pub use reply::{OwnedReply, Reply};
pub(crate) use runtime::current as current_runtime;
pub use single::SingleClient;
pub use stream::{AsyncStream, Stream};
pub(crate) use tie::{Interrupted, Link, Owner, Tie};
#[cfg(feature = "tls-rustls")]
pub use tls::Tls;
pub(crate) use together::Together;
pub(crate) use topology::Shared as TopologyShared;
pub(crate) use topology::{Clear, Removal, TopologyListener};
pub use topology::{ClusterTime, SelectedServer, Topology, TopologyBuilder};
pub(crate) use transport::{Transport, TransportBuilder};

use crate::handshake::Environment;

/// The environment of this process.
pub(crate) const PROCESS: Environment<'static> = Environment {
    variable: &|name| std::env::var(name).ok(),
    file_exists: &|path| std::path::Path::new(path).exists(),
};

/// A text as a part of a URL.
#[cfg(feature = "cloud-credentials")]
fn encoded(text: &str) -> percent_encoding::PercentEncode<'_> {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

    /// All but the unreserved characters of RFC 3986.
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    utf8_percent_encode(text, RESERVED)
}
