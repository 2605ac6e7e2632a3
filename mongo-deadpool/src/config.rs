use std::fmt;

use mongo_core::handshake::ServerApi;
use mongo_core::pools::{
    self, ManagerConfig, PoolsConfig, checked_max_size, client_options, max_size, wait_timeout,
};
use mongo_core::settings;
use mongo_core::uri::ClientOptions;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    BackendConfig, BuildError, ConfigError, Manager, Pool, PoolBuilder, PoolConfig, QueueMode,
    Runtime, Timeouts,
};

mongo_core::adapter_config! {
    Pool,
    ///
    /// deadpool's `max_size` can't be left unset: the size of `PoolConfig::default()`, twice the
    /// number of processors, counts as unset if the URI's `maxPoolSize` is not 100. For the
    /// defaults, see [`get_pool_config`](Self::get_pool_config).
    ///
    /// With serde, a table without `max_size` takes it from the URL or the options beside it, or
    /// else 100. A configuration made in code has deadpool's default of `Fifo`.
    pool: PoolConfig
}

impl Config {
    /// Builds a pool. Does not connect yet.
    ///
    /// The runtime is for deadpool's own time-outs, which only a bare pool uses. `None` means
    /// [`Runtime::Tokio1`]: connections need Tokio anyway.
    ///
    /// # Errors
    /// The connection string or an option can't be used, or the pool's size is 0 or over 100,000.
    pub fn create_pool(&self, runtime: Option<Runtime>) -> Result<Pool, CreatePoolError> {
        let builder = self.builder().map_err(CreatePoolError::Config)?;
        let builder = builder.runtime(runtime.unwrap_or(Runtime::Tokio1));
        let pool = builder.build().map_err(CreatePoolError::Build)?;
        Ok(pool.into())
    }

    /// A builder for a bare deadpool, with this configuration and the Tokio runtime.
    ///
    /// # Errors
    /// See [`create_pool`](Self::create_pool).
    pub fn builder(&self) -> Result<PoolBuilder, ConfigError> {
        let options = self.client_options()?;
        let pool = self.checked_pool_config(&options)?;
        let manager = Manager::from_config(options, self.manager.clone().unwrap_or_default())?;
        Ok(Pool::builder(manager).config(pool).runtime(Runtime::Tokio1))
    }

    /// The complete configuration of deadpool.
    ///
    /// If [`pool`](Self::pool) is `None`, `max_size` is the URI's `maxPoolSize` (100; 0, "no
    /// limit", is 10,000) and `queue_mode` is LIFO, so that a quiet pool can shrink.
    /// `timeouts.wait` is the URI's `timeoutMS`, else its `waitQueueTimeoutMS`, else 30 s, whenever
    /// it is `None`.
    ///
    /// # Errors
    /// The connection string can't be used, or the size is 0 or over 100,000.
    pub fn get_pool_config(&self) -> Result<PoolConfig, ConfigError> {
        self.checked_pool_config(&self.client_options()?)
    }

    fn checked_pool_config(&self, options: &ClientOptions) -> Result<PoolConfig, ConfigError> {
        let default = PoolConfig::default();
        let mut pool = self.pool.unwrap_or(PoolConfig {
            queue_mode: QueueMode::Lifo,
            ..default
        });
        let configured = self.pool.map(|pool| size(&pool));
        pool.max_size = checked_max_size(configured, Some(size(&default)), options)? as usize;
        pool.timeouts.wait = Some(wait_timeout(pool.timeouts.wait, options));
        Ok(pool)
    }

    fn pool_form(&self) -> Option<PoolTable> {
        self.pool.map(|pool| PoolTable {
            max_size: Some(pool.max_size),
            timeouts: pools::Timeouts {
                wait: pool.timeouts.wait,
                create: pool.timeouts.create,
                recycle: pool.timeouts.recycle,
            },
            queue_mode: match pool.queue_mode {
                QueueMode::Fifo => pools::QueueMode::Fifo,
                QueueMode::Lifo => pools::QueueMode::Lifo,
            },
        })
    }

    fn backend_config(&self, pool: &PoolConfig) -> BackendConfig {
        let mut config = BackendConfig::default();
        // Without a configuration, the options' size applies.
        config.max_size = self.pool.map(|_| size(pool));
        config.queue_mode = Some(pool.queue_mode);
        config.create_timeout = pool.timeouts.create;
        config.recycle_timeout = pool.timeouts.recycle;
        config
    }
}

fn size(pool: &PoolConfig) -> u32 {
    u32::try_from(pool.max_size).unwrap_or(u32::MAX)
}

/// The serialized form, in which any part may be missing.
#[derive(Default)]
struct ConfigTable {
    url: Option<String>,
    options: Option<ClientOptions>,
    server_api: Option<ServerApi>,
    manager: Option<ManagerConfig>,
    pool: Option<PoolTable>,
    pools: Option<PoolsConfig>,
}

#[derive(Default, Serialize)]
struct PoolTable {
    max_size: Option<usize>,
    timeouts: pools::Timeouts,
    queue_mode: pools::QueueMode,
}

settings! { ConfigTable { url, options, server_api, manager, pool, pools } }
settings! { PoolTable { max_size, timeouts, queue_mode } }

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = ConfigTable::deserialize(deserializer)?;
        // `builder` reports a URL that can't be used; until then the defaults apply.
        let options = client_options(table.url.as_deref(), table.options.as_ref());
        let size = || max_size(None, None, &options.unwrap_or_default()) as usize;
        Ok(Self {
            pool: table.pool.map(|pool| PoolConfig {
                max_size: pool.max_size.unwrap_or_else(size),
                timeouts: Timeouts {
                    wait: pool.timeouts.wait,
                    create: pool.timeouts.create,
                    recycle: pool.timeouts.recycle,
                },
                queue_mode: match pool.queue_mode {
                    pools::QueueMode::Fifo => QueueMode::Fifo,
                    pools::QueueMode::Lifo => QueueMode::Lifo,
                },
            }),
            url: table.url,
            options: table.options,
            server_api: table.server_api,
            manager: table.manager,
            pools: table.pools,
        })
    }
}

/// Why a pool could not be built. As deadpool's own, except that `source` does not repeat the error
/// that `Display` shows.
#[derive(Debug)]
pub enum CreatePoolError {
    /// The configuration can't be used.
    Config(ConfigError),
    /// deadpool refused to build the pool.
    Build(BuildError),
}

impl fmt::Display for CreatePoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Build(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CreatePoolError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => error.source(),
            Self::Build(error) => error.source(),
        }
    }
}
