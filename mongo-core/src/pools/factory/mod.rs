use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bson::oid::ObjectId;

use super::follow::Floating;
use super::pool::{CheckBudget, PoolInner};
use crate::error::Result;
use crate::handshake::DriverInfo;
use crate::net::{Connection, Deadline};
use crate::uri::ClientOptions;

mod adapter;
mod builder;

pub use builder::ConnectionFactoryBuilder;
pub(super) use builder::only_host;

/// Makes and checks the connections of one pool: for one credential, and for one server or the
/// servers that a criterion selects.
///
/// Both adapters' managers are thin wrappers around this, so that connections behave the same on
/// either backend. By default it serves the first host of its options, as with
/// `directConnection=true`; with `loadBalanced=true` that is the load balancer, and each connection
/// is to one of its services. A factory that [floats](ConnectionFactoryBuilder::floating) over a
/// topology follows failovers.
///
/// Cloning is cheap; clones are the same factory.
#[derive(Clone)]
pub struct ConnectionFactory {
    source: Source,
}

#[derive(Clone)]
enum Source {
    Fixed(Arc<Owned>),
    Floating(Arc<Floating>),
}

/// Ends the pool with the last factory. Available connections hold the `PoolInner` that holds them:
/// without this, the cycle would leak.
struct Owned(Arc<PoolInner>);

impl Deref for Owned {
    type Target = Arc<PoolInner>;

    fn deref(&self) -> &Arc<PoolInner> {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.end();
    }
}

impl ConnectionFactory {
    /// A builder over client options, from [`ClientOptions::parse`], or from
    /// [`resolve`](crate::net::resolve) for `mongodb+srv`: a factory looks nothing up, except
    /// through the topology of one that [floats](ConnectionFactoryBuilder::floating).
    pub fn builder(options: ClientOptions) -> ConnectionFactoryBuilder {
        ConnectionFactoryBuilder::new(options)
    }

    /// Waits for a connection: a new one (transport, handshake, authentication), an available one, or
    /// one that is [offered](Self::offer), whichever comes first. Callers are served first in, first
    /// out.
    ///
    /// The attempt to make one runs in its own task, within `connectTimeoutMS` (default 10 s); the
    /// deadline bounds only the wait.
    ///
    /// # Cancellation
    /// May be dropped at any time. The attempt continues, and its connection is kept for the next
    /// caller; it ends with the pool, or when the pool is cleared.
    ///
    /// # Errors
    /// By the step that failed: [`ErrorKind::Dns`](crate::ErrorKind::Dns),
    /// [`ErrorKind::Connect`](crate::ErrorKind::Connect),
    /// [`ErrorKind::Tls`](crate::ErrorKind::Tls),
    /// [`ErrorKind::Credential`](crate::ErrorKind::Credential),
    /// [`ErrorKind::Handshake`](crate::ErrorKind::Handshake),
    /// [`ErrorKind::Authentication`](crate::ErrorKind::Authentication),
    /// [`ErrorKind::Network`](crate::ErrorKind::Network),
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol), or a
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) that names the phase; always with the
    /// server and the user. [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) outside
    /// of a Tokio runtime, or on one that lacks the timer or the I/O driver that it needs.
    /// [`ErrorKind::PoolCleared`](crate::ErrorKind::PoolCleared) or
    /// [`ErrorKind::PoolClosed`](crate::ErrorKind::PoolClosed) if its pool was cleared or closed.
    pub async fn establish(&self, deadline: Deadline) -> Result<Connection> {
        self.establish_within(deadline, &mut CheckBudget::default())
            .await
    }

    /// Attaches the generic pool that this factory serves, of at most `max_size` connections,
    /// pending ones included. Callers wait for room in [`establish`](Self::establish).
    ///
    /// `take_idle` takes an idle connection out of the generic pool, and must not call the factory.
    /// A caller that begins to wait in [`establish`](Self::establish) tries it once more, because a
    /// connection may have been returned since the generic pool was tried. With `times_idleness`,
    /// [`idle_since`](Connection::idle_since) of new connections is updated whatever the
    /// configuration: for a generic pool that closes idle connections by itself.
    ///
    /// A factory that floats uses only `times_idleness`: the generic pool alone limits it.
    pub fn attach(
        &self,
        max_size: u32,
        times_idleness: bool,
        take_idle: impl Fn() -> Option<Connection> + Send + Sync + 'static,
    ) {
        let updates_idleness = match &self.source {
            Source::Fixed(shared) => {
                let _ = shared.idle_source.set(Box::new(take_idle));
                &shared.establisher.times_idleness
            }
            Source::Floating(floating) => floating.times_idleness(),
        };
        updates_idleness.fetch_or(times_idleness, Ordering::Relaxed);
        self.set_max_size(max_size);
    }

    /// Whether a caller waits in [`establish`](Self::establish), which a connection that is
    /// [offered](Self::offer) would serve.
    #[inline]
    pub fn has_waiters(&self) -> bool {
        // The callers of a factory that floats don't wait for returned connections: only the generic
        // pool limits them.
        let fixed = self.fixed();
        fixed.is_some_and(|shared| shared.queue.has_waiters())
    }

    /// Hands a connection to the caller that has waited longest in [`establish`](Self::establish).
    /// If no caller waits, it is kept for the next one.
    pub fn offer(&self, connection: Connection) {
        if let Some(shared) = self.fixed() {
            shared.offer(connection);
        }
    }

    /// Checks an idle connection that is about to be handed out, and drains outstanding replies, by
    /// the deadline and within the budget of the check-out.
    ///
    /// # Errors
    /// Why it must not be handed out. The connection is then closed. If this future is dropped, the
    /// connection is as safe as one whose command was cancelled.
    pub async fn recycle(
        &self,
        connection: &mut Connection,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Result<()> {
        match &self.source {
            Source::Fixed(shared) => shared.recycle(connection, deadline, budget).await,
            Source::Floating(floating) => floating.recycle(connection, deadline, budget).await,
        }
    }

    /// The result of [`recycle`](Self::recycle) if it needs no I/O; `None` if it does. Reads the
    /// clock only if there is a bound to compare with.
    pub fn recycle_now(&self, connection: &mut Connection) -> Option<Result<()>> {
        match &self.source {
            Source::Fixed(shared) => shared.recycle_now(connection),
            Source::Floating(floating) => floating.recycle_now(connection),
        }
    }

    /// Whether an idle connection may be kept: it is neither stale nor too old, and the pool is
    /// open. For a generic pool that inspects its idle connections.
    pub fn should_retain(&self, connection: &Connection) -> bool {
        match &self.source {
            Source::Fixed(shared) => shared.should_retain(connection),
            Source::Floating(_) => !connection.is_stale() && !connection.is_closed(),
        }
    }

    /// Closes the factory for good: it makes no more connections, callers that wait get
    /// [`ErrorKind::PoolClosed`](crate::ErrorKind::PoolClosed), attempts are interrupted, and
    /// existing connections become stale. May be called from anywhere.
    pub fn close(&self) {
        match &self.source {
            Source::Fixed(shared) => shared.shut(),
            Source::Floating(floating) => floating.shut(),
        }
    }

    /// Begins a new generation: connections made before are not handed out again. With a `service`,
    /// only those to that service behind a load balancer.
    ///
    /// Specification: connection monitoring and pooling; load balancers.
    pub fn clear(&self, service: Option<ObjectId>) {
        match (&self.source, service) {
            (Source::Fixed(shared), None) => shared.clear(),
            (Source::Fixed(shared), Some(id)) => shared.clear_service(id),
            (Source::Floating(floating), None) => floating.clear(),
            (Source::Floating(floating), Some(id)) => floating.clear_service(id),
        }
    }

    /// Appends the metadata of a library that wraps this client to the `client` document of
    /// handshakes. Only connections made from now on send it. Returns whether it was appended:
    /// metadata that was appended before is not appended twice.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration): it contains a `|`, or the
    /// names and versions would no longer fit into 512 bytes. Nothing is appended then.
    ///
    /// Specification: handshake, "Metadata updates after MongoClient initialization".
    pub fn append_metadata(&self, driver_info: DriverInfo) -> Result<bool> {
        let metadata = match &self.source {
            Source::Fixed(shared) => &shared.establisher.metadata,
            Source::Floating(floating) => floating.metadata(),
        };
        metadata.append([driver_info])
    }

    /// The pool; `None` for a factory that floats.
    #[inline]
    fn fixed(&self) -> Option<&Arc<PoolInner>> {
        match &self.source {
            Source::Fixed(shared) => Some(shared),
            Source::Floating(_) => None,
        }
    }

    /// The user of the credential, if there is one.
    fn user(&self) -> Option<&str> {
        match &self.source {
            Source::Fixed(shared) => shared.user(),
            Source::Floating(floating) => floating.user().map(|user| &**user),
        }
    }
}

impl From<Arc<PoolInner>> for ConnectionFactory {
    fn from(shared: Arc<PoolInner>) -> Self {
        let source = Source::Fixed(Arc::new(Owned(shared)));
        Self { source }
    }
}

impl fmt::Debug for ConnectionFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionFactory")
            .field("server", &self.fixed().map(|shared| shared.server()))
            .field("user", &self.user())
            .finish_non_exhaustive()
    }
}
