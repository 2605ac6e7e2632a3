use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mongo_core::Error;
use mongo_core::error::Wait;
use mongo_core::select::Criterion;

use crate::backend::Pools;

/// The readiness of a service. Cheap to clone.
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

    /// Makes the service not ready, because it shuts down.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// `Ok` if the monitors currently know a writable server. Does not wait and does not check out
    /// a connection: a full pool is no reason for a restart.
    ///
    /// # Errors
    /// The reason why the service is not ready.
    pub fn is_ready(&self) -> Result<(), &'static str> {
        if self.is_draining.load(Ordering::Relaxed) {
            return Err("draining");
        }
        let known = self.pools.topology().snapshot();
        match known.suitable(&Criterion::write(), &[]) {
            Ok(servers) if !servers.is_empty() => Ok(()),
            Ok(_) | Err(_) => Err("no server is writable"),
        }
    }
}

/// The time limit of [`verify`].
const VERIFY: Duration = Duration::from_secs(5);

/// Verifies the credential with a server. Monitors do not authenticate: with a wrong password the
/// service would be ready, and every request would fail. If the database is unavailable, the
/// service starts nevertheless, and is not ready until the database is available.
///
/// # Errors
/// The server refuses the credential.
pub async fn verify(pools: &Pools) -> Result<(), Error> {
    let verified = tokio::time::timeout(VERIFY, pools.verify()).await;
    let verified = verified.unwrap_or_else(|_| Err(Error::timeout(Wait::Authentication, VERIFY)));
    match verified {
        // A server that steps down or shuts down refuses every credential.
        Err(error) if error.is_authentication() && !error.is_retryable_read() => Err(error),
        Err(error) => {
            tracing::warn!(%error, "the credential is not verified");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
