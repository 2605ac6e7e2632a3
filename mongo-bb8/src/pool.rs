use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bb8::RunError;
use mongo_core::error::Wait;
use mongo_core::{Deadline, Error, ErrorKind};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, TryAcquireError};

use crate::connection::Taken;
use crate::failures::Told;
use crate::handover::Handover;
use crate::manager::{check_out, check_out_at_once};
use crate::shared::{Counted, Leaving, Shared, Slot};
use crate::{MongoConnectionManager, PooledConnection};

/// A pool of connections to one server: bb8's, with a fair queue before it, one deadline, and
/// errors that tell the truth.
///
/// A handler of events must not ask this pool for anything: with an `idle_timeout` or a
/// `max_lifetime` of bb8's, its reaper drops connections, which is told, under the pool's lock.
/// [`Pools`](crate::Pools) have neither.
///
/// Cloning is cheap; clones are the same pool.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

/// How full a pool is, in deadpool's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The most connections that the pool may hold.
    pub max_size: usize,
    /// The connections that it holds, in use or idle.
    pub size: usize,
    /// The idle ones.
    pub available: usize,
    /// The callers that wait for a slot.
    pub waiting: usize,
}

impl Pool {
    /// A builder for a bare [`bb8::Pool`], or for [`Pool::build`].
    pub fn builder() -> bb8::Builder<MongoConnectionManager> {
        bb8::Pool::builder()
    }

    /// A pool over a bare one with settings of your own, and a manager that serves this pool alone.
    ///
    /// bb8's `connection_timeout` (default 30 s) is the bound of [`get`](Self::get). Its
    /// `error_sink` and `retry_connection` are replaced: the pool itself tells failures to its
    /// callers, at once.
    ///
    /// # Errors
    /// There is no tokio runtime for bb8 to spawn on.
    pub fn build(
        builder: bb8::Builder<MongoConnectionManager>,
        manager: MongoConnectionManager,
    ) -> Result<Self, Error> {
        // bb8 would panic.
        let runtime = Handle::try_current()
            .map_err(|_| Error::configuration("a bb8 pool has to be built within tokio"))?;
        let inner = builder
            .error_sink(manager.sink())
            // A retry would go on where nobody waits any more.
            .retry_connection(false)
            .build_unchecked(manager.clone());
        let config = inner.config();
        let shared = Shared {
            manager,
            front: Semaphore::new(config.max_size as usize),
            handover: Handover::default(),
            wait: config.connection_timeout,
            waiting: AtomicUsize::new(0),
            runtime,
            inner,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Checks a connection out: an idle one that passes its check, or a new one.
    ///
    /// Waits, in turn, while all are in use. All of it ends within `timeouts.wait` of the
    /// configuration, default 30 s; making a connection also within `connectTimeoutMS` (10 s) and
    /// `timeouts.create`, checking one within `timeouts.recycle`.
    ///
    /// # Errors
    /// - [`ErrorKind::Timeout`]: which wait it was, with what kept failing meanwhile as its cause.
    /// - [`ErrorKind::Connect`], [`ErrorKind::Authentication`], … from making a connection, at once.
    /// - [`ErrorKind::PoolClosed`].
    ///
    /// # Cancellation
    /// May be dropped at any time: a slot or a connection it had gets free. A connection that was
    /// being made goes on in bb8's own task, and is idle when it is done; a later caller relies on
    /// it, and makes one of its own only where it fails.
    pub async fn get(&self) -> Result<PooledConnection, Error> {
        self.get_within(self.shared.wait).await
    }

    /// [`get`](Self::get) with another bound than the configured one. Zero does not wait for a
    /// slot; a connection may still have to be made, within the configured bound.
    ///
    /// # Errors
    /// See [`get`](Self::get).
    pub async fn get_within(&self, wait: Duration) -> Result<PooledConnection, Error> {
        let shared = &self.shared;
        let bound = if wait.is_zero() { shared.wait } else { wait };
        let slot = match Slot::try_take(shared) {
            // Almost always there is an idle connection: then there is no wait to bound or to watch.
            Ok(slot) if !shared.handover.is_asked() => {
                match check_out_at_once(|| self.inner().get_owned()) {
                    Some(Ok(taken)) => return Ok(PooledConnection::new(taken, slot)),
                    Some(Err(_)) | None => Ok(slot),
                }
            }
            slot => slot,
        };
        let deadline = Deadline::after(bound);
        // In a box, not to make every check-out's future larger.
        Box::pin(async {
            let slot = match slot {
                Ok(slot) => slot,
                Err(TryAcquireError::NoPermits) if !wait.is_zero() => {
                    match self.queue(deadline).await? {
                        Ok(connection) => return Ok(connection),
                        Err(slot) => slot,
                    }
                }
                Err(TryAcquireError::NoPermits) => {
                    return Err(self.timed_out(Wait::WaitQueue, deadline));
                }
                Err(TryAcquireError::Closed) => return Err(self.closed()),
            };
            self.take(slot, deadline).await
        })
        .await
    }

    /// Checks a connection out without waiting for a slot.
    ///
    /// # Errors
    /// See [`get`](Self::get).
    pub async fn try_get(&self) -> Result<PooledConnection, Error> {
        self.get_within(Duration::ZERO).await
    }

    /// A connection that is idle and sound, if there is one.
    pub(crate) fn take_at_once(&self) -> Option<PooledConnection> {
        let slot = Slot::try_take(&self.shared).ok()?;
        self.take_idle(slot).ok()
    }

    /// With a slot in hand, the same: not before those who wait for a connection to be made.
    #[inline]
    fn take_idle(&self, slot: Slot) -> Result<PooledConnection, Slot> {
        // Asked in vain, bb8 would begin to connect.
        if self.shared.handover.is_asked() || self.inner().state().idle_connections == 0 {
            return Err(slot);
        }
        match check_out_at_once(|| self.inner().get_owned()) {
            Some(Ok(taken)) => Ok(PooledConnection::new(taken, slot)),
            Some(Err(_)) | None => Err(slot),
        }
    }

    /// A connection by a deadline, in turn.
    pub(crate) async fn take_by(&self, deadline: Deadline) -> Result<PooledConnection, Error> {
        let slot = match Slot::try_take(&self.shared) {
            Ok(slot) => slot,
            Err(TryAcquireError::NoPermits) => match self.queue(deadline).await? {
                Ok(connection) => return Ok(connection),
                // There is no time left to make one.
                Err(_) if deadline.is_over() => {
                    return Err(self.timed_out(Wait::WaitQueue, deadline));
                }
                Err(slot) => slot,
            },
            Err(TryAcquireError::Closed) => return Err(self.closed()),
        };
        self.take(slot, deadline).await
    }

    /// Every slot is in use: waits in turn for one, and mostly finds what came back with it.
    async fn queue(&self, deadline: Deadline) -> Result<Result<PooledConnection, Slot>, Error> {
        let shared = &self.shared;
        let _waiting = Counted::new(&shared.waiting);
        match deadline.bound(Slot::take(shared)).await {
            Ok(Ok(slot)) => Ok(self.take_idle(slot)),
            Ok(Err(_)) => Err(self.closed()),
            Err(_) => Err(self.timed_out(Wait::WaitQueue, deadline)),
        }
    }

    /// With a slot in hand: takes an idle connection, or waits for one.
    async fn take(&self, slot: Slot, deadline: Deadline) -> Result<PooledConnection, Error> {
        let is_capped = self.manager().factory().is_capped();
        let mut leaving = Leaving(is_capped.then_some(&self.shared));
        let taken = check_out(deadline, self.wait(deadline)).await?;
        // Served by what came back, it leaves behind what was made for it as well.
        if taken.is_new() {
            leaving.0 = None;
        }
        Ok(PooledConnection::new(taken, slot))
    }

    /// Waits for the connection that is being made, or for one that comes back sooner.
    async fn wait(&self, deadline: Deadline) -> Result<Taken, Error> {
        let waiting = self.shared.manager.failures().wait();
        let mut turn = self.shared.handover.turn(waiting.number());
        let taken = async {
            loop {
                // All are safe to drop: bb8 puts a connection back that nobody took, as the next
                // caller gets one that came back, and a failure is another caller's.
                tokio::select! {
                    biased;
                    taken = self.inner().get_owned() => match taken {
                        // bb8 gives what was made to whoever asks next.
                        Ok(taken) => {
                            if let Some(taken) = turn.unless_others_are_before(taken) {
                                return Ok(taken);
                            }
                            // Who has it waits no more then: bb8 would make one for that one, too.
                            tokio::task::yield_now().await;
                        }
                        Err(RunError::User(error)) => return Err(error),
                        // bb8's own bound may be less than this caller's.
                        Err(RunError::TimedOut) => {}
                    },
                    mut returned = turn.given() => {
                        if self.manager().check(&mut returned).await.is_ok() {
                            return Ok(returned);
                        }
                    }
                    told = waiting.told() => match told {
                        Told::Failed(error) => return Err(error),
                        Told::Again => {}
                    },
                }
            }
        };
        let taken = deadline.bound(taken).await;
        match taken {
            Ok(taken) => {
                waiting.served();
                taken
            }
            Err(_) => Err(self.not_made(deadline)),
        }
    }

    /// No connection was made in time: names what the attempt is waiting for.
    fn not_made(&self, deadline: Deadline) -> Error {
        self.timed_out(self.manager().factory().phase(), deadline)
    }

    /// How full the pool is.
    pub fn status(&self) -> Status {
        let state = self.inner().state();
        Status {
            max_size: self.inner().config().max_size as usize,
            size: state.connections as usize,
            available: state.idle_connections as usize,
            waiting: self.shared.waiting.load(Ordering::Relaxed),
        }
    }

    /// Closes the pool: who waits gets [`ErrorKind::PoolClosed`] at once, idle connections are
    /// closed, those in use when they come back. May be called from anywhere.
    pub fn close(&self) {
        self.shared.front.close();
        self.shared.manager.close();
        // They are stale now.
        self.shared.sweep_idle();
    }

    /// Whether the pool was closed.
    pub fn is_closed(&self) -> bool {
        self.shared.manager.is_closed()
    }

    /// The manager.
    pub fn manager(&self) -> &MongoConnectionManager {
        &self.shared.manager
    }

    /// The bare pool, for its `state`, its `config` and its `dedicated_connection`. A connection
    /// taken from it directly is not counted by the queue in front.
    pub fn inner(&self) -> &bb8::Pool<MongoConnectionManager> {
        &self.shared.inner
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn timed_out(&self, wait: Wait, deadline: Deadline) -> Error {
        self.manager().factory().timed_out(wait, deadline)
    }

    fn closed(&self) -> Error {
        self.manager().factory().name(ErrorKind::PoolClosed)
    }
}
