use std::fmt;
use std::future::pending;
use std::ops::Deref;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bson::oid::ObjectId;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::config::RecyclingMethod;
use crate::ServerAddress;
use crate::error::{Error, InUse, Result, Wait};
use crate::net::{Connection, Deadline, Establisher, TopologyShared};
use crate::uri::ClientOptions;

mod attempt;
mod builder;
mod counters;
mod floating;
mod gate;
mod links;
mod make;
mod owner;
mod recycle;
mod slots;

pub use builder::ConnectionFactoryBuilder;
pub(super) use builder::{Place, Template};
pub(super) use counters::Counters;
pub use counters::{ClosedConnections, PinReason, WAIT_TIME_BOUNDS, WaitTimes};
use floating::Floating;
use gate::Gate;
pub(super) use gate::GateLimits;
pub use gate::PoolState;
use links::Links;
use make::Asker;
pub(super) use owner::Paused;
pub use recycle::CheckBudget;
pub(super) use slots::{Caps, ServerSlots};

/// Makes and checks the connections of one pool: one credential, and one server or whichever a
/// criterion selects.
///
/// Both adapters' managers are thin translations of this, so that a connection means the same on
/// either backend. By default it serves the first host of its options, as with
/// `directConnection=true`; with `loadBalanced=true` that is the load balancer, and each connection
/// is to one of its services. One that [floats](ConnectionFactoryBuilder::floating) over a topology
/// follows a failover by itself.
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

/// What the factory's owners hold. The connections that lie in it hold it too: without this they
/// would keep each other for ever.
struct Owned(Arc<Shared>);

impl Deref for Owned {
    type Target = Arc<Shared>;

    fn deref(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// What a factory and its connections have in common.
pub(super) struct Shared {
    establisher: Establisher,
    recycling_method: RecyclingMethod,
    max_idle_time: Option<Duration>,
    max_lifetime: Option<Duration>,
    next_id: AtomicU64,
    last_failure: Mutex<Option<Failure>>,
    gate: Mutex<Gate<Asker, Connection>>,
    /// How many wait at the gate, for those who only want to know that.
    asking: AtomicUsize,
    /// One of those who wait keeps the time of the pauses, for all.
    timekeeper: Semaphore,
    /// Told when the next attempt is to wait for longer.
    paced: Notify,
    slots: Option<Arc<ServerSlots>>,
    takes_writes: Arc<AtomicBool>,
    topology: Option<Arc<TopologyShared>>,
    /// Whether errors clear it though there is no topology that says so.
    clears_itself: bool,
    links: Links,
    pub(super) counters: Counters,
    /// As the gate says.
    is_ready: AtomicBool,
    /// Told when all who wait have to look whether there is anything to wait for still.
    stirred: Notify,
    /// Closes the idle connections that are not to be kept, where somebody has a pool of them.
    sweeper: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Told when there may be too few connections.
    wake: Option<Arc<Notify>>,
    this: Weak<Shared>,
}

/// Ends when nobody wants a connection any more that is asked for.
type Unwanted<'a> = Pin<&'a mut (dyn Future<Output = ()> + Send)>;

struct Failure {
    at: Instant,
    error: Error,
}

impl ConnectionFactory {
    /// A builder over client options, such as [`ClientOptions::parse`] gives, or
    /// [`resolve`](crate::net::resolve) for `mongodb+srv`: nothing is looked up here.
    pub fn builder(options: ClientOptions) -> ConnectionFactoryBuilder {
        ConnectionFactoryBuilder::new(options)
    }

    /// Makes one connection: transport, handshake, authentication. Or takes one that is there and
    /// in nobody's hands, because it was made in advance, or is given back meanwhile.
    ///
    /// Bounded by `connectTimeoutMS` (default 10 s) and by the deadline, whichever is earlier.
    /// Dropped meanwhile, it leaves nothing behind.
    ///
    /// # Errors
    /// By what failed: [`ErrorKind::Dns`](crate::ErrorKind::Dns),
    /// [`ErrorKind::Connect`](crate::ErrorKind::Connect), [`ErrorKind::Tls`](crate::ErrorKind::Tls),
    /// [`ErrorKind::Credential`](crate::ErrorKind::Credential),
    /// [`ErrorKind::Handshake`](crate::ErrorKind::Handshake),
    /// [`ErrorKind::Authentication`](crate::ErrorKind::Authentication),
    /// [`ErrorKind::Network`](crate::ErrorKind::Network),
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol), or a
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) that names the phase; always with the
    /// server and the user. [`ErrorKind::PoolCleared`](crate::ErrorKind::PoolCleared) or
    /// [`ErrorKind::PoolClosed`](crate::ErrorKind::PoolClosed) where its pool makes none.
    pub async fn establish(&self, deadline: Deadline) -> Result<Connection> {
        self.establish_unless(deadline, pending()).await
    }

    /// A connection that is there and in nobody's hands. No I/O.
    pub fn take_spare(&self) -> Option<Connection> {
        match &self.source {
            Source::Fixed(shared) => shared.take_spare(),
            Source::Floating(_) => None,
        }
    }

    /// Whether somebody in [`establish`](Self::establish) would take a connection that is given
    /// back. For a generic pool whose waiters are past its own queue.
    #[inline]
    pub fn is_asked(&self) -> bool {
        match &self.source {
            Source::Fixed(shared) => shared.asking.load(Ordering::Acquire) > 0,
            // Nobody waits for leave: the generic pool alone bounds how many are made.
            Source::Floating(_) => false,
        }
    }

    /// Gives a connection to who waits longest in [`establish`](Self::establish); nobody waits, it
    /// is kept for the next one who asks.
    pub fn offer(&self, connection: Connection) {
        match &self.source {
            Source::Fixed(shared) => shared.offer(connection),
            Source::Floating(_) => drop(connection),
        }
    }

    /// Checks an idle connection that is about to be handed out, and reads away what it owes, by the
    /// deadline and within what the budget of the check-out has left.
    ///
    /// # Errors
    /// Why it must not be handed out. The connection is closed then. Dropped meanwhile, the
    /// connection stays as safe as any whose command was cancelled.
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

    /// The verdict of [`recycle`](Self::recycle) where it takes no I/O; `None` where it does. Reads
    /// the clock only if there is a bound to compare with.
    pub fn recycle_now(&self, connection: &mut Connection) -> Option<Result<()>> {
        match &self.source {
            Source::Fixed(shared) => shared.recycle_now(connection),
            Source::Floating(floating) => floating.recycle_now(connection),
        }
    }

    /// [`establish`](Self::establish), unless `unwanted` ends before it is this one's turn. For a
    /// generic pool whose attempts outlive their callers.
    ///
    /// # Errors
    /// As [`establish`](Self::establish), or [`ErrorKind::Pool`](crate::ErrorKind::Pool): it is
    /// wanted no more.
    pub async fn establish_unless(
        &self,
        deadline: Deadline,
        unwanted: impl Future<Output = ()> + Send,
    ) -> Result<Connection> {
        let unwanted = pin!(unwanted);
        // In a box: by size it would dominate the future of every check-out, which gets moved about.
        match &self.source {
            Source::Fixed(shared) => Box::pin(shared.establish(deadline, unwanted)).await,
            Source::Floating(floating) => Box::pin(floating.establish(deadline, unwanted)).await,
        }
    }

    /// Takes an idle connection that needs no check, because it was made just now.
    ///
    /// # Errors
    /// It has to make room for another pool's.
    pub fn claim(&self, connection: &Connection) -> Result<()> {
        match &self.source {
            Source::Fixed(shared) => shared.take_from_idle(connection),
            Source::Floating(_) => Ok(()),
        }
    }

    /// Whether idle connections may have to make room for those of other pools: the server has a cap.
    pub fn is_capped(&self) -> bool {
        match &self.source {
            Source::Fixed(shared) => shared.slots.is_some(),
            Source::Floating(_) => false,
        }
    }

    /// Whether an idle connection may be kept: it is not stale nor too old, and the pool is open.
    /// For a generic pool that looks through its idle connections.
    pub fn keeps(&self, connection: &Connection) -> bool {
        match &self.source {
            Source::Fixed(shared) => shared.keeps(connection),
            Source::Floating(_) => !connection.is_stale() && !connection.is_closed(),
        }
    }

    /// What the pool does at the moment; without a registry it is always ready.
    pub fn state(&self) -> PoolState {
        match &self.source {
            Source::Fixed(shared) => shared.state(),
            Source::Floating(_) => PoolState::Ready,
        }
    }

    /// The generation that new connections belong to; behind a load balancer their service's is
    /// another one. Of one that floats, how often it was [cleared](Self::clear).
    pub fn generation(&self) -> u64 {
        match &self.source {
            Source::Fixed(shared) => shared.generation(),
            Source::Floating(floating) => floating.clears(),
        }
    }

    /// Begins a new generation: no connection made before is handed out again.
    pub fn clear(&self) {
        match &self.source {
            Source::Fixed(shared) => shared.clear(),
            Source::Floating(floating) => floating.clear(),
        }
    }

    /// Begins a new generation of the connections to one service behind a load balancer: none made
    /// before is handed out again. Those to other services stay.
    ///
    /// Specification: load balancers.
    pub fn clear_service(&self, id: ObjectId) {
        match &self.source {
            Source::Fixed(shared) => shared.clear_service(id),
            Source::Floating(floating) => floating.clear_service(id),
        }
    }

    /// The server; `None` for one that floats.
    pub fn server(&self) -> Option<&ServerAddress> {
        match &self.source {
            Source::Fixed(shared) => Some(shared.server()),
            Source::Floating(_) => None,
        }
    }

    /// The user of the credential, if there is one.
    pub fn user(&self) -> Option<&str> {
        match &self.source {
            Source::Fixed(shared) => shared.user(),
            Source::Floating(floating) => floating.user().map(|user| &**user),
        }
    }

    /// Adds the server and the user to an error that has none.
    pub fn name(&self, error: impl Into<Error>) -> Error {
        match &self.source {
            Source::Fixed(shared) => shared.establisher.name(error),
            Source::Floating(floating) => floating.name(error),
        }
    }

    /// What the attempt to make a connection that moved on last is waiting for. For a pool whose
    /// attempts are not its callers' own, when such a caller's wait runs out.
    pub fn phase(&self) -> Wait {
        match &self.source {
            // None is being made: whoever asks waits for leave.
            Source::Fixed(shared) if shared.gate().pending() == 0 => Wait::WaitQueue,
            Source::Fixed(shared) => *shared.establisher.phase(),
            Source::Floating(_) => Wait::Connect,
        }
    }

    /// The error for a wait that ran out, with the last failure to make a connection if that was
    /// since the wait began: what a bare "timed out" would hide.
    pub fn timed_out(&self, wait: Wait, deadline: Deadline) -> Error {
        match &self.source {
            Source::Fixed(shared) => shared.timed_out(wait, deadline),
            Source::Floating(floating) => floating.timed_out(wait, deadline),
        }
    }
}

impl Failure {
    /// A failure that was not longer ago.
    fn since(failure: &Option<Self>, after: Duration) -> Option<Error> {
        let recent = failure
            .as_ref()
            .filter(|failure| failure.at.elapsed() <= after);
        recent.map(|failure| failure.error.clone())
    }
}

impl From<Arc<Shared>> for ConnectionFactory {
    fn from(shared: Arc<Shared>) -> Self {
        let source = Source::Fixed(Arc::new(Owned(shared)));
        Self { source }
    }
}

impl Shared {
    pub(super) fn server(&self) -> &ServerAddress {
        &self.establisher.server
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.establisher.user().map(|user| &**user)
    }

    pub(super) fn generation(&self) -> u64 {
        self.establisher.generations.current()
    }

    /// Nobody asks any more: closes what was kept for the next one who would, and keeps nothing
    /// more.
    fn abandon(&self) {
        let kept = self.change_gate(|gate| {
            gate.close();
            gate.sort_out(|_| false)
        });
        drop(kept);
    }

    /// Begins a new generation, and does nothing else.
    fn clear(&self) {
        self.establisher.generations.clear();
    }

    pub(super) fn clear_service(&self, id: ObjectId) {
        self.establisher.generations.clear_service(id);
    }

    fn gate(&self) -> MutexGuard<'_, Gate<Asker, Connection>> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the gate, and notes whether it is ready and how many wait at it.
    fn change_gate<R>(&self, change: impl FnOnce(&mut Gate<Asker, Connection>) -> R) -> R {
        let mut gate = self.gate();
        let result = change(&mut gate);
        self.asking.store(gate.asking(), Ordering::Release);
        let is_ready = gate.state() == PoolState::Ready;
        self.is_ready.store(is_ready, Ordering::Release);
        if let Some(slots) = &self.slots
            && slots.is_wanted()
            && !gate.wants_permit()
        {
            // Else others would give up a connection for nobody.
            slots.withdraw(&self.participant());
        }
        result
    }

    fn last_failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn timed_out(&self, wait: Wait, deadline: Deadline) -> Error {
        let after = deadline.elapsed();
        let cause = Failure::since(&self.last_failure(), after);
        let error = self.establisher.name(Error::timeout(wait, after));
        error.caused_by(cause)
    }

    /// Who has the connections.
    pub(super) fn in_use(&self, max_pool_size: u32) -> InUse {
        let in_use = self.counters.in_use();
        let pinned = |reason| self.counters.pinned(reason).load(Ordering::Relaxed);
        let (cursors, transactions) = (pinned(PinReason::Cursor), pinned(PinReason::Transaction));
        InUse {
            max_pool_size,
            cursors,
            transactions,
            others: in_use.saturating_sub(cursors + transactions),
            server_full: self.slots.as_ref().and_then(|slots| slots.full()),
        }
    }
}

impl fmt::Debug for ConnectionFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionFactory")
            .field("server", &self.server())
            .field("user", &self.user())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}
