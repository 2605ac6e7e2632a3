//! A client's knowledge, by its own events.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::LIMIT;

/// The states that a client's events reported, with their times.
#[derive(Clone, Default)]
pub(crate) struct View {
    history: Arc<Mutex<Vec<Known>>>,
    changed: Arc<watch::Sender<()>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) since: Instant,
    pub(crate) primary: Option<String>,
    pub(crate) secondaries: Vec<String>,
}

impl Known {
    /// The number of usable members.
    pub(crate) fn members(&self) -> usize {
        usize::from(self.primary.is_some()) + self.secondaries.len()
    }

    /// Whether a server is known not to be primary. An unreachable one may still be primary.
    pub(crate) fn is_no_primary(&self, server: &String) -> bool {
        let is_other = |primary: &String| primary != server;
        self.primary.as_ref().is_some_and(is_other) || self.secondaries.contains(server)
    }
}

impl View {
    /// Records a state. The client's event handler calls it.
    pub(crate) fn note(&self, primary: Option<String>, secondaries: Vec<String>) {
        let since = Instant::now();
        self.history().push(Known {
            since,
            primary,
            secondaries,
        });
        self.changed.send_replace(());
    }

    /// The last state before a moment.
    pub(crate) fn at(&self, moment: Instant) -> Option<Known> {
        let history = self.history();
        let before = history.partition_point(|known| known.since < moment);
        history[..before].last().cloned()
    }

    /// Waits until the latest state is as wanted, and returns its time.
    pub(crate) async fn wait_for(&self, what: &str, wanted: impl Fn(&Known) -> bool) -> Instant {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                let latest = self.history().last().cloned();
                match latest {
                    Some(known) if wanted(&known) => return known.since,
                    Some(_) | None => changed.changed().await.expect("the sender is kept"),
                }
            }
        };
        match tokio::time::timeout(LIMIT, wait).await {
            Ok(since) => since,
            Err(_) => panic!("{what}: not within {LIMIT:?}: {:?}", self.history().last()),
        }
    }

    fn history(&self) -> MutexGuard<'_, Vec<Known>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
