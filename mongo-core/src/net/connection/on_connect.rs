//! The application's initialisation of new connections.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;

use tokio::time::Instant;

use super::Connection;
use super::connect_clock::ConnectClock;
use crate::callback::guard_async;
use crate::error::{Error, Result, Wait, is_network_error};
use crate::net::deadline::Elapsed;
use crate::wire::Readiness;

/// The name of the callback in logs and errors.
const ON_CONNECT: &str = "on_connect";

/// The boxed future of a function for `on_connect_boxed`.
pub type ConnectFuture<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// A function for `on_connect`: an async function of a connection, or an async closure that captures
/// nothing, whose future is `Send`.
///
/// It is implemented for all functions that qualify.
pub trait ConnectHook<'a>: Fn(&'a mut Connection) -> <Self as ConnectHook<'a>>::Future {
    /// The future of one call.
    type Future: Future<Output = Result<()>> + Send + 'a;
}

impl<'a, F, T> ConnectHook<'a> for F
where
    F: Fn(&'a mut Connection) -> T,
    T: Future<Output = Result<()>> + Send + 'a,
{
    type Future = T;
}

type Hook = dyn for<'a> Fn(&'a mut Connection) -> ConnectFuture<'a> + Send + Sync;

/// The application's function for new connections.
#[derive(Clone)]
pub(crate) struct OnConnect(Arc<Hook>);

impl OnConnect {
    pub(crate) fn new<F>(hook: F) -> Self
    where
        F: for<'a> ConnectHook<'a> + Send + Sync + 'static,
    {
        Self(Arc::new(move |connection| Box::pin(hook(connection))))
    }

    pub(crate) fn boxed<F>(hook: F) -> Self
    where
        F: for<'a> Fn(&'a mut Connection) -> ConnectFuture<'a> + Send + Sync + 'static,
    {
        Self(Arc::new(hook))
    }

    /// Initialises a connection within the clock's deadlines. On failure, and if this future is
    /// dropped, the connection is closed.
    ///
    /// # Errors
    /// [`ErrorKind::OnConnect`](crate::ErrorKind::OnConnect), a time-out of [`Wait::Hook`], or the
    /// network error that broke the connection.
    pub(crate) async fn initialise(
        &self,
        mut connection: Connection,
        clock: &ConnectClock,
    ) -> Result<Connection> {
        let outcome = {
            let call = guard_async(ON_CONNECT, || (self.0)(&mut connection));
            match clock.bound(pin!(call)).await {
                Ok(outcome) => outcome,
                Err(Elapsed) => return Err(clock.timed_out(Wait::Hook)),
            }
        };
        let readiness = connection.readiness();
        match (outcome, readiness) {
            (Ok(Ok(())), Readiness::Idle | Readiness::Owed) => {
                connection.restart_age(Instant::now());
                Ok(connection)
            }
            // The function may have ignored an error.
            (Ok(Ok(())), Readiness::Closed(reason)) => Err(connection.closed(reason).of_hook()),
            (Ok(Err(error)), Readiness::Closed(_))
                if is_network_error(&error) && !error.is_timeout() =>
            {
                Err(error)
            }
            (Ok(Err(error)), _) => Err(error.of_hook()),
            (Err(panicked), _) => Err(Error::on_connect(panicked)),
        }
    }
}

impl fmt::Debug for OnConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnConnect(..)")
    }
}
