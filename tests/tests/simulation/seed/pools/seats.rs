//! The credentials and their handles: they are rotated, logged out, and log in again.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use mongo_core::auth::Credential;
use mongo_core::net::{BlockingExecutor, KeyService};
use mongo_core::pools::{Backend, Pools};
use mongo_testkit::User;

/// The users that the servers know.
const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// A user that the servers do not know.
const STRANGER: &str = "mallory";

/// The users with their keys, derived once for all seeds.
pub(super) static KNOWN: LazyLock<Vec<User>> =
    LazyLock::new(|| USERS.iter().map(|name| User::new(name, "secret")).collect());

pub(super) fn credential(name: &str) -> Credential {
    Credential::new(name, "secret").with_source("admin")
}

/// Derives keys in a task of the simulation's own thread.
pub(super) struct InTurn;

impl BlockingExecutor for InTurn {
    fn execute(&self, work: Box<dyn FnOnce() + Send>) {
        drop(tokio::spawn(async move { work() }));
    }
}

/// The clients' keys, of all seeds.
pub(super) static KEYS: LazyLock<Arc<KeyService>> =
    LazyLock::new(|| Arc::new(KeyService::new(Arc::new(InTurn))));

/// One credential, and its handle.
pub(super) struct Seat<B: Backend>(Mutex<Sitting<B>>);

pub(super) struct Sitting<B: Backend> {
    pub(super) pools: Pools<B>,
    pub(super) user: &'static str,
    /// How often it was logged out or in: odd while it is logged out.
    pub(super) turns: u64,
}

impl<B: Backend> Clone for Sitting<B> {
    fn clone(&self) -> Self {
        Self {
            pools: self.pools.clone(),
            user: self.user,
            turns: self.turns,
        }
    }
}

impl<B: Backend> Sitting<B> {
    /// Whether its credential is logged out.
    pub(super) fn is_out(&self) -> bool {
        !self.turns.is_multiple_of(2)
    }

    /// Whether the servers know the user.
    pub(super) fn is_known(&self) -> bool {
        self.user != STRANGER
    }
}

impl<B: Backend> Seat<B> {
    /// The first seat has the options' own credential, `alice`. The last one has an unknown user.
    pub(super) fn all(pools: &Pools<B>) -> Vec<Self> {
        let others = ["bob", "carol", STRANGER].map(|user| {
            let pools = pools.with_credential(credential(user));
            (pools.expect("a handle"), user)
        });
        let all = std::iter::once((pools.clone(), USERS[0])).chain(others);
        all.map(|(pools, user)| {
            Self(Mutex::new(Sitting {
                pools,
                user,
                turns: 0,
            }))
        })
        .collect()
    }

    pub(super) fn look(&self) -> Sitting<B> {
        self.lock().clone()
    }

    /// Rotates to the other one of this seat's two users.
    pub(super) fn rotate(&self) -> mongo_core::Result<()> {
        let mut sitting = self.lock();
        let next = if sitting.user == "carol" {
            "dave"
        } else {
            "carol"
        };
        sitting.pools.rotate(credential(next))?;
        sitting.user = next;
        Ok(())
    }

    /// Marks the handle as logged out: from now on it may give an error.
    pub(super) fn give_up(&self) -> Pools<B> {
        let mut sitting = self.lock();
        sitting.turns += 1;
        sitting.pools.clone()
    }

    pub(super) fn log_in(&self, pools: Pools<B>) {
        let mut sitting = self.lock();
        sitting.turns += 1;
        sitting.pools = pools;
    }

    fn lock(&self) -> MutexGuard<'_, Sitting<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
