use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mongo_core::Error;
use mongo_core::error::Wait;
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

/// How long a service may ask before it starts to serve.
const VERIFY: Duration = Duration::from_secs(5);

/// Asks a server whether the credential is good. Monitors do not authenticate: with a wrong password
/// the service would be ready, and fail each request. A database that can't be asked is no reason
/// not to start: the service is not ready until it is there.
///
/// # Errors
/// The server refuses the credential.
pub async fn verify(pools: &Pools) -> Result<(), Error> {
    let verified = tokio::time::timeout(VERIFY, pools.verify()).await;
    let verified = verified.unwrap_or_else(|_| Err(Error::timeout(Wait::Authentication, VERIFY)));
    match verified {
        // One that steps down or shuts down refuses any.
        Err(error) if error.is_authentication() && !error.is_retryable_read() => Err(error),
        Err(error) => {
            tracing::warn!(%error, "the credential is not verified");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
