use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bson::RawDocument;

use crate::operation::ClusterTime;

/// Keeps the newest cluster time. Lock-free.
#[derive(Default)]
pub(super) struct ClusterClock(ArcSwapOption<ClusterTime>);

impl ClusterClock {
    pub(super) fn newest(&self) -> Option<Arc<ClusterTime>> {
        self.0.load_full()
    }

    /// Takes a `$clusterTime` if it is newer. Allocates only then.
    pub(super) fn advance(&self, document: &RawDocument) -> bool {
        let is_newer = |known: Option<&ClusterTime>, time: &ClusterTime| match known {
            Some(known) => key(time) > key(known),
            None => true,
        };
        let known = self.0.load().as_deref().map(ClusterTime::timestamp);
        let Some(newer) = ClusterTime::newer(document, known) else {
            return false;
        };
        let newer = Arc::new(newer);
        // Retries after concurrent updates.
        let before = self
            .0
            .rcu(|known| match is_newer(known.as_deref(), &newer) {
                true => Some(newer.clone()),
                false => known.clone(),
            });
        is_newer(before.as_deref(), &newer)
    }

    pub(super) fn forget(&self) {
        self.0.store(None);
    }
}

fn key(time: &ClusterTime) -> (u32, u32) {
    (time.timestamp().time, time.timestamp().increment)
}

impl fmt::Debug for ClusterClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.load().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, Timestamp, rawdoc};

    use super::*;

    fn time(time: u32, increment: u32) -> RawDocumentBuf {
        let timestamp = Timestamp { time, increment };
        rawdoc! {"clusterTime": timestamp, "signature": {"keyId": 1_i64}}
    }

    #[test]
    fn only_a_newer_cluster_time_is_taken() {
        let clock = ClusterClock::default();
        assert_eq!(clock.newest(), None);
        for (seconds, increment, taken) in [
            (5, 2, true),
            (5, 2, false),
            (5, 1, false),
            (4, 9, false),
            (5, 3, true),
            (6, 0, true),
            (u32::MAX, u32::MAX, true),
        ] {
            assert_eq!(clock.advance(&time(seconds, increment)), taken);
        }
        let newest = clock.newest().expect("a time");
        assert_eq!(newest.timestamp().time, u32::MAX);
        assert_eq!(newest.document(), &*time(u32::MAX, u32::MAX));
        clock.forget();
        assert_eq!(clock.newest(), None);
    }

    #[test]
    fn malformed_cluster_times_are_ignored() {
        let clock = ClusterClock::default();
        let timestamp = Timestamp {
            time: 1,
            increment: 1,
        };
        let padded = rawdoc! {"clusterTime": timestamp, "signature": "x".repeat(1024)};
        let broken = RawDocumentBuf::from_bytes(vec![6, 0, 0, 0, 17, 0]).expect("a length");
        for document in [
            rawdoc! {},
            rawdoc! {"clusterTime": 5_i64},
            rawdoc! {"time": timestamp},
            padded,
            broken,
        ] {
            assert!(!clock.advance(&document));
        }
        assert_eq!(clock.newest(), None);
    }

    #[test]
    fn of_many_threads_the_newest_wins() {
        let clock = ClusterClock::default();
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let clock = &clock;
                    scope.spawn(move || {
                        let times = (0..5000).map(|step| time(step * 4 + thread, 0));
                        times.filter(|time| clock.advance(time)).count()
                    })
                })
                .collect();
            let counts = threads.into_iter().map(|thread| thread.join());
            counts.map(|count| count.expect("no panic")).sum()
        });
        assert_eq!(clock.newest().expect("a time").timestamp().time, 19_999);
        assert!((5000..=20_000).contains(&taken), "{taken}");
    }
}
