//! Selections in the current snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::logs;
use super::selected::SelectedServer;
use super::shared::Shared;
use crate::ServerAddress;
use crate::error::{ErrorKind, Result};
use crate::select::{Criterion, SelectionIndex, ServerEntry};

/// Counts a waiting selection as long as it lives.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn begin_wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }

    pub(super) fn select_now(
        &self,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> Result<Option<SelectedServer>> {
        let index = self.index.load();
        let selected = index
            .select(criterion, deprioritized, self.random())
            .map_err(|error| ErrorKind::ServerSelection(Arc::new(error)))?;
        Ok(selected.map(|entry| SelectedServer::of(&index, entry, entry.begin_operation())))
    }

    /// A selection without waiting and without logs: returns the result of `take` for a suitable
    /// server. `None` if there is no suitable server, or if selections have to be logged.
    pub(crate) fn select_quietly<R>(
        &self,
        criterion: &Criterion,
        take: impl FnOnce(&SelectionIndex, &Arc<ServerEntry>) -> R,
    ) -> Option<R> {
        if logs::wants_selections() {
            return None;
        }
        let index = self.index.load();
        index
            .select(criterion, &[], self.random())
            .ok()
            .flatten()
            .map(|entry| take(&index, entry))
    }

    /// Whether a server that was selected before is still suitable.
    pub(crate) fn is_suitable(
        &self,
        selected: &SelectedServer,
        criterion: &Criterion,
        deprioritized: &[ServerAddress],
    ) -> bool {
        if self.revision.load(Ordering::Acquire) == selected.revision {
            return true;
        }
        let index = self.index.load();
        let suitable = index.suitable(criterion, deprioritized).unwrap_or_default();
        suitable.iter().any(|own| own.id() == selected.entry().id())
    }

    /// A random number, uniform enough to choose servers, and cheap: SplitMix64 over a counter.
    pub(crate) fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut word = self
            .chance
            .fetch_add(STEP, Ordering::Relaxed)
            .wrapping_add(STEP);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}
