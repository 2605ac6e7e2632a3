//! The shell: the only place with sockets, timers and tasks.
//!
//! The shell is thin. [`crate::wire::Exchange`] decides what a connection may do next, and
//! [`crate::handshake::Handshake`] decides what a handshake sends. The shell moves their bytes and
//! enforces a [`Deadline`].

mod auth;
mod background;
mod connection;
mod deadline;
mod dispatcher;
mod operation;
mod runtime;
mod setters;
mod single;
mod topology;
mod transport;

pub use auth::authenticator::CredentialProvider;
pub(crate) use auth::authenticator::{AuthParts, Authenticator};
pub use auth::aws::{AwsCredentialProvider, AwsSources};
pub use auth::keys::{BlockingExecutor, KeyService, TokioBlocking};
pub use auth::oidc::{AccessToken, KubernetesTokens, OidcCallback, OidcRequest};
#[cfg(feature = "cloud-credentials")]
pub use auth::oidc::{AzureTokens, GcpTokens};
pub(crate) use background::{Alive, Home, Tasks, is_running};
pub use connection::Connection;
pub(crate) use connection::Identity;
pub(crate) use connection::compression::Compression;
pub(crate) use connection::establish::{Establisher, Failed, Service};
pub(crate) use connection::generations::Generations;
pub(crate) use connection::metadata::Metadata;
pub(crate) use connection::on_connect::OnConnect;
pub use connection::on_connect::{ConnectFuture, ConnectHook};
pub(crate) use connection::pool_handle::{ConnectionState, Interrupted, PoolHandle, PoolHooks};
pub use connection::reply::{OwnedReply, Reply};
pub(crate) use deadline::sleep_until;
pub use deadline::{Deadline, Elapsed};
pub(crate) use dispatcher::Dispatcher;
pub(crate) use operation::attempt::Prepared;
pub use operation::connection::{ConnectionCursor, OnConnection};
pub use operation::cursor::BatchCursor;
pub(crate) use operation::cursor::{CursorLimits, CursorSource};
pub(crate) use operation::{Limits, jitter, random_id, wait, was_sent};
pub(crate) use runtime::current as current_runtime;
pub(crate) use setters::{auth_setters, connect_setters, selection_setters, transport_setters};
pub use single::SingleClient;
pub use single::on_demand::{OnDemandTopology, OnDemandTopologyBuilder};
pub(crate) use topology::{Clear, Removal, Shared as TopologyShared, TopologyListener};
pub use topology::{SelectedServer, Topology, TopologyBuilder};
pub use transport::connector::{Connector, SocketConnector};
#[cfg(feature = "dns")]
pub use transport::dns::HickoryResolver;
pub use transport::dns::{DnsResolver, resolve, system_random};
pub use transport::proxy::ProxyConnector;
pub use transport::stream::{AsyncStream, Stream};
#[cfg(feature = "tls-rustls")]
pub use transport::tls::Tls;
pub(crate) use transport::together::Together;
pub(crate) use transport::{Transport, TransportBuilder};

use crate::handshake::Environment;
pub use crate::operation::ClusterTime;

/// The environment of this process.
pub(crate) const PROCESS: Environment<'static> = Environment {
    variable: &|name| std::env::var(name).ok(),
    file_exists: &|path| std::path::Path::new(path).exists(),
};

/// Percent-encodes a text for use in a URL.
#[cfg(feature = "cloud-credentials")]
fn encoded(text: &str) -> percent_encoding::PercentEncode<'_> {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

    /// All characters except the unreserved ones of RFC 3986.
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    utf8_percent_encode(text, RESERVED)
}
