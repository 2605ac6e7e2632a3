use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mongo_core::handshake::DriverInfo;
use mongo_core::pools::{CheckBudget, ConnectionFactory, DEFAULT_WAIT_TIMEOUT, ManagerConfig};
use mongo_core::uri::ClientOptions;
use mongo_core::{Connection, Deadline, Error, ErrorKind};
use tokio::time::Instant;

use crate::failures::{Away, Failures};

tokio::task_local! {
    /// The check-out that the current task is in: bb8 has no way to hand it to the manager.
    static CHECK_OUT: CheckOut;
}

struct CheckOut {
    deadline: Deadline,
    /// When it began to wait for a connection.
    since: Instant,
    /// Whether it is checking an idle connection just now.
    is_checking: Cell<bool>,
    /// Of the checks of all connections that it looks at.
    budget: Cell<CheckBudget>,
}

/// Runs a check-out that ends by `deadline`.
pub(crate) fn check_out<F: Future>(
    deadline: Deadline,
    future: F,
) -> impl Future<Output = F::Output> {
    let check_out = CheckOut {
        deadline,
        since: Instant::now(),
        is_checking: Cell::new(false),
        budget: Cell::default(),
    };
    CHECK_OUT.scope(check_out, future)
}

/// Whether the current task's check-out is checking an idle connection.
pub(crate) fn is_checking() -> bool {
    CHECK_OUT
        .try_with(|check_out| check_out.is_checking.get())
        .unwrap_or(false)
}

/// For as long as it lives, the current task's check-out is checking.
struct Checking<'a> {
    _away: Away<'a>,
}

impl<'a> Checking<'a> {
    fn begin(check_out: &CheckOut, failures: &'a Failures) -> Self {
        check_out.is_checking.set(true);
        Self {
            _away: failures.away(),
        }
    }
}

impl Drop for Checking<'_> {
    fn drop(&mut self) {
        // Nothing is left to tell where the whole check-out is dropped.
        let _ = CHECK_OUT.try_with(|check_out| check_out.is_checking.set(false));
    }
}

thread_local! {
    /// Whether the error that bb8 is about to sink is one of a check, which is nobody's failure.
    static OF_A_CHECK: Cell<bool> = const { Cell::new(false) };
}

thread_local! {
    /// What bb8 is asked for connections for.
    static PURPOSE: Cell<Purpose> = const { Cell::new(Purpose::HandOut) };
}

#[derive(Clone, Copy)]
enum Purpose {
    HandOut,
    /// To hand one out that needs no wait.
    AtOnce,
    /// To look through those that are idle.
    Sweep,
}

/// For as long as it lives, that is what bb8 is asked for on this thread.
struct Asking(Purpose);

impl Asking {
    fn begin(purpose: Purpose) -> Self {
        Self(PURPOSE.replace(purpose))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // What is closed in one pool may have another one swept.
        PURPOSE.set(self.0);
    }
}

/// Looks through idle connections: those that are taken in `sweep` and given back count as idle all
/// the while.
pub(crate) fn sweeping<R>(sweep: impl FnOnce() -> R) -> R {
    let _asking = Asking::begin(Purpose::Sweep);
    sweep()
}

/// Runs a check-out if it has nothing to wait for: an idle connection is there, and can be told to
/// be sound without I/O. Where it would wait it is dropped, and has done nothing to a connection;
/// bb8 may have begun to make one by then, as it does for whoever is cancelled.
#[inline]
pub(crate) fn check_out_at_once<F: Future>(check_out: impl FnOnce() -> F) -> Option<F::Output> {
    // Dropped after the future, so that its drop counts as a part of this.
    let _asking = Asking::begin(Purpose::AtOnce);
    let future = pin!(check_out());
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// bb8's [`ManageConnection`](bb8::ManageConnection) for the connections to one server.
///
/// It serves the first host of the URI, as with `directConnection=true`. Clones share what they
/// know: give each pool a manager of its own.
#[derive(Clone, Debug)]
pub struct MongoConnectionManager {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    factory: ConnectionFactory,
    create_timeout: Duration,
    recycle_timeout: Option<Duration>,
    failures: Failures,
    closed: AtomicBool,
}

impl MongoConnectionManager {
    /// A manager for a connection string, with the default configuration.
    ///
    /// # Errors
    /// The connection string can't be used, or asks what is not supported yet.
    pub fn new(url: &str) -> Result<Self, Error> {
        Self::from_config(ClientOptions::parse(url)?, ManagerConfig::default())
    }

    /// A manager for client options.
    ///
    /// # Errors
    /// The options ask what is not supported yet.
    pub fn from_config(options: ClientOptions, config: ManagerConfig) -> Result<Self, Error> {
        Self::with_timeouts(options, config, None, None)
    }

    /// What makes and checks the connections.
    pub fn factory(&self) -> &ConnectionFactory {
        &self.shared.factory
    }

    /// The bounds of [`Timeouts`](crate::Timeouts): over making a connection, which bb8 does in a
    /// task that no caller bounds, and over checking one.
    pub(crate) fn with_timeouts(
        options: ClientOptions,
        config: ManagerConfig,
        create: Option<Duration>,
        recycle: Option<Duration>,
    ) -> Result<Self, Error> {
        let factory = ConnectionFactory::builder(options)
            .config(config)
            .driver_info(driver_info())
            .build()?;
        Ok(Self::bounded(factory, create, recycle))
    }

    pub(crate) fn bounded(
        factory: ConnectionFactory,
        create: Option<Duration>,
        recycle: Option<Duration>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                factory,
                create_timeout: create.unwrap_or(DEFAULT_WAIT_TIMEOUT),
                recycle_timeout: recycle,
                failures: Failures::default(),
                closed: AtomicBool::new(false),
            }),
        }
    }

    pub(crate) fn failures(&self) -> &Failures {
        &self.shared.failures
    }

    /// The error sink that a [`Pool`](crate::Pool) needs.
    pub(crate) fn sink(&self) -> Box<dyn bb8::ErrorSink<Error>> {
        self.shared.failures.expect_sink();
        Box::new(Sink(self.clone()))
    }

    /// No connection is made or handed out any more.
    pub(crate) fn close(&self) {
        let shared = &self.shared;
        shared.closed.store(true, Ordering::SeqCst);
        shared.factory.clear();
        let closed = shared.factory.name(ErrorKind::PoolClosed);
        shared.failures.close(closed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::SeqCst)
    }
}

/// What the server's log says of this crate.
pub(crate) fn driver_info() -> DriverInfo {
    DriverInfo::new(env!("CARGO_PKG_NAME")).with_version(env!("CARGO_PKG_VERSION"))
}

/// A manager with a connector, an executor or a name of your own: build the factory first.
impl From<ConnectionFactory> for MongoConnectionManager {
    fn from(factory: ConnectionFactory) -> Self {
        Self::bounded(factory, None, None)
    }
}

impl bb8::ManageConnection for MongoConnectionManager {
    type Connection = Connection;
    type Error = Error;

    async fn connect(&self) -> Result<Connection, Error> {
        let shared = &self.shared;
        if self.is_closed() {
            return Err(shared.factory.name(ErrorKind::PoolClosed));
        }
        let attempt = shared.failures.begin();
        let deadline = Deadline::after(shared.create_timeout);
        let is_wanted = |connection: &Connection| {
            let is_awaited = || shared.failures.is_awaited() || shared.factory.keeps(connection);
            !self.is_closed() && is_awaited()
        };
        let connecting = async {
            let unwanted = shared.failures.unawaited();
            let establishing = shared.factory.establish_unless(deadline, unwanted);
            match attempt.unless_given_up(establishing).await {
                // Nobody is left to take it, and bb8 would keep it open, in others' way it may be.
                Some(Ok(connection)) if !is_wanted(&connection) => {
                    Err(shared.factory.name(match self.is_closed() {
                        true => ErrorKind::PoolClosed,
                        false => ErrorKind::PoolCleared,
                    }))
                }
                Some(connected) => connected,
                None => Err(shared.factory.name(ErrorKind::Cancelled)),
            }
        };
        let connected = unless_panics(connecting).await;
        connected.inspect_err(|error| match error.kind() {
            // Nobody wanted it just then: no failure of whoever has come since.
            ErrorKind::Pool(_) | ErrorKind::Cancelled => attempt.ended(error),
            _ => attempt.failed(error),
        })
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), Error> {
        let checked = match PURPOSE.get() {
            Purpose::HandOut => self.check(connection).await,
            Purpose::AtOnce => match self.shared.factory.recycle_now(connection) {
                Some(checked) => checked,
                None => return pending().await,
            },
            // It is looked at when it comes back.
            Purpose::Sweep => Ok(()),
        };
        // A bare pool has a sink of its own, which would not ask.
        checked.inspect_err(|_| OF_A_CHECK.set(self.failures().has_sink()))
    }

    /// Called when a connection comes back, and for nothing else.
    #[inline]
    fn has_broken(&self, connection: &mut Connection) -> bool {
        match PURPOSE.get() {
            Purpose::HandOut => !connection.check_in(),
            // Looked at and not handed out, it stays as idle as it was.
            Purpose::AtOnce => connection.is_closed() || connection.is_stale(),
            Purpose::Sweep => connection.is_closed() || !self.shared.factory.keeps(connection),
        }
    }
}

impl MongoConnectionManager {
    /// Checks a connection that is about to be handed out.
    pub(crate) async fn check(&self, connection: &mut Connection) -> Result<(), Error> {
        let shared = &self.shared;
        let check_out = CHECK_OUT.try_with(|check_out| {
            let is_fresh = connection.is_new() && connection.created() >= check_out.since;
            (check_out.deadline, is_fresh)
        });
        let (deadline, is_fresh) = match check_out {
            Ok(check_out) => check_out,
            // From a bare pool.
            Err(_) => match shared.factory.recycle_now(connection) {
                Some(checked) => return checked,
                None => (Deadline::never(), false),
            },
        };
        // Made while the caller waited, it is as good as one that the caller made itself. To check
        // it would have bb8 make another one, and another, where a server closes them at once.
        if is_fresh && !connection.is_stale() {
            return shared.factory.claim(connection);
        }
        let deadline = deadline.within(shared.recycle_timeout);
        // Rare: not to be a part of every check-out's future.
        let budget = CHECK_OUT.try_with(|check_out| check_out.budget.get());
        let mut budget = budget.unwrap_or_default();
        let mut check = Box::pin(shared.factory.recycle(connection, deadline, &mut budget));
        let mut checking = None;
        let checked = poll_fn(|context| {
            let checked = check.as_mut().poll(context);
            // Most checks are over at once.
            if checked.is_pending() && checking.is_none() {
                let begin = |check_out: &CheckOut| Checking::begin(check_out, &shared.failures);
                checking = CHECK_OUT.try_with(begin).ok();
            }
            checked
        })
        .await;
        drop(check);
        let _ = CHECK_OUT.try_with(|check_out| check_out.budget.set(budget));
        checked
    }
}

/// Whose task has panicked, in a handler of an application's, bb8 would count as connecting for ever.
async fn unless_panics<T>(
    establishing: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let mut establishing = pin!(establishing);
    poll_fn(|context| {
        // Not polled again, and dropped, it leaves nothing behind.
        let poll = AssertUnwindSafe(|| establishing.as_mut().poll(context));
        catch_unwind(poll).unwrap_or_else(|_| {
            let text = "an event handler panicked while a connection was made";
            Poll::Ready(Err(Error::configuration(text)))
        })
    })
    .await
}

/// Where bb8 tells a failure once it has counted it.
#[derive(Clone, Debug)]
struct Sink(MongoConnectionManager);

impl bb8::ErrorSink<Error> for Sink {
    fn sink(&self, error: Error) {
        if !OF_A_CHECK.replace(false) {
            self.0.failures().push(&error);
        }
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<Error>> {
        Box::new(self.clone())
    }
}
