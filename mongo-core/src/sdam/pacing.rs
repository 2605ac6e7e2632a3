//! When a check may follow the one before without a pause.

use std::time::Instant;

use super::TopologyVersion;
use super::check::MIN_HEARTBEAT_FREQUENCY;

/// Awaited replies in a row that may each follow the one before within [`MIN_HEARTBEAT_FREQUENCY`],
/// if they bring a newer topology version: an election brings a few.
const HURRIED_REPLIES: u32 = 10;

/// Keeps a server from making a busy loop of the checks that follow without a pause.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    /// Awaited replies in a row that came soon.
    hurried: u32,
    /// Connections in a row that broke soon.
    broken: u32,
}

impl Pacing {
    /// When the check may begin that follows an awaited reply: `None` is at once. The reply is to a
    /// check that began at `began`.
    pub(super) fn after_reply(
        &mut self,
        now: Instant,
        began: Instant,
        known: Option<TopologyVersion>,
        found: Option<TopologyVersion>,
    ) -> Option<Instant> {
        let earliest = began + MIN_HEARTBEAT_FREQUENCY;
        let is_soon = now < earliest;
        self.hurried = match is_soon {
            true => self.hurried.saturating_add(1),
            false => 0,
        };
        let is_newer = match (known, found) {
            (Some(known), Some(found)) if known.process_id == found.process_id => {
                found.counter > known.counter
            }
            (None, None) => false,
            (Some(_), Some(_)) | (None, Some(_)) | (Some(_), None) => true,
        };
        let is_paced = is_soon && (!is_newer || self.hurried > HURRIED_REPLIES);
        is_paced.then_some(earliest)
    }

    /// When the connection may be replaced that has just broken, and had answered its first hello
    /// at `since`: `None` is at once.
    pub(super) fn after_break(&mut self, now: Instant, since: Option<Instant>) -> Option<Instant> {
        let is_soon = since.is_some_and(|since| now < since + MIN_HEARTBEAT_FREQUENCY);
        self.broken = match is_soon {
            true => self.broken.saturating_add(1),
            false => 1,
        };
        (self.broken > 1).then(|| now + MIN_HEARTBEAT_FREQUENCY)
    }
}
