//! A seed's decisions about the pools.

use std::time::Duration;

use mongo_core::pools::{ManagerConfig, PoolsConfig, RecyclingMethod};

use super::super::chance::Chance;

/// The limits of the pools.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) max: usize,
    min: usize,
    pub(super) max_connecting: usize,
    pub(super) cap: Option<usize>,
}

pub(super) struct PoolPlan {
    pub(super) sizes: Sizes,
    max_idle_time: Option<Duration>,
    max_lifetime: Option<Duration>,
    recycling_method: RecyclingMethod,
    unused_timeout: Option<Duration>,
    /// Whether there is an event handler. Without one, check-outs publish no events, and immediate
    /// ones take a shorter path.
    pub(super) is_watched: bool,
    pub(super) end: End,
}

/// The end of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All callers have ended before the close.
    Calm,
    /// The pools are closed while callers are active.
    Sudden,
    /// The last handle is dropped.
    Dropped,
}

impl PoolPlan {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let max = chance.pick(&[1, 2, 3, 5]);
        let idle_time = chance.millis(200, 5000);
        let lifetime = chance.millis(500, 8000);
        let min = chance.pick(&[0, 0, 1, max]);
        let max_connecting = chance.pick(&[1, 2, 2, 3]);
        let cap = chance.pick(&[None, Some(1), Some(2), Some(3), Some(4)]);
        Self {
            sizes: Sizes {
                max,
                // More would be refused.
                min: min.min(cap.unwrap_or(max)),
                max_connecting,
                cap,
            },
            max_idle_time: chance.once_in(3).then_some(idle_time),
            max_lifetime: chance.once_in(3).then_some(lifetime),
            recycling_method: match chance.below(3) {
                0 => RecyclingMethod::Fast,
                1 => RecyclingMethod::Verified,
                _ => RecyclingMethod::VerifiedAfter(Duration::from_millis(100)),
            },
            unused_timeout: chance.once_in(2).then_some(Duration::from_secs(2)),
            is_watched: !chance.once_in(4),
            end: chance.pick(&[End::Calm, End::Sudden, End::Dropped]),
        }
    }

    pub(super) fn options(&self) -> String {
        let Sizes {
            max,
            min,
            max_connecting,
            ..
        } = self.sizes;
        let idle = self.max_idle_time.map_or(0, |time| time.as_millis());
        format!(
            "&maxPoolSize={max}&minPoolSize={min}&maxConnecting={max_connecting}\
             &maxIdleTimeMS={idle}"
        )
    }

    pub(super) fn config(&self) -> PoolsConfig {
        let mut config = PoolsConfig::default()
            .with_maintenance_interval(Duration::from_millis(700))
            .with_close_timeout(Duration::from_secs(2));
        config.max_connections_per_server = self.sizes.cap.and_then(|cap| u32::try_from(cap).ok());
        config.unused_timeout = self.unused_timeout;
        config
    }

    pub(super) fn manager(&self) -> ManagerConfig {
        let mut manager = ManagerConfig::new(self.recycling_method);
        manager.max_lifetime = self.max_lifetime;
        manager
    }
}
