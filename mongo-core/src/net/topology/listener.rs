//! What pools over a topology are told.

use bson::oid::ObjectId;

use crate::ServerAddress;
use crate::error::Error;
use crate::select::SelectionIndex;

/// Keeps pools over a topology.
///
/// All but [`settle`](Self::settle) are called under the topology's lock, in the order in which
/// things happen: they must not block, call handlers, wake tasks, or drop anything that may be the last of its
/// kind. What follows is for `settle`, which is called without a lock, soon after. The topology
/// drops its own references to a listener without a lock too.
pub(crate) trait TopologyListener: Send + Sync {
    /// A server was found good: its pools may hand out connections. Before it can be selected.
    fn ready(&self, server: &ServerAddress);

    /// What was known of a server is no longer true: its connections are stale, and its pools pause;
    /// behind a load balancer only those to one service, without a pause. After the server has
    /// become unknown.
    fn clear(&self, clear: &Clear<'_>);

    /// A server is no longer part of the topology.
    fn remove(&self, server: &ServerAddress, removal: Removal);

    /// Selections see this from now on.
    fn published(&self, index: &SelectionIndex);

    /// Does what is left to do of all that was told before.
    fn settle(&self);
}

/// Why a server is no longer part of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// It left the deployment, by its own answer or because a new primary does not list it.
    Left,
    /// The SRV records name it no more. Nothing was heard from the server itself.
    Unlisted,
    /// The topology was disconnected or closed: nothing is known of the server any more.
    Disconnected,
}

/// Of which server's pools, and how.
pub(crate) struct Clear<'a> {
    pub(crate) server: &'a ServerAddress,
    pub(crate) service_id: Option<ObjectId>,
    pub(crate) interrupt_in_use: bool,
    /// What it is cleared for: the server's own failure, or that of a connection to it.
    pub(crate) error: Option<&'a Error>,
}
