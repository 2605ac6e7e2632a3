use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mongo_core::select::Criterion;

use crate::backend::Pools;

/// Whether a service is to get requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    pools: Pools,
    is_draining: Arc<AtomicBool>,
}

impl Health {
    /// The health of a service on these pools.
    pub fn new(pools: &Pools) -> Self {
        Self {
            pools: pools.clone(),
            is_draining: Arc::default(),
        }
    }

    /// No more requests are wanted: the service ends.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// `Ok` if there is a server for writes, as the monitors know it now, else why not. Waits for
    /// nothing and takes no connection: a full pool is no reason to be restarted.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn is_ready(&self) -> Result<(), &'static str> {
        if self.is_draining.load(Ordering::Relaxed) {
            return Err("draining");
        }
        let known = self.pools.topology().snapshot();
        match known.suitable(&Criterion::write(), &[]) {
            Ok(servers) if !servers.is_empty() => Ok(()),
            Ok(_) | Err(_) => Err("no server takes writes"),
        }
    }
}
