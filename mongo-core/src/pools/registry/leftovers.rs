//! What dropped cursors and sessions leave to do on the servers, and the end of idle sessions: a
//! bounded queue of commands, and the tasks that send them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::closing::END_SESSIONS;
use super::tenant::Tenant;
use super::{Pools, Registry};
use crate::callback::{WAKER, guard};
use crate::net::{Alive, Limits};
use crate::operation::{ClientContext, Leftover};
use crate::pools::Backend;
use crate::pools::guard::Pinned;
use crate::sync::lock;

/// How many may wait: about 1 KiB each.
const MAX_WAITING: usize = 10_000;

/// How many are sent at a time.
const MAX_TASKS: usize = 16;

/// How long one may wait, and how long it may then take without a `timeoutMS`.
const TIME: Duration = Duration::from_secs(10);

/// Sends one over any connection. Errors are ignored.
pub(in crate::pools) type SendLeftover<B> = fn(Pools<B>, Leftover, Limits) -> Sending;

type Sending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The queue.
pub(super) struct Leftovers<B: Backend> {
    send: SendLeftover<B>,
    queue: Mutex<Queue<B>>,
    /// Notified when the last task ends.
    settled: Notify,
}

struct Queue<B: Backend> {
    waiting: VecDeque<Waiting<B>>,
    tasks: usize,
}

struct Waiting<B: Backend> {
    leftover: Leftover,
    tenant: Arc<Tenant<B>>,
    connection: Only<B>,
    since: Instant,
}

/// The only connection over which it can be sent, if there is one. As long as it was not, the
/// connection can't be used otherwise: it is closed.
struct Only<B: Backend>(Pinned<B>);

impl<B: Backend> Drop for Only<B> {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.0 {
            connection.close();
        }
    }
}

impl<B: Backend> Leftovers<B> {
    /// `send` carries out an operation, for which this knows nothing of operations.
    pub(super) fn new(send: SendLeftover<B>) -> Self {
        let queue = Queue {
            waiting: VecDeque::new(),
            tasks: 0,
        };
        Self {
            send,
            queue: Mutex::new(queue),
            settled: Notify::new(),
        }
    }

    /// Adds one, unless too many wait. Returns whether a task has to be spawned, which is counted.
    fn push(&self, waiting: Waiting<B>) -> bool {
        let mut queue = lock(&self.queue);
        if queue.waiting.len() >= MAX_WAITING {
            drop(queue);
            // It is dropped without the lock.
            return false;
        }
        queue.waiting.push_back(waiting);
        let is_due = queue.tasks < MAX_TASKS;
        queue.tasks += usize::from(is_due);
        is_due
    }

    /// The next one; without any, a task has ended.
    fn pop(&self) -> Option<Waiting<B>> {
        let mut queue = lock(&self.queue);
        let next = queue.waiting.pop_front();
        if next.is_none() {
            self.task_ended(queue);
        }
        next
    }

    fn task_ended(&self, mut queue: MutexGuard<'_, Queue<B>>) {
        queue.tasks -= 1;
        let is_last = queue.tasks == 0;
        drop(queue);
        if is_last {
            // Without the lock: a waker is code of the application.
            let _ = guard(WAKER, || self.settled.notify_waiters());
        }
    }

    /// Drops all that wait.
    pub(super) fn clear(&self) {
        let waiting = std::mem::take(&mut lock(&self.queue).waiting);
        drop(waiting);
    }

    /// Waits until there are none.
    pub(super) async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            if lock(&self.queue).tasks == 0 {
                return;
            }
            settled.await;
        }
    }
}

/// A task that sends leftovers.
struct Sender<B: Backend> {
    pools: Pools<B>,
    is_counted: bool,
    _alive: Alive,
}

impl<B: Backend> Sender<B> {
    async fn run(mut self) {
        while let Some(waiting) = self.pools.registry().leftovers.pop() {
            if waiting.since.elapsed() < TIME {
                self.send(waiting).await;
            }
        }
        self.is_counted = false;
    }

    async fn send(&self, waiting: Waiting<B>) {
        let pools = self.pools.with_tenant(waiting.tenant);
        let timeout = pools.client().defaults.timeout;
        let timeout = timeout.filter(|timeout| !timeout.is_zero());
        let (mut leftover, mut only) = (waiting.leftover, waiting.connection);
        let time = match leftover.is_needed() {
            true => timeout.unwrap_or(TIME),
            false => END_SESSIONS,
        };
        let limits = Limits::new(Some(time));
        let Some(connection) = &mut only.0 else {
            let send = self.pools.registry().leftovers.send;
            let _ = limits.bound(send(pools, leftover, limits)).await;
            return;
        };
        let (request, session) = (&mut leftover.request, leftover.session.as_deref_mut());
        let ended = connection.send_end(request, session, limits);
        if limits.bound(ended).await == Some(true) {
            // It can be used again.
            drop(only.0.take());
        }
    }
}

impl<B: Backend> Drop for Sender<B> {
    fn drop(&mut self) {
        if !self.is_counted {
            return;
        }
        // The runtime has ended, and the other tasks with it.
        let leftovers = &self.pools.registry().leftovers;
        leftovers.task_ended(lock(&leftovers.queue));
        leftovers.clear();
    }
}

impl<B: Backend> Pools<B> {
    /// Sends what a dropped cursor or session left to do, in the background, and over the connection
    /// if one is given. If too much waits, it is left to the server.
    pub(in crate::pools) fn leave(&self, leftover: Leftover, connection: Pinned<B>) {
        let registry = self.registry();
        let session = leftover.session.as_ref();
        let client = connection
            .as_ref()
            .map_or_else(|| self.client(), |own| own.client());
        // Another user can't end a transaction.
        let is_own = session.is_none_or(|own| own.check(&client).is_ok());
        let waiting = Waiting {
            leftover,
            tenant: self.tenant.clone(),
            connection: Only(connection),
            since: Instant::now(),
        };
        let Some(runtime) = registry.home.known().filter(|_| is_own) else {
            return;
        };
        // Before the check, so that a concurrent `close` waits for it.
        let alive = registry.tasks.begin();
        if registry.check_open().is_ok() && registry.leftovers.push(waiting) {
            let sender = Sender {
                pools: self.clone(),
                is_counted: true,
                _alive: alive,
            };
            runtime.spawn(sender.run());
        }
    }

    /// Ends the idle sessions of a client in the background, over an idle connection of this
    /// handle's pools, which are about to be closed. Without any the sessions expire.
    pub(super) fn end_sessions_over_idle(&self, client: &ClientContext) {
        let runtime = self.registry().home.known();
        let _entered = runtime.as_ref().map(|runtime| runtime.enter());
        for leftover in client.end_sessions() {
            let pools = self.tenant.all();
            if let Some(idle) = pools.iter().find_map(|(_, pool)| pool.take_idle()) {
                self.leave(leftover, Some(idle));
            }
        }
    }
}

impl<B: Backend> Registry<B> {
    /// Lets the cursors and sessions of a tenant leave commands to the background.
    pub(super) fn attach(self: &Arc<Self>, tenant: &Arc<Tenant<B>>) {
        let (registry, own) = (Arc::downgrade(self), Arc::downgrade(tenant));
        tenant.client().set_background(Arc::new(move |leftover| {
            let registry = registry.upgrade();
            let pools = registry
                .zip(own.upgrade())
                .and_then(|(r, own)| r.handle(own));
            if let Some(pools) = pools {
                pools.leave(leftover, None);
            }
        }));
    }

    /// A handle for a tenant, as long as the application has one.
    pub(super) fn handle(&self, tenant: Arc<Tenant<B>>) -> Option<Pools<B>> {
        let life = self.life.get()?.upgrade()?;
        Some(Pools { life, tenant })
    }
}
