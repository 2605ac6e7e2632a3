//! What the adapters of this project need beside the public methods.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{ConnectionFactory, Source};
use crate::error::{Error, ErrorKind, InUse, Result, Wait};
use crate::net::{Connection, Deadline, current_runtime};
use crate::pools::pool::{CheckBudget, PoolInner};

#[doc(hidden)]
impl ConnectionFactory {
    /// [`establish`](Self::establish), with the check-out's budget for the check of an offered
    /// connection.
    ///
    /// # Errors
    /// See [`establish`](Self::establish).
    pub async fn establish_within(
        &self,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Result<Connection> {
        // Before a wait that could never end.
        self.runtime()?;
        // Boxed: it would make up most of the size of every check-out's future, which is moved.
        match &self.source {
            Source::Fixed(shared) => Box::pin(shared.establish(deadline, budget)).await,
            Source::Floating(floating) => Box::pin(floating.establish(deadline, budget)).await,
        }
    }

    /// The current runtime, if connections can be made on it as far as is known beforehand.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`]: it is called outside of a Tokio runtime, or within one that has
    /// no timer (`enable_time`).
    pub fn runtime(&self) -> Result<Handle> {
        current_runtime().map_err(|error| self.with_context(error))
    }

    /// Takes an available connection: one that was made in advance, or for a caller that has left.
    /// No I/O.
    pub fn take_available(&self) -> Option<Connection> {
        self.fixed()?.take_available()
    }

    /// How many connections are [available](Self::take_available).
    pub fn available(&self) -> usize {
        self.fixed()
            .map_or(0, |shared| shared.queue.read(|queue| queue.available()))
    }

    /// Removes the available connections that do not satisfy the predicate, and returns them. If
    /// the predicate panics, all stay.
    pub fn retain(&self, keep: impl FnMut(&Connection) -> bool) -> Vec<Connection> {
        let Some(shared) = self.fixed() else {
            return Vec::new();
        };
        // Without a lock: the predicate belongs to the application.
        let mut all = GivenBack {
            shared,
            connections: shared.change_queue(|queue| queue.retain(|_| false)),
        };
        let kept: Vec<bool> = all.connections.iter().map(keep).collect();
        let mut kept = kept.into_iter();
        let is_removed = |_: &mut Connection| kept.next() == Some(false);
        all.connections.extract_if(.., is_removed).collect()
    }

    /// Limits the connections of a generic pool without a registry, including pending ones: without
    /// this limit, an attempt that outlives its caller is not counted.
    pub fn set_max_size(&self, max_size: u32) {
        if let Some(shared) = self.fixed() {
            shared.change_queue(|queue| queue.set_max_size(max_size));
            shared.pump();
        }
    }

    /// Adds the server and the user to an error that lacks them.
    pub fn with_context(&self, error: impl Into<Error>) -> Error {
        match &self.source {
            Source::Fixed(shared) => shared.establisher.name(error),
            Source::Floating(floating) => floating.name(error),
        }
    }

    /// The error for a wait that timed out. Its cause is the last failure to make a connection since
    /// the wait began. If none failed, and the wait was for a free slot, the cause is that `in_use`
    /// of at most `max_size` connections are in use.
    pub fn timed_out(
        &self,
        wait: Wait,
        deadline: Deadline,
        in_use: usize,
        max_size: usize,
    ) -> Error {
        let (error, pending) = match &self.source {
            Source::Fixed(shared) => (
                shared.timed_out(wait, deadline),
                shared.total_and_pending().1 as usize,
            ),
            Source::Floating(floating) => (floating.timed_out(wait, deadline), 0),
        };
        let others = in_use.saturating_sub(pending);
        if wait != Wait::WaitQueue || others == 0 || error.cause().is_some() {
            return error;
        }
        let in_use = InUse {
            max_pool_size: u32::try_from(max_size).unwrap_or(u32::MAX),
            cursors: 0,
            transactions: 0,
            others,
            load_balanced: false,
            server_full: None,
        };
        error.caused_by(Some(ErrorKind::PoolExhausted(in_use).into()))
    }
}

/// Available connections that were taken out; dropping this offers them again.
struct GivenBack<'a> {
    shared: &'a Arc<PoolInner>,
    connections: Vec<Connection>,
}

impl Drop for GivenBack<'_> {
    fn drop(&mut self) {
        for connection in self.connections.drain(..) {
            self.shared.offer(connection);
        }
    }
}
