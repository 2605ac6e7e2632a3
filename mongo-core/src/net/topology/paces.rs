//! How soon a removed server may be checked again.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::ServerAddress;
use crate::net::topology::monitor::now;
use crate::sdam::MIN_HEARTBEAT_FREQUENCY;

/// The maximum number of remembered servers. Beyond it, the oldest ones are forgotten.
const MAX_REMEMBERED: usize = 1000;

/// The paces of removed monitors, by server. A server that is removed and added again by each reply
/// of another server has a new monitor each time. No pace is remembered for longer than it matters.
#[derive(Default)]
pub(super) struct Paces(BTreeMap<ServerAddress, Instant>);

impl Paces {
    /// Remembers the time from which the next monitor of a server counts
    /// [`MIN_HEARTBEAT_FREQUENCY`].
    pub(super) fn keep(&mut self, server: &ServerAddress, pace: Option<Instant>) {
        let now = now();
        self.0.retain(|_, pace| matters(*pace, now));
        let Some(pace) = pace.filter(|pace| matters(*pace, now)) else {
            return;
        };
        if self.0.len() >= MAX_REMEMBERED {
            let oldest = self.0.iter().min_by_key(|(_, pace)| **pace);
            let oldest = oldest.map(|(server, _)| server.clone());
            oldest.and_then(|server| self.0.remove(&server));
        }
        self.0.insert(server.clone(), pace);
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
        paces.keep(&server(1), Some(begun));
        paces.keep(&server(2), None);
        tokio::time::advance(Duration::from_millis(400)).await;
        paces.keep(&server(3), Some(now()));
        assert_eq!(paces.0.len(), 2);
        tokio::time::advance(Duration::from_millis(200)).await;
        paces.keep(&server(4), Some(begun));
        assert_eq!(paces.0.len(), 1);
        assert_eq!(paces.take(&server(1)), None);
        assert!(paces.take(&server(3)).is_some());
        assert_eq!(paces.take(&server(3)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_paces_is_bounded() {
        let mut paces = Paces::default();
        for number in 0..MAX_REMEMBERED + 10 {
            let later = Duration::from_nanos(number as u64);
            paces.keep(&server(number), Some(now() + later));
        }
        assert_eq!(paces.0.len(), MAX_REMEMBERED);
        assert_eq!(paces.take(&server(9)), None);
        assert!(paces.take(&server(10)).is_some());
    }
}
