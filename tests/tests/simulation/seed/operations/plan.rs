//! A seed's decisions about the deployment, the client and its pools.

use std::time::Duration;

use mongo_core::pools::PoolsConfig;

use super::super::chance::Chance;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    ReplicaSet,
    Sharded,
    LoadBalanced,
}

pub(super) struct OperationPlan {
    pub(super) shape: Shape,
    /// Whether the connection string has `w=majority`.
    pub(super) has_majority: bool,
    pub(super) end: End,
    options: String,
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

impl OperationPlan {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let shape = chance.pick(&[
            Shape::ReplicaSet,
            Shape::ReplicaSet,
            Shape::ReplicaSet,
            Shape::Sharded,
            Shape::LoadBalanced,
        ]);
        let timeout: Option<u64> = chance.pick(&[None, None, Some(400), Some(3000)]);
        let most = chance.pick(&[1, 2, 4, 20]);
        let wait = chance.pick(&[500, 2000, 5000]);
        let mut options = format!(
            "&maxPoolSize={most}&waitQueueTimeoutMS={wait}&serverSelectionTimeoutMS={}\
             &socketTimeoutMS={}&maxAdaptiveRetries={}&enableOverloadRetargeting={}",
            chance.pick(&[300, 2000, 8000]),
            chance.pick(&[500, 1500, 4000]),
            chance.pick(&[0, 2, 5]),
            chance.once_in(2),
        );
        let has_majority = !chance.once_in(4);
        if has_majority {
            options += "&w=majority";
        }
        if let Some(timeout) = timeout {
            options += &format!("&timeoutMS={timeout}");
        }
        for option in ["retryReads", "retryWrites"] {
            if chance.once_in(12) {
                options += &format!("&{option}=false");
            }
        }
        Self {
            shape,
            has_majority,
            end: chance.pick(&[End::Calm, End::Calm, End::Sudden, End::Dropped]),
            options,
        }
    }

    /// Further options of the connection string.
    pub(super) fn options(&self) -> &str {
        &self.options
    }

    pub(super) fn config() -> PoolsConfig {
        PoolsConfig::default()
            .with_maintenance_interval(Duration::from_millis(700))
            .with_close_timeout(Duration::from_secs(2))
    }
}
