use std::fmt;
use std::time::Duration;

use mongo_core::handshake::ServerApi;
use mongo_core::pools::{
    self, LARGEST_SIZE, ManagerConfig, PoolsBuilder, PoolsConfig, RedactedUrl, client_options,
    max_size, wait_timeout,
};
use mongo_core::settings::{self, FromValue, SettingError, Settings, Value};
use mongo_core::uri::ClientOptions;
use serde::{Deserialize, Deserializer, Serialize};

use crate::manager::driver_info;
use crate::{BackendConfig, ConfigError, Error, MongoConnectionManager, Pool, Pools};

/// Why a pool could not be built.
pub type CreatePoolError = Error;

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
/// and the like, or `{ secs, nanos }`. The names of choices ignore case, `_` and `-`. Errors name
/// keys and types, never a value; a file format's own parser may quote a line that it can't parse.
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
    /// How they are pooled. It overrides the URI, as in `mongo_deadpool`: `max_size` overrides
    /// `maxPoolSize`, `timeouts.wait` overrides `timeoutMS` and `waitQueueTimeoutMS`. A warning
    /// says so if they differ (`tracing`, level WARN).
    pub pool: Option<PoolConfig>,
    /// For [`create_pools`](Self::create_pools) only: the settings that all pools share.
    pub pools: Option<PoolsConfig>,
}

/// bb8's settings, with the names of `mongo_deadpool` where both have the setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PoolConfig {
    /// The most connections. Default the URI's `maxPoolSize` (100; 0, "no limit", is 10,000).
    pub max_size: Option<u32>,
    /// For [`Config::builder`] only: the smallest number of idle connections of a bare bb8 pool.
    /// Default none. Otherwise set `minPoolSize` in the URI, and use [`Config::create_pools`].
    pub min_idle: Option<u32>,
    /// The bounds of a check-out.
    pub timeouts: Timeouts,
    /// Which idle connection is taken first. Default LIFO, so that a quiet pool can shrink.
    pub queue_mode: QueueMode,
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

/// The bounds of a check-out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// The bound of the whole check-out. Not zero. Default the URI's `timeoutMS`, else its
    /// `waitQueueTimeoutMS`, else 30 s.
    #[serde(serialize_with = "pools::duration::option::serialize")]
    pub wait: Option<Duration>,
    /// The bound of making a connection, beside `connectTimeoutMS` (10 s). Default 30 s.
    #[serde(serialize_with = "pools::duration::option::serialize")]
    pub create: Option<Duration>,
    /// The bound of checking an idle connection. Default none of its own.
    #[serde(serialize_with = "pools::duration::option::serialize")]
    pub recycle: Option<Duration>,
}

/// Which idle connection is taken first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum QueueMode {
    /// The one that has been idle longest.
    Fifo,
    /// The one that was returned last.
    #[default]
    Lifo,
}

/// The runtimes that a pool can run on, named so that a call is the same on either backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Runtime {
    /// Tokio.
    Tokio1,
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

    /// Builds a pool. Does not connect before the first check-out.
    ///
    /// # Errors
    /// The connection string or an option can't be used, the pool's size is 0 or over 100,000, there
    /// is a `min_idle`, `timeouts.wait` is zero, or there is no Tokio runtime to run bb8's reaper in.
    pub fn create_pool(&self, runtime: Option<Runtime>) -> Result<Pool, CreatePoolError> {
        let Runtime::Tokio1 = runtime.unwrap_or(Runtime::Tokio1);
        let mut options = client_options(self.url.as_deref(), self.options.as_ref())?;
        options.server_api = self.server_api.or(options.server_api);
        let builder = self.bb8_builder(&options)?;
        let PoolConfig {
            min_idle, timeouts, ..
        } = self.pool.unwrap_or_default();
        if min_idle.is_some() {
            return Err(unsupported_min_idle());
        }
        let manager = MongoConnectionManager::with_timeouts(
            options,
            self.manager.clone().unwrap_or_default(),
            timeouts.create,
            timeouts.recycle,
        )?;
        Pool::build(builder, manager)
    }

    /// A builder for a bare bb8 pool, with this configuration's sizes and times. Make the manager,
    /// which bb8 takes when it builds, with [`MongoConnectionManager::from_config`]:
    /// [`server_api`](Self::server_api), `timeouts.create` and `timeouts.recycle` are not in the
    /// builder.
    ///
    /// # Errors
    /// See [`create_pool`](Self::create_pool).
    pub fn builder(&self) -> Result<bb8::Builder<MongoConnectionManager>, ConfigError> {
        self.bb8_builder(&client_options(self.url.as_deref(), self.options.as_ref())?)
    }

    fn bb8_builder(
        &self,
        options: &ClientOptions,
    ) -> Result<bb8::Builder<MongoConnectionManager>, ConfigError> {
        let pool = self.pool.unwrap_or_default();
        let max_size = max_size(pool.max_size, None, options);
        if max_size == 0 || max_size > LARGEST_SIZE {
            return Err(Error::configuration(format!(
                "`pool.max_size` is {max_size}, not from 1 to {LARGEST_SIZE}"
            )));
        }
        if pool.min_idle.is_some_and(|min_idle| min_idle > max_size) {
            return Err(Error::configuration(format!(
                "`pool.min_idle` is more than `pool.max_size`, which is {max_size}"
            )));
        }
        let wait = wait_timeout(pool.timeouts.wait, options);
        if wait.is_zero() {
            return Err(Error::configuration("`pool.timeouts.wait` is zero"));
        }
        let manager = self.manager.clone().unwrap_or_default();
        Ok(Pool::builder()
            .max_size(max_size)
            .min_idle(pool.min_idle)
            .test_on_check_out(true)
            .connection_timeout(wait)
            // These are also checked at check-out; the reaper closes connections that are not
            // checked out.
            .idle_timeout(bound(manager.max_idle_time.or(options.max_idle_time)))
            .max_lifetime(bound(manager.max_lifetime))
            .queue_strategy(pool.queue_mode.into()))
    }

    /// Builds pools of connections to all servers of the deployment, by credential. Does not
    /// connect yet.
    ///
    /// `pool.max_size` applies to each pool, and `pool.timeouts` to each check-out. `pool.min_idle`
    /// is not supported: these pools keep up `minPoolSize`.
    ///
    /// # Errors
    /// The connection string or an option can't be used, sizes contradict each other, or
    /// `pool.min_idle` is set.
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
        let pool = self.pool.unwrap_or_default();
        if pool.min_idle.is_some() {
            return Err(unsupported_min_idle());
        }
        self.bb8_builder(&options)?;
        let mut pools = self.pools.clone().unwrap_or_default();
        pools.wait_timeout = pools.wait_timeout.or(pool.timeouts.wait);
        Ok(Pools::builder(options)
            .config(pools)
            .manager_config(self.manager.clone().unwrap_or_default())
            .pool_config(BackendConfig::from(pool))
            .driver_info(driver_info()))
    }
}

fn unsupported_min_idle() -> Error {
    Error::configuration(
        "`pool.min_idle` is only for a bare bb8 pool; set `minPoolSize` and use `create_pools`",
    )
}

impl From<QueueMode> for bb8::QueueStrategy {
    fn from(mode: QueueMode) -> Self {
        match mode {
            QueueMode::Fifo => Self::Fifo,
            QueueMode::Lifo => Self::Lifo,
        }
    }
}

/// bb8 panics at a bound of zero, which here means none.
fn bound(bound: Option<Duration>) -> Option<Duration> {
    bound.filter(|bound| !bound.is_zero())
}

impl Settings for Config {
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

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        settings::deserialize_table(deserializer)
    }
}

impl Settings for PoolConfig {
    const KEYS: &'static [&'static str] = &["max_size", "min_idle", "timeouts", "queue_mode"];

    fn set(&mut self, key: &'static str, value: Value) -> Result<(), SettingError> {
        match key {
            "max_size" => self.max_size = value.read()?,
            "min_idle" => self.min_idle = value.read()?,
            "timeouts" => self.timeouts = value.read_table()?,
            _ => self.queue_mode = value.read()?,
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for PoolConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        settings::deserialize_table(deserializer)
    }
}

impl Settings for Timeouts {
    const KEYS: &'static [&'static str] = &["wait", "create", "recycle"];

    fn set(&mut self, key: &'static str, value: Value) -> Result<(), SettingError> {
        let timeout = match key {
            "wait" => &mut self.wait,
            "create" => &mut self.create,
            _ => &mut self.recycle,
        };
        *timeout = value.read()?;
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Timeouts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        settings::deserialize_table(deserializer)
    }
}

impl FromValue for QueueMode {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        value.choose(&[("Fifo", Self::Fifo), ("Lifo", Self::Lifo)])
    }
}

impl<'de> Deserialize<'de> for QueueMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        settings::deserialize(deserializer)
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
