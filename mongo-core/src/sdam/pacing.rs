//! When a check may follow the previous one without a pause.

use std::time::Instant;

use super::TopologyVersion;
use super::check::MIN_HEARTBEAT_FREQUENCY;

/// How many awaited replies in a row may each follow the previous one within
/// [`MIN_HEARTBEAT_FREQUENCY`], if they bring a newer topology version. An election causes a few.
const HURRIED_REPLIES: u32 = 10;

/// Keeps a server from turning checks without a pause into a busy loop.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    /// How many awaited replies in a row came within [`MIN_HEARTBEAT_FREQUENCY`].
    hurried: u32,
    /// How many connections in a row broke within [`MIN_HEARTBEAT_FREQUENCY`].
    broken: u32,
}

impl Pacing {
    /// When the check after an awaited reply may begin; `None` is at once. `began` is when the
    /// answered check began.
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

    /// When a connection that has just broken may be replaced; `None` is at once. `since` is when
    /// its first hello was answered.
    pub(super) fn after_break(&mut self, now: Instant, since: Option<Instant>) -> Option<Instant> {
        let is_soon = since.is_some_and(|since| now < since + MIN_HEARTBEAT_FREQUENCY);
        self.broken = match is_soon {
            true => self.broken.saturating_add(1),
            false => 1,
        };
        (self.broken > 1).then(|| now + MIN_HEARTBEAT_FREQUENCY)
    }
}
