//! Notifications of a topology to its pools.

use bson::oid::ObjectId;

use crate::ServerAddress;
use crate::error::Error;
use crate::select::SelectionIndex;

/// Manages the pools of a topology.
///
/// All but [`settle`](Self::settle) are called under the topology's lock, in the order in which
/// things happen: they must not block, call handlers, wake tasks, or drop a reference that may be
/// the last one. Such work is left to `settle`, which is called without a lock soon after. The
/// topology also drops its references to a listener without a lock.
pub(crate) trait TopologyListener: Send + Sync {
    /// A server was checked successfully: its pools may hand out connections. Called before the
    /// server can be selected.
    fn ready(&self, server: &ServerAddress);

    /// The pools of a server are cleared: its connections are stale, and its pools pause. Behind a
    /// load balancer only connections to one service are stale, and no pool pauses. Called after
    /// the server has become unknown.
    fn clear(&self, clear: &Clear<'_>);

    /// A server is no longer part of the topology.
    fn remove(&self, server: &ServerAddress, removal: Removal);

    /// Selections use this snapshot from now on.
    fn published(&self, index: &SelectionIndex);

    /// Does the deferred work of the previous notifications.
    fn settle(&self);
}

/// Why a server is no longer part of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// It left the deployment, by its own answer or because a new primary does not list it.
    Left,
    /// The SRV records no longer list it. The server itself reported nothing.
    Unlisted,
    /// The topology was disconnected or closed: the server is no longer known.
    Disconnected,
}

/// Which pools are cleared, and how.
pub(crate) struct Clear<'a> {
    pub(crate) server: &'a ServerAddress,
    pub(crate) service_id: Option<ObjectId>,
    pub(crate) interrupt_in_use: bool,
    /// The cause: the failure of the server, or of a connection to it.
    pub(crate) error: Option<&'a Error>,
}
