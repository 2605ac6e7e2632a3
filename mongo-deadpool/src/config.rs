use std::fmt;
use std::time::Duration;

use mongo_core::handshake::ServerApi;
use mongo_core::pools::{
    self, DEFAULT_WAIT_TIMEOUT, LARGEST_SIZE, ManagerConfig, PoolsBuilder, PoolsConfig,
    RedactedUrl, UNLIMITED_SIZE, client_options,
};
use mongo_core::uri::ClientOptions;
use serde::Deserialize;

use crate::manager::driver_info;
use crate::{
    BackendConfig, ConfigError, CreatePoolError, Error, Manager, Pool, PoolBuilder, PoolConfig,
    Pools, QueueMode, Runtime, Timeouts,
};

/// What to connect to, and how to pool it.
///
/// # From the environment or a file
/// With the [`config`](https://crates.io/crates/config) crate, whose separator is set to `__`:
/// ```env
/// MONGO__URL=mongodb://app:secret@db.example.com/?waitQueueTimeoutMS=2000
/// MONGO__POOL__MAX_SIZE=16
/// MONGO__POOL__TIMEOUTS__CREATE=5s
/// MONGO__MANAGER__RECYCLING_METHOD=Verified
/// ```
/// With feature `dns`, the URL may be one of `mongodb+srv`, for [`create_pools`](Self::create_pools).
///
/// Every field and every table may be left out or given in part. A duration is `"5s"`, `"100ms"`
/// and the like, or deadpool's own `{ secs, nanos }`.
///
/// `Debug` shows the hosts of the URL and nothing else of it.
#[derive(Clone, Default, Deserialize)]
#[serde(from = "ConfigFile")]
pub struct Config {
    /// The connection string. Default `mongodb://localhost:27017`.
    pub url: Option<String>,
    /// Client options, instead of a connection string.
    pub options: Option<ClientOptions>,
    /// The stable API that every command is to keep to, in place of that of
    /// [`options`](Self::options). A connection string can't declare it.
    pub server_api: Option<ServerApi>,
    /// How connections are made and checked.
    pub manager: Option<ManagerConfig>,
    /// deadpool's own configuration. What it leaves out, or all of it: see
    /// [`get_pool_config`](Self::get_pool_config).
    ///
    /// Read by serde, a table without `max_size` takes it from the URL or the options beside it, or
    /// else 100: deadpool has no way to leave it open for a URL that is set later. One made in code
    /// is deadpool's, with its `Fifo` for a default.
    pub pool: Option<PoolConfig>,
    /// For [`create_pools`](Self::create_pools) only: what the pools have in common.
    pub pools: Option<PoolsConfig>,
}

impl Config {
    /// A configuration for a connection string.
    pub fn from_url(url: impl Into<String>) -> Self {
        Self {
            url: Some(url.into()),
            ..Self::default()
        }
    }

    /// A configuration for client options.
    pub fn from_options(options: ClientOptions) -> Self {
        Self {
            options: Some(options),
            ..Self::default()
        }
    }

    /// Builds a pool. No connection is made yet.
    ///
    /// The runtime is for deadpool's own time-outs, which only a bare pool uses; `None` is
    /// [`Runtime::Tokio1`], since connections need tokio anyway.
    ///
    /// # Errors
    /// The connection string or an option can't be used, or the pool's size is 0 or over 100,000.
    pub fn create_pool(&self, runtime: Option<Runtime>) -> Result<Pool, CreatePoolError> {
        let builder = self.builder().map_err(CreatePoolError::Config)?;
        let builder = builder.runtime(runtime.unwrap_or(Runtime::Tokio1));
        builder
            .build()
            .map(Pool::from)
            .map_err(CreatePoolError::Build)
    }

    /// A builder for a bare deadpool, with this configuration and tokio's runtime.
    ///
    /// # Errors
    /// See [`create_pool`](Self::create_pool).
    pub fn builder(&self) -> Result<PoolBuilder, ConfigError> {
        let mut options = client_options(self.url.as_deref(), self.options.as_ref())?;
        options.server_api = self.server_api.or(options.server_api);
        let pool = self.checked_pool_config(&options)?;
        let manager = Manager::from_config(options, self.manager.clone().unwrap_or_default())?;
        Ok(Pool::builder(manager).config(pool).runtime(Runtime::Tokio1))
    }

    /// deadpool's configuration, complete.
    ///
    /// Where [`pool`](Self::pool) is `None`: `max_size` is the URI's `maxPoolSize` (100; 0, "no
    /// limit", is 10,000) and `queue_mode` is LIFO, so that a quiet pool can shrink. `timeouts.wait`
    /// is the URI's `timeoutMS`, else its `waitQueueTimeoutMS`, else 30 s, wherever it is `None`.
    ///
    /// # Errors
    /// The connection string can't be used.
    pub fn get_pool_config(&self) -> Result<PoolConfig, ConfigError> {
        let options = client_options(self.url.as_deref(), self.options.as_ref())?;
        Ok(self.pool_config(&options))
    }

    /// Builds pools of connections to all servers of the deployment, by credential. Nothing is
    /// connected yet.
    ///
    /// `pool.max_size` and `pool.timeouts` are those of each pool, or of each check-out.
    ///
    /// # Errors
    /// The connection string or an option can't be used, sizes contradict each other, or
    /// `timeouts.wait` is zero.
    pub fn create_pools(&self) -> Result<Pools, ConfigError> {
        self.pools_builder()?.build()
    }

    /// [`create_pools`](Self::create_pools), still to be built.
    ///
    /// # Errors
    /// See [`create_pools`](Self::create_pools).
    pub fn pools_builder(&self) -> Result<PoolsBuilder<Pool>, ConfigError> {
        let mut options = client_options(self.url.as_deref(), self.options.as_ref())?;
        options.server_api = self.server_api.or(options.server_api);
        let pool = self.checked_pool_config(&options)?;
        let mut pools = self.pools.clone().unwrap_or_default();
        pools.wait_timeout = pools.wait_timeout.or(pool.timeouts.wait);
        // Without a size of its own it is the options'.
        let backend = match self.pool {
            Some(_) => BackendConfig::from(pool),
            None => BackendConfig::default(),
        };
        Ok(Pools::builder(options)
            .config(pools)
            .manager_config(self.manager.clone().unwrap_or_default())
            .pool_config(backend)
            .driver_info(driver_info()))
    }

    fn checked_pool_config(&self, options: &ClientOptions) -> Result<PoolConfig, ConfigError> {
        let pool = self.pool_config(options);
        match pool.max_size {
            max_size if (1..=LARGEST_SIZE as usize).contains(&max_size) => Ok(pool),
            max_size => Err(Error::configuration(format!(
                "`pool.max_size` is {max_size}, not from 1 to {LARGEST_SIZE}"
            ))),
        }
    }

    fn pool_config(&self, options: &ClientOptions) -> PoolConfig {
        let mut pool = self.pool.unwrap_or_else(|| default_pool(options));
        let wait = options.wait_timeout().unwrap_or(DEFAULT_WAIT_TIMEOUT);
        pool.timeouts.wait = pool.timeouts.wait.or(Some(wait));
        pool
    }
}

fn default_pool(options: &ClientOptions) -> PoolConfig {
    let max_size = match options.max_pool_size {
        0 => UNLIMITED_SIZE,
        max_size => max_size,
    };
    PoolConfig {
        queue_mode: QueueMode::Lifo,
        ..PoolConfig::new(max_size as usize)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &self.url.as_deref().map(RedactedUrl))
            .field("options", &self.options)
            .field("server_api", &self.server_api)
            .field("manager", &self.manager)
            .field("pool", &self.pool)
            .field("pools", &self.pools)
            .finish()
    }
}

/// The serialised form, in which any part may be missing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    url: Option<String>,
    options: Option<ClientOptions>,
    server_api: Option<ServerApi>,
    manager: Option<ManagerConfig>,
    pool: Option<PoolFile>,
    pools: Option<PoolsConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolFile {
    max_size: Option<usize>,
    #[serde(default)]
    timeouts: TimeoutsFile,
    queue_mode: Option<QueueModeFile>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TimeoutsFile {
    #[serde(with = "pools::duration::option")]
    wait: Option<Duration>,
    #[serde(with = "pools::duration::option")]
    create: Option<Duration>,
    #[serde(with = "pools::duration::option")]
    recycle: Option<Duration>,
}

#[derive(Deserialize)]
enum QueueModeFile {
    Fifo,
    Lifo,
}

impl From<ConfigFile> for Config {
    fn from(file: ConfigFile) -> Self {
        let pool = file.pool.map(|pool| {
            // A URL that can't be used is `builder`'s to report; until then the defaults do.
            let options = client_options(file.url.as_deref(), file.options.as_ref());
            let defaults = default_pool(&options.unwrap_or_default());
            PoolConfig {
                max_size: pool.max_size.unwrap_or(defaults.max_size),
                timeouts: Timeouts {
                    wait: pool.timeouts.wait,
                    create: pool.timeouts.create,
                    recycle: pool.timeouts.recycle,
                },
                queue_mode: match pool.queue_mode {
                    Some(QueueModeFile::Fifo) => QueueMode::Fifo,
                    Some(QueueModeFile::Lifo) => QueueMode::Lifo,
                    None => defaults.queue_mode,
                },
            }
        });
        Self {
            url: file.url,
            options: file.options,
            server_api: file.server_api,
            manager: file.manager,
            pool,
            pools: file.pools,
        }
    }
}
