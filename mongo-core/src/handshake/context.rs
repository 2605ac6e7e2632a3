//! The settings of a handshake.

use std::sync::Arc;

use bson::raw::RawDocumentBuf;

use super::ServerApi;
use crate::auth::{Credential, Nonces, Secret};
use crate::wire::Compressor;

/// The settings of a handshake.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HandshakeContext {
    /// The `client` document: [`ClientMetadata::document`](super::ClientMetadata::document). `None`
    /// on a connection that has already sent it: a server accepts it only once.
    pub metadata: Option<Arc<RawDocumentBuf>>,
    /// The credential to authenticate with. `None` for connections that don't authenticate, such as
    /// a monitor's.
    pub credential: Option<Arc<Credential>>,
    /// The cached access token, if the credential needs one. It is sent with the hello.
    pub access_token: Option<Secret>,
    /// The stable API, if it is used.
    pub server_api: Option<ServerApi>,
    /// Whether a load balancer is in front of the servers (`loadBalanced`).
    pub load_balanced: bool,
    /// The replica set that the server must belong to (`replicaSet`). `None` accepts any server.
    pub replica_set: Option<Arc<str>>,
    /// Whether the legacy hello is sent as OP_QUERY. Servers before 3.6 need that, so that the
    /// client can report that they are too old. The command `hello` is never sent as OP_QUERY.
    pub legacy_op_query: bool,
    /// The compressors to offer, in order of preference, limited to those that this build
    /// [has](Compressor::is_built_in). Empty by default.
    pub compressors: Vec<Compressor>,
    /// The nonces, used only for this connection.
    pub nonces: Nonces,
}

impl HandshakeContext {
    /// A handshake without a credential, stable API or load balancer.
    pub fn new(metadata: impl Into<Arc<RawDocumentBuf>>, nonces: Nonces) -> Self {
        Self {
            metadata: Some(metadata.into()),
            credential: None,
            access_token: None,
            server_api: None,
            load_balanced: false,
            replica_set: None,
            legacy_op_query: false,
            compressors: Vec::new(),
            nonces,
        }
    }
}
