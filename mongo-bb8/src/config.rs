use std::time::Duration;

use mongo_core::pools::{
    DEFAULT_MAX_SIZE, DEFAULT_WAIT_TIMEOUT, QueueMode, Timeouts, checked_max_size, wait_timeout,
};
use mongo_core::uri::ClientOptions;
use serde::Serialize;

use crate::backend::strategy;
use crate::{BackendConfig, ConfigError, Error, MongoConnectionManager, Pool};

/// Why a pool could not be built.
pub type CreatePoolError = Error;

mongo_core::adapter_config! {
    Pool,
    pool: PoolConfig
}

mongo_core::settings! {
    Config { url, options, server_api, manager, pool, pools }
}

/// bb8's settings, with the names of `mongo_deadpool` where both have the setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PoolConfig {
    /// The most connections. Default the URI's `maxPoolSize` (100; 0, "no limit", is 10,000).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u32>,
    /// For [`Config::builder`] only: the smallest number of idle connections of a bare bb8 pool.
    /// Default none. Otherwise set [`PoolsConfig::min_idle`](crate::PoolsConfig::min_idle), and use
    /// [`Config::create_pools`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_idle: Option<u32>,
    /// The bounds of a check-out.
    pub timeouts: Timeouts,
    /// Which idle connection is taken first. Default LIFO, so that a quiet pool can shrink.
    pub queue_mode: QueueMode,
}

mongo_core::settings! {
    PoolConfig { max_size, min_idle, timeouts, queue_mode }
}

impl PoolConfig {
    /// The defaults, with a size.
    pub fn new(max_size: u32) -> Self {
        Self {
            max_size: Some(max_size),
            ..Self::default()
        }
    }
}

/// The runtimes that a pool can run on, named so that a call is the same on either backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Runtime {
    /// Tokio.
    Tokio1,
}

impl Config {
    /// Builds a pool. Does not connect before the first check-out.
    ///
    /// # Errors
    /// The connection string or an option can't be used, the pool's size is 0 or over 100,000, there
    /// is a `min_idle`, `timeouts.wait` is zero, or there is no Tokio runtime.
    pub fn create_pool(&self, runtime: Option<Runtime>) -> Result<Pool, CreatePoolError> {
        let Runtime::Tokio1 = runtime.unwrap_or(Runtime::Tokio1);
        let options = self.client_options()?;
        let pool = self.checked_pool_config(&options)?;
        let builder = self.bb8_builder(pool, &options);
        let manager = self.manager.clone().unwrap_or_default();
        let manager = MongoConnectionManager::from_config(options, manager)?;
        let create = pool.timeouts.create.unwrap_or(DEFAULT_WAIT_TIMEOUT);
        Pool::with_timeouts(builder, manager, Some(create), pool.timeouts.recycle)
    }

    /// A builder for a bare bb8 pool, with this configuration's sizes and times. Make the manager,
    /// which bb8 takes when it builds, with [`MongoConnectionManager::from_config`]:
    /// [`server_api`](Self::server_api), `timeouts.create` and `timeouts.recycle` are not in the
    /// builder.
    ///
    /// # Errors
    /// See [`create_pool`](Self::create_pool).
    pub fn builder(&self) -> Result<bb8::Builder<MongoConnectionManager>, ConfigError> {
        let options = self.client_options()?;
        Ok(self.bb8_builder(self.pool_config(&options)?, &options))
    }

    fn bb8_builder(
        &self,
        pool: PoolConfig,
        options: &ClientOptions,
    ) -> bb8::Builder<MongoConnectionManager> {
        let manager = self.manager.clone().unwrap_or_default();
        // bb8 panics at a bound of zero, which here means none.
        let bound = |bound: Option<Duration>| bound.filter(|bound| !bound.is_zero());
        Pool::builder()
            .max_size(pool.max_size.unwrap_or(DEFAULT_MAX_SIZE))
            .min_idle(pool.min_idle)
            .connection_timeout(pool.timeouts.wait.unwrap_or(DEFAULT_WAIT_TIMEOUT))
            // Also checked at check-out; here for connections that are not checked out.
            .idle_timeout(bound(manager.max_idle_time.or(options.max_idle_time)))
            .max_lifetime(bound(manager.max_lifetime))
            .queue_strategy(strategy(pool.queue_mode))
    }

    /// The pool's settings, with those of the options where there are none.
    fn pool_config(&self, options: &ClientOptions) -> Result<PoolConfig, ConfigError> {
        let mut pool = self.pool.unwrap_or_default();
        let max_size = checked_max_size(pool.max_size, None, options)?;
        if pool.min_idle.is_some_and(|min_idle| min_idle > max_size) {
            return Err(Error::configuration(format!(
                "`pool.min_idle` is more than `pool.max_size`, which is {max_size}"
            )));
        }
        let wait = wait_timeout(pool.timeouts.wait, options);
        if wait.is_zero() {
            return Err(Error::configuration("`pool.timeouts.wait` is zero"));
        }
        (pool.max_size, pool.timeouts.wait) = (Some(max_size), Some(wait));
        Ok(pool)
    }

    /// [`pool_config`](Self::pool_config), if it is not only for a bare bb8 pool.
    fn checked_pool_config(&self, options: &ClientOptions) -> Result<PoolConfig, ConfigError> {
        let pool = self.pool_config(options)?;
        match pool.min_idle {
            None => Ok(pool),
            Some(_) => Err(Error::configuration(
                "`pool.min_idle` is only for a bare bb8 pool; set `pools.min_idle` or `minPoolSize`, \
                 and use `create_pools`",
            )),
        }
    }

    fn pool_form(&self) -> Option<PoolConfig> {
        self.pool
    }

    fn backend_config(&self, pool: &PoolConfig) -> BackendConfig {
        let mut config = BackendConfig::default();
        config.max_size = self.pool.and_then(|pool| pool.max_size);
        config.queue_mode = Some(pool.queue_mode);
        config.create_timeout = pool.timeouts.create;
        config.recycle_timeout = pool.timeouts.recycle;
        config
    }
}
