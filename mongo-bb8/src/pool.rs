use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bb8::{ManageConnection, QueueStrategy, RunError};
use mongo_core::error::Wait;
use mongo_core::{Deadline, Error, ErrorKind};
use tokio::runtime::Handle;
use tokio::sync::{AcquireError, Semaphore, TryAcquireError};

use crate::connection::Taken;
use crate::failures::Told;
use crate::handover::Handover;
use crate::manager::{check_out, check_out_at_once, sweeping};
use crate::{MongoConnectionManager, PooledConnection};

/// A pool of connections to one server: bb8's, with a fair queue before it, one deadline, and
/// errors that tell the truth.
///
/// Cloning is cheap; clones are the same pool.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: bb8::Pool<MongoConnectionManager>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    manager: MongoConnectionManager,
    /// As many permits as bb8 holds connections, so that who has one never waits for another's.
    front: Semaphore,
    /// Who has a permit, and waits for a connection to be made.
    handover: Handover<Taken>,
    max_size: usize,
    wait: Duration,
    waiting: AtomicUsize,
    /// Where bb8 spawns what it connects, for a `close` from outside.
    runtime: Handle,
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
        let max_size = config.max_size as usize;
        Ok(Self {
            shared: Arc::new(Shared {
                manager,
                front: Semaphore::new(max_size),
                handover: Handover::default(),
                max_size,
                wait: config.connection_timeout,
                waiting: AtomicUsize::new(0),
                runtime,
            }),
            inner,
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
                match check_out_at_once(|| self.inner.get_owned()) {
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
                Err(TryAcquireError::NoPermits) if !wait.is_zero() => self.queue(deadline).await?,
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
    fn take_idle(&self, slot: Slot) -> Result<PooledConnection, Slot> {
        // Asked in vain, bb8 would begin to connect.
        if self.shared.handover.is_asked() || self.inner.state().idle_connections == 0 {
            return Err(slot);
        }
        match check_out_at_once(|| self.inner.get_owned()) {
            Some(Ok(taken)) => Ok(PooledConnection::new(taken, slot)),
            Some(Err(_)) | None => Err(slot),
        }
    }

    /// A connection by a deadline, in turn.
    pub(crate) async fn take_by(&self, deadline: Deadline) -> Result<PooledConnection, Error> {
        let slot = match Slot::try_take(&self.shared) {
            Ok(slot) => slot,
            Err(TryAcquireError::NoPermits) => self.queue(deadline).await?,
            Err(TryAcquireError::Closed) => return Err(self.closed()),
        };
        self.take(slot, deadline).await
    }

    /// Closes the idle connections that the factory does not keep: bb8 has no way to look through
    /// them but to take them out one by one, which validates each.
    pub(crate) fn sweep_idle(&self) {
        // Where none is left it spawns a connect, which finds that nobody wants it.
        let _entered = self.shared.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        sweeping(|| {
            let mut kept = Vec::new();
            for _ in 0..self.inner.state().idle_connections {
                match Box::pin(self.inner.get_owned()).as_mut().poll(&mut context) {
                    Poll::Ready(Ok(connection)) => kept.push(connection),
                    Poll::Ready(Err(_)) | Poll::Pending => break,
                }
            }
            // In the order in which they were.
            if matches!(self.inner.config().queue_strategy, QueueStrategy::Lifo) {
                kept.reverse();
            }
            drop(kept);
        });
    }

    /// Every slot is in use: waits in turn for one.
    async fn queue(&self, deadline: Deadline) -> Result<Slot, Error> {
        let shared = &self.shared;
        let _waiting = Counted::new(&shared.waiting);
        match deadline.bound(Slot::take(shared)).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) => Err(self.closed()),
            Err(_) => Err(self.timed_out(Wait::WaitQueue, deadline)),
        }
    }

    /// With a slot in hand: takes an idle connection, or waits for one.
    async fn take(&self, slot: Slot, deadline: Deadline) -> Result<PooledConnection, Error> {
        // Whose turn it is mostly finds what came back.
        let slot = match self.take_idle(slot) {
            Ok(connection) => return Ok(connection),
            Err(slot) => slot,
        };
        let is_capped = self.manager().factory().is_capped();
        let mut leaving = Leaving(is_capped.then_some(self));
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
        let taken = async {
            loop {
                // All are safe to drop: bb8 puts a connection back that nobody took, as the next
                // caller gets one that came back, and a failure is another caller's.
                tokio::select! {
                    biased;
                    taken = self.inner.get_owned() => return match taken {
                        Ok(taken) => Ok(taken),
                        Err(RunError::User(error)) => Err(error),
                        Err(RunError::TimedOut) => Err(self.not_made(deadline)),
                    },
                    mut returned = self.shared.handover.ask() => {
                        // As bb8 checks what is idle.
                        if self.manager().is_valid(&mut returned).await.is_ok() {
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
        let state = self.inner.state();
        Status {
            max_size: self.shared.max_size,
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
        // bb8 can't close its idle connections. They are stale now: one look through its queue
        // drops all of them. It then spawns a connect, which the manager refuses.
        let _entered = self.shared.runtime.enter();
        let mut sweep = Box::pin(self.inner.get_owned());
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok(connection)) = sweep.as_mut().poll(&mut context) {
            drop(connection);
        }
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
        &self.inner
    }

    fn timed_out(&self, wait: Wait, deadline: Deadline) -> Error {
        self.manager().factory().timed_out(wait, deadline)
    }

    fn closed(&self) -> Error {
        self.manager().factory().name(ErrorKind::PoolClosed)
    }
}

/// A permit of the front.
#[derive(Debug)]
pub(crate) struct Slot {
    pool: Arc<Shared>,
}

impl Slot {
    fn try_take(pool: &Arc<Shared>) -> Result<Self, TryAcquireError> {
        pool.front.try_acquire()?.forget();
        Ok(Self { pool: pool.clone() })
    }

    /// Waits for it, in turn.
    async fn take(pool: &Arc<Shared>) -> Result<Self, AcquireError> {
        pool.front.acquire().await?.forget();
        Ok(Self { pool: pool.clone() })
    }

    pub(crate) fn handover(&self) -> &Handover<Taken> {
        &self.pool.handover
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.front.add_permits(1);
    }
}

/// A caller that may leave a connection behind that was made for it, and that nobody knows to be
/// idle.
struct Leaving<'a>(Option<&'a Pool>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.0 {
            pool.sweep_idle();
        }
    }
}

/// Counts its own life.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
