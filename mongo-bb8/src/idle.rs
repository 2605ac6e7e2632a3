//! The idle connections, which bb8 keeps.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bb8::QueueStrategy;
use mongo_core::Connection;
use tokio::runtime::Handle;

use crate::MongoConnectionManager;
use crate::connection::Taken;

/// bb8's pool, asked only for connections that are there: asked in vain, it would connect in a task
/// of its own.
#[derive(Debug)]
pub(crate) struct Idle {
    bb8: bb8::Pool<MongoConnectionManager>,
    /// Held from the look at bb8's state until the connection is taken. No handler runs under it:
    /// connections are closed after it is released.
    turn: Mutex<()>,
    /// bb8 makes a timer for each check-out, even one that does not wait: here, unless it is called
    /// from here.
    runtime: Handle,
}

impl Idle {
    pub(crate) fn new(bb8: bb8::Pool<MongoConnectionManager>, runtime: Handle) -> Self {
        Self {
            bb8,
            turn: Mutex::new(()),
            runtime,
        }
    }

    pub(crate) fn bb8(&self) -> &bb8::Pool<MongoConnectionManager> {
        &self.bb8
    }

    /// Takes one, in the order that bb8's configuration says.
    #[inline]
    pub(crate) fn take(&self) -> Option<Taken> {
        let _turn = self.turn();
        self.take_in_turn()
    }

    /// Adds a new connection and takes one, in one step: with a queue in FIFO order perhaps another.
    /// `None` where the new one is not sound any more.
    pub(crate) fn add_and_take(&self, connection: Connection) -> Option<Taken> {
        let turn = self.turn();
        let refused = self.bb8.add(connection).err();
        let taken = self.take_in_turn();
        drop(turn);
        drop(refused);
        taken
    }

    /// Closes the connections that do not satisfy the predicate.
    pub(crate) fn retain(&self, keep: impl Fn(&Connection) -> bool) {
        let mut removed = Vec::new();
        let turn = self.turn();
        for mut taken in self.take_all_in_turn() {
            if !keep(&taken) {
                removed.push(taken.move_out());
            }
        }
        drop(turn);
        drop(removed);
    }

    fn take_in_turn(&self) -> Option<Taken> {
        if self.bb8.state().idle_connections == 0 {
            return None;
        }
        let is_here = Handle::try_current().is_ok_and(|here| here.id() == self.runtime.id());
        let _entered = (!is_here).then(|| self.runtime.enter());
        let got = pin!(self.bb8.get_owned());
        match got.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(got) => got.ok(),
            Poll::Pending => None,
        }
    }

    /// All of them, so that dropping them in this order leaves bb8's order as it was.
    fn take_all_in_turn(&self) -> Vec<Taken> {
        let mut all: Vec<_> = std::iter::from_fn(|| self.take_in_turn()).collect();
        if matches!(self.bb8.config().queue_strategy, QueueStrategy::Lifo) {
            all.reverse();
        }
        all
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
