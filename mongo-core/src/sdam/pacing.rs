//! When a check may follow the previous one without a pause.

use std::time::{Duration, Instant};

use super::TopologyVersion;
use super::check::MIN_HEARTBEAT_FREQUENCY;

/// How many awaited replies in a row may each follow the previous one within
/// [`MIN_HEARTBEAT_FREQUENCY`], if they bring a newer topology version. An election causes a few.
const HURRIED_REPLIES: u32 = 10;

/// The time between further short replies with a newer version. A replica set with one election
/// after the other sends about ten a second: with a longer pause they would pile up, and the state
/// of the topology would be seconds old.
const HURRIED_PAUSE: Duration = Duration::from_millis(50);

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
    /// answered check began. A long reply is costly to handle.
    pub(super) fn after_reply(
        &mut self,
        now: Instant,
        began: Instant,
        is_long: bool,
        [known, found]: [Option<TopologyVersion>; 2],
    ) -> Option<Instant> {
        let is_soon = now < began + MIN_HEARTBEAT_FREQUENCY;
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
        let pause = match (is_newer, self.hurried > HURRIED_REPLIES) {
            (true, false) => Duration::ZERO,
            (true, true) if !is_long => HURRIED_PAUSE,
            (true, true) | (false, _) => MIN_HEARTBEAT_FREQUENCY,
        };
        Some(began + pause).filter(|earliest| now < *earliest)
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
