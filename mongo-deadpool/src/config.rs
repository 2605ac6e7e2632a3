use std::fmt;

use mongo_core::handshake::ServerApi;
use mongo_core::pools::{
    LARGEST_SIZE, ManagerConfig, PoolsBuilder, PoolsConfig, RedactedUrl, client_options, max_size,
    wait_timeout,
};
use mongo_core::settings::{self, SettingError, Settings, Value};
use mongo_core::uri::ClientOptions;
use serde::{Deserialize, Deserializer};

use crate::manager::driver_info;
use crate::{
    BackendConfig, BuildError, ConfigError, Error, Manager, Pool, PoolBuilder, PoolConfig, Pools,
    QueueMode, Runtime, Timeouts,
};

/// The configuration: what to connect to, and how to pool it.
///
/// # From the environment or a file
/// With the [`config`](https://crates.io/crates/config) crate, whose separator is set to `__`:
/// ```env
/// MONGO__URL=mongodb://app:secret@db.example.com/?waitQueueTimeoutMS=2000
/// MONGO__POOL__MAX_SIZE=16
/// MONGO__POOL__TIMEOUTS__CREATE=5s
/// MONGO__MANAGER__RECYCLING_METHOD=Verified
/// ```
/// With feature `dns`, [`create_pools`](Self::create_pools) also accepts a URL of `mongodb+srv`.
///
/// Every field and every table may be left out or given in part. A duration is `"5s"`, `"100ms"`
/// and the like, or deadpool's own `{ secs, nanos }`. The names of choices ignore case, `_` and
/// `-`. Errors name keys and types, never a value; a file format's own parser may quote a line that
/// it can't parse.
///
/// `Debug` shows only the hosts of the URL.
#[derive(Clone, Default)]
pub struct Config {
    /// The connection string. Default `mongodb://localhost:27017`.
    pub url: Option<String>,
    /// Client options, instead of a connection string.
    pub options: Option<ClientOptions>,
    /// The stable API that every command declares, instead of the one in
    /// [`options`](Self::options). A connection string can't declare it.
    pub server_api: Option<ServerApi>,
    /// How connections are made and checked.
    pub manager: Option<ManagerConfig>,
    /// deadpool's own configuration. For the defaults, see
    /// [`get_pool_config`](Self::get_pool_config).
    ///
    /// It overrides the URI, as in `mongo_bb8`: `max_size` overrides `maxPoolSize`, `timeouts.wait`
    /// overrides `timeoutMS` and `waitQueueTimeoutMS`. A warning says so if they differ (`tracing`,
    /// level WARN). deadpool's `max_size` can't be left unset: the size of `PoolConfig::default()`,
    /// twice the number of processors, counts as unset if the URI's `maxPoolSize` is not 100.
    ///
    /// With serde, a table without `max_size` takes it from the URL or the options beside it, or
    /// else 100. A configuration made in code has deadpool's default of `Fifo`.
    pub pool: Option<PoolConfig>,
    /// For [`create_pools`](Self::create_pools) only: the settings that all pools share.
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
        builder
            .build()
            .map(Pool::from)
            .map_err(CreatePoolError::Build)
    }

    /// A builder for a bare deadpool, with this configuration and the Tokio runtime.
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

    /// The complete configuration of deadpool.
    ///
    /// If [`pool`](Self::pool) is `None`, `max_size` is the URI's `maxPoolSize` (100; 0, "no
    /// limit", is 10,000) and `queue_mode` is LIFO, so that a quiet pool can shrink.
    /// `timeouts.wait` is the URI's `timeoutMS`, else its `waitQueueTimeoutMS`, else 30 s, whenever
    /// it is `None`.
    ///
    /// # Errors
    /// The connection string can't be used.
    pub fn get_pool_config(&self) -> Result<PoolConfig, ConfigError> {
        let options = client_options(self.url.as_deref(), self.options.as_ref())?;
        Ok(self.pool_config(&options))
    }

    /// Builds pools of connections to all servers of the deployment, by credential. Does not
    /// connect yet.
    ///
    /// `pool.max_size` applies to each pool, and `pool.timeouts` to each check-out.
    ///
    /// # Errors
    /// The connection string or an option can't be used, sizes contradict each other, or
    /// `timeouts.wait` is zero.
    pub fn create_pools(&self) -> Result<Pools, ConfigError> {
        self.pools_builder()?.build()
    }

    /// The builder of [`create_pools`](Self::create_pools).
    ///
    /// # Errors
    /// See [`create_pools`](Self::create_pools).
    pub fn pools_builder(&self) -> Result<PoolsBuilder<Pool>, ConfigError> {
        let mut options = client_options(self.url.as_deref(), self.options.as_ref())?;
        options.server_api = self.server_api.or(options.server_api);
        let pool = self.checked_pool_config(&options)?;
        let mut pools = self.pools.clone().unwrap_or_default();
        pools.wait_timeout = pools.wait_timeout.or(pool.timeouts.wait);
        // Without a configuration, the options' size applies.
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
        let mut pool = self.pool.unwrap_or(PoolConfig {
            queue_mode: QueueMode::Lifo,
            ..PoolConfig::default()
        });
        pool.max_size = self.max_size(options);
        pool.timeouts.wait = Some(wait_timeout(pool.timeouts.wait, options));
        pool
    }

    fn max_size(&self, options: &ClientOptions) -> usize {
        let size = |pool: PoolConfig| u32::try_from(pool.max_size).unwrap_or(u32::MAX);
        let default = size(PoolConfig::default());
        max_size(self.pool.map(size), Some(default), options) as usize
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

/// The serialized form, in which any part may be missing.
#[derive(Default)]
struct ConfigFile {
    url: Option<String>,
    options: Option<ClientOptions>,
    server_api: Option<ServerApi>,
    manager: Option<ManagerConfig>,
    pool: Option<PoolFile>,
    pools: Option<PoolsConfig>,
}

impl Settings for ConfigFile {
    const KEYS: &'static [&'static str] =
        &["url", "options", "server_api", "manager", "pool", "pools"];

    fn set(&mut self, key: &'static str, value: Value) -> Result<(), SettingError> {
        match key {
            "url" => self.url = value.read()?,
            "options" => self.options = value.read()?,
            "server_api" => self.server_api = value.read()?,
            "manager" => self.manager = value.read()?,
            "pool" => self.pool = Some(value.read_table()?),
            _ => self.pools = value.read()?,
        }
        Ok(())
    }
}

#[derive(Default)]
struct PoolFile {
    max_size: Option<usize>,
    timeouts: Timeouts,
    queue_mode: Option<QueueMode>,
}

impl Settings for PoolFile {
    const KEYS: &'static [&'static str] = &["max_size", "timeouts", "queue_mode"];

    fn set(&mut self, key: &'static str, value: Value) -> Result<(), SettingError> {
        match key {
            "max_size" => self.max_size = value.read()?,
            "timeouts" => self.timeouts = value.read_table::<TimeoutsFile>()?.0,
            _ => {
                let choices = [("Fifo", QueueMode::Fifo), ("Lifo", QueueMode::Lifo)];
                self.queue_mode = Some(value.choose(&choices)?);
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct TimeoutsFile(Timeouts);

impl Settings for TimeoutsFile {
    const KEYS: &'static [&'static str] = &["wait", "create", "recycle"];

    fn set(&mut self, key: &'static str, value: Value) -> Result<(), SettingError> {
        let timeout = match key {
            "wait" => &mut self.0.wait,
            "create" => &mut self.0.create,
            _ => &mut self.0.recycle,
        };
        *timeout = value.read()?;
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        settings::deserialize_table::<ConfigFile, D>(deserializer).map(Self::from)
    }
}

impl From<ConfigFile> for Config {
    fn from(file: ConfigFile) -> Self {
        let pool = file.pool.map(|pool| {
            // `builder` reports a URL that can't be used; until then the defaults apply.
            let options = client_options(file.url.as_deref(), file.options.as_ref());
            let max_size = || max_size(None, None, &options.unwrap_or_default()) as usize;
            PoolConfig {
                max_size: pool.max_size.unwrap_or_else(max_size),
                timeouts: pool.timeouts,
                queue_mode: pool.queue_mode.unwrap_or(QueueMode::Lifo),
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
