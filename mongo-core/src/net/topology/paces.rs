//! How soon a removed server may be checked again.

use std::collections::BTreeMap;
use std::time::Instant;

use super::clock::now;
use crate::ServerAddress;
use crate::sdam::MIN_HEARTBEAT_FREQUENCY;

/// The maximum number of remembered servers. Beyond it, the oldest ones are forgotten.
const MAX_REMEMBERED: usize = 1000;

/// The paces of removed monitors, by server. A server that is removed and added again by each reply
/// of another server has a new monitor each time. No pace is remembered for longer than it matters.
#[derive(Default)]
pub(super) struct Paces(BTreeMap<ServerAddress, Instant>);

impl Paces {
    /// Remembers, for each removed server, the time from which its next monitor counts
    /// [`MIN_HEARTBEAT_FREQUENCY`]. Linear in the number of servers: one reply may remove them all.
    pub(super) fn keep(&mut self, removed: Vec<(ServerAddress, Instant)>) {
        if removed.is_empty() {
            return;
        }
        let now = now();
        self.0.extend(removed);
        self.0.retain(|_, pace| matters(*pace, now));
        if let Some(surplus @ 1..) = self.0.len().checked_sub(MAX_REMEMBERED) {
            let mut times: Vec<_> = self.0.values().copied().collect();
            let (_, newest_surplus, _) = times.select_nth_unstable(surplus - 1);
            self.0.retain(|_, pace| *pace > *newest_surplus);
        }
    }

    pub(super) fn take(&mut self, server: &ServerAddress) -> Option<Instant> {
        self.0.remove(server)
    }
}

fn matters(pace: Instant, now: Instant) -> bool {
    now.saturating_duration_since(pace) < MIN_HEARTBEAT_FREQUENCY
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn server(number: usize) -> ServerAddress {
        ServerAddress::tcp(&format!("{number}.example"), 27017)
    }

    #[tokio::test(start_paused = true)]
    async fn paces_are_forgotten_when_they_are_over() {
        let mut paces = Paces::default();
        let begun = now();
        paces.keep(vec![(server(1), begun)]);
        tokio::time::advance(Duration::from_millis(400)).await;
        paces.keep(vec![(server(3), now())]);
        assert_eq!(paces.0.len(), 2);
        tokio::time::advance(Duration::from_millis(200)).await;
        paces.keep(vec![(server(4), begun)]);
        assert_eq!(paces.0.len(), 1);
        assert_eq!(paces.take(&server(1)), None);
        assert!(paces.take(&server(3)).is_some());
        assert_eq!(paces.take(&server(3)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_paces_is_bounded() {
        let mut paces = Paces::default();
        let removed = |numbers: std::ops::Range<usize>| {
            let later = |number| now() + Duration::from_nanos(number as u64);
            numbers
                .map(|number| (server(number), later(number)))
                .collect()
        };
        paces.keep(removed(0..MAX_REMEMBERED - 5));
        paces.keep(removed(MAX_REMEMBERED - 5..MAX_REMEMBERED + 10));
        assert_eq!(paces.0.len(), MAX_REMEMBERED);
        assert_eq!(paces.take(&server(9)), None);
        assert!(paces.take(&server(10)).is_some());
    }
}
