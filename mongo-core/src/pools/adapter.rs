//! The parts that the adapters have in common.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};

use super::{ManagerConfig, PoolsConfig, duration};
use crate::handshake::ServerApi;
use crate::settings::{self, FromValue, SettingError, Value, settings};
use crate::uri::{ClientOptions, ConnectionString};

/// The bounds of a check-out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// The bound of the whole check-out. Not zero. Default the URI's `timeoutMS`, else its
    /// `waitQueueTimeoutMS`, else 30 s.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::option::serialize"
    )]
    pub wait: Option<Duration>,
    /// The bound of making a connection, beside `connectTimeoutMS` (10 s). Default 30 s.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::option::serialize"
    )]
    pub create: Option<Duration>,
    /// The bound of checking an idle connection. Default none of its own.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::option::serialize"
    )]
    pub recycle: Option<Duration>,
}

settings! { Timeouts { wait, create, recycle } }

/// Which idle connection is taken first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum QueueMode {
    /// The one that has been idle longest.
    Fifo,
    /// The one that was returned last.
    #[default]
    Lifo,
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

/// Settings of an adapter's generic pools under [`Pools`](super::Pools). `Q` is the generic pool's
/// queue mode.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct BackendConfig<Q> {
    /// The most connections of one pool. Default: the URI's `maxPoolSize`.
    pub max_size: Option<u32>,
    /// Which idle connection is taken first. Default LIFO, so that a quiet pool can shrink.
    pub queue_mode: Option<Q>,
    /// The bound of making a connection, beside `connectTimeoutMS` (10 s). Default none.
    pub create_timeout: Option<Duration>,
    /// The bound of checking an idle connection. Default none of its own.
    pub recycle_timeout: Option<Duration>,
}

impl<Q: Default> BackendConfig<Q> {
    /// The defaults, with the most connections of one pool.
    pub fn new(max_size: u32) -> Self {
        Self {
            max_size: Some(max_size),
            ..Self::default()
        }
    }

    /// Sets [`queue_mode`](Self::queue_mode).
    #[must_use]
    pub fn with_queue_mode(mut self, queue_mode: Q) -> Self {
        self.queue_mode = Some(queue_mode);
        self
    }
}

/// The serialized form of an adapter's `Config`. `P` is that of its `pool`.
#[doc(hidden)]
#[derive(Serialize)]
pub struct ConfigForm<'a, P: Serialize> {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "public_url")]
    pub url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<&'a ClientOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_api: Option<&'a ServerApi>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manager: Option<&'a ManagerConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<P>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pools: Option<&'a PoolsConfig>,
}

/// Writes a connection string without its secrets.
fn public_url<S: Serializer>(url: &Option<&str>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(url) = url else {
        return serializer.serialize_none();
    };
    let public = ConnectionString::parse(url).and_then(|parsed| parsed.without_secrets());
    let public = public.map_err(|error| {
        let error = SettingError::unusable(error).within("url");
        ser::Error::custom(error)
    })?;
    serializer.serialize_str(&public)
}

/// Defines `Config` in an adapter, except for its deserialization. The adapter adds methods:
/// `checked_pool_config`, with all settings of the generic pool, `backend_config`, and `pool_form`,
/// the serialized form of `pool`.
#[doc(hidden)]
#[macro_export]
macro_rules! adapter_config {
    ($pool:ty, $(#[$doc:meta])* pool: $pool_config:ty) => {
        /// The configuration: what to connect to, and how to pool it.
        ///
        /// # From the environment or a file
        /// With the [`config`](https://crates.io/crates/config) crate, whose separator is set to
        /// `__`:
        /// ```env
        /// MONGO__URL=mongodb://app:secret@db.example.com/?waitQueueTimeoutMS=2000
        /// MONGO__POOL__MAX_SIZE=16
        /// MONGO__POOL__TIMEOUTS__CREATE=5s
        /// MONGO__MANAGER__RECYCLING_METHOD=Verified
        /// ```
        /// With feature `dns`, [`create_pools`](Self::create_pools) also accepts a URL of
        /// `mongodb+srv`.
        ///
        /// # Names
        /// A setting of the configuration overrides that of the connection string.
        ///
        /// | Setting | Connection string | Configuration | deadpool | bb8 |
        /// |---|---|---|---|---|
        /// | largest size | `maxPoolSize` | `pool.max_size` | `max_size` | `max_size` |
        /// | smallest size | `minPoolSize` | | | |
        /// | idle connections kept | | `pools.min_idle` | | `min_idle` |
        /// | connecting at a time | `maxConnecting` | | | |
        /// | bound of a check-out | `timeoutMS`, `waitQueueTimeoutMS` | `pool.timeouts.wait` | `timeouts.wait` | `connection_timeout` |
        /// | bound of connecting | `connectTimeoutMS` | `pool.timeouts.create` | `timeouts.create` | |
        /// | bound of a check | | `pool.timeouts.recycle` | `timeouts.recycle` | |
        /// | idle time | `maxIdleTimeMS` | `manager.max_idle_time` | | `idle_timeout` |
        /// | life time | | `manager.max_lifetime` | | `max_lifetime` |
        /// | check at check-out | | `manager.recycling_method` | | `test_on_check_out` |
        /// | bound of a command | `timeoutMS`, `socketTimeoutMS` | `manager.command_timeout` | | |
        /// | order of idle connections | | `pool.queue_mode` | `queue_mode` | `queue_strategy` |
        /// | interval of maintenance | | `pools.maintenance_interval` | | `reaper_rate` |
        /// | initialisation | | `on_connect` of a builder | `post_create` | `connection_customizer` |
        ///
        /// `connectTimeoutMS` and `pool.timeouts.create` apply both. The settings of `pools`,
        /// `minPoolSize` and `maxConnecting` apply to [`create_pools`](Self::create_pools) only. An
        /// unknown key that another pool or driver has for a setting is refused with the
        /// setting's name.
        ///
        /// # Serialization
        /// A configuration serializes to what it can be read from again, without secrets. Left out
        /// are fields that are `None`; of [`url`](Self::url) the password, `proxyUsername` and
        /// `proxyPassword`, `tlsCertificateKeyFilePassword`, mechanism properties that may be
        /// secrets, and options that are ignored; and of [`options`](Self::options) what
        /// [`ClientOptions`](mongo_core::uri) leaves out. A URL that can't be parsed, or that has
        /// an unescaped `@` after its hosts, is an error, because any part of it may be a secret.
        ///
        /// # Forms of values
        /// Every field and every table may be left out or given in part. A duration is `"5s"`,
        /// `"100ms"` and the like, or `{ secs, nanos }`. The names of choices ignore case, `_` and
        /// `-`. Errors name keys and types, never a value; a file format's own parser may quote a
        /// line that it can't parse.
        ///
        /// `Debug` shows only the hosts of the URL.
        #[derive(Clone, Default)]
        pub struct Config {
            /// The connection string. Default `mongodb://localhost:27017`.
            pub url: Option<String>,
            /// Client options, instead of a connection string.
            pub options: Option<$crate::ClientOptions>,
            /// The stable API that every command declares, instead of the one in
            /// [`options`](Self::options). A connection string can't declare it.
            pub server_api: Option<$crate::handshake::ServerApi>,
            /// How connections are made and checked.
            pub manager: Option<$crate::pools::ManagerConfig>,
            /// How they are pooled. It overrides the URI: `max_size` overrides `maxPoolSize`,
            /// `timeouts.wait` overrides `timeoutMS` and `waitQueueTimeoutMS`. A warning says so if
            /// they differ (`tracing`, level WARN).
            $(#[$doc])*
            pub pool: Option<$pool_config>,
            /// For [`create_pools`](Self::create_pools) only: the settings that all pools share.
            pub pools: Option<$crate::pools::PoolsConfig>,
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
            pub fn from_options(options: $crate::ClientOptions) -> Self {
                Self {
                    options: Some(options),
                    ..Self::default()
                }
            }

            /// Builds pools of connections to all servers of the deployment, by credential. Does
            /// not connect yet.
            ///
            /// `pool.max_size` applies to each pool, and `pool.timeouts` to each check-out.
            ///
            /// # Errors
            /// The connection string or an option can't be used, sizes contradict each other, or
            /// `timeouts.wait` is zero.
            pub fn create_pools(&self) -> $crate::Result<$crate::pools::Pools<$pool>> {
                self.pools_builder()?.build()
            }

            /// The builder of [`create_pools`](Self::create_pools).
            ///
            /// # Errors
            /// See [`create_pools`](Self::create_pools).
            pub fn pools_builder(&self) -> $crate::Result<$crate::pools::PoolsBuilder<$pool>> {
                let options = self.client_options()?;
                let pool = self.checked_pool_config(&options)?;
                let mut pools = self.pools.clone().unwrap_or_default();
                pools.wait_timeout = pools.wait_timeout.or(pool.timeouts.wait);
                Ok($crate::pools::Pools::builder(options)
                    .config(pools)
                    .manager_config(self.manager.clone().unwrap_or_default())
                    .pool_config(self.backend_config(&pool))
                    .driver_info($crate::adapter_driver_info!()))
            }

            /// The options, with the stable API.
            fn client_options(&self) -> $crate::Result<$crate::ClientOptions> {
                let (url, options) = (self.url.as_deref(), self.options.as_ref());
                let mut options = $crate::pools::client_options(url, options)?;
                options.server_api = self.server_api.or(options.server_api);
                Ok(options)
            }
        }

        /// Checks the connection string.
        impl TryFrom<&str> for Config {
            type Error = $crate::Error;

            fn try_from(url: &str) -> $crate::Result<Self> {
                $crate::pools::check_url(url)?;
                Ok(Self::from_url(url))
            }
        }

        impl From<$crate::ClientOptions> for Config {
            fn from(options: $crate::ClientOptions) -> Self {
                Self::from_options(options)
            }
        }

        impl serde::Serialize for Config {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let form = $crate::pools::ConfigForm {
                    url: self.url.as_deref(),
                    options: self.options.as_ref(),
                    server_api: self.server_api.as_ref(),
                    manager: self.manager.as_ref(),
                    pool: self.pool_form(),
                    pools: self.pools.as_ref(),
                };
                form.serialize(serializer)
            }
        }

        impl std::fmt::Debug for Config {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let url = self.url.as_deref().map($crate::pools::RedactedUrl);
                f.debug_struct("Config")
                    .field("url", &url)
                    .field("options", &self.options)
                    .field("server_api", &self.server_api)
                    .field("manager", &self.manager)
                    .field("pool", &self.pool)
                    .field("pools", &self.pools)
                    .finish()
            }
        }
    };
}

/// Defines the constructors of an adapter's manager, which is made `From` a factory and has it in
/// its field `factory`.
#[doc(hidden)]
#[macro_export]
macro_rules! adapter_manager {
    ($manager:ty) => {
        impl $manager {
            /// A manager for a connection string, with the default configuration.
            ///
            /// # Errors
            /// The connection string can't be used, or needs a feature that is not supported.
            pub fn new(url: &str) -> $crate::Result<Self> {
                let options = $crate::ClientOptions::parse(url)?;
                Self::from_config(options, $crate::pools::ManagerConfig::default())
            }

            /// A manager for client options.
            ///
            /// # Errors
            /// The options need a feature that is not supported.
            pub fn from_config(
                options: $crate::ClientOptions,
                config: $crate::pools::ManagerConfig,
            ) -> $crate::Result<Self> {
                $crate::pools::ConnectionFactory::builder(options)
                    .config(config)
                    .driver_info($crate::adapter_driver_info!())
                    .build()
                    .map(Self::from)
            }

            /// The factory that makes and checks the connections.
            #[inline]
            pub fn factory(&self) -> &$crate::pools::ConnectionFactory {
                &self.factory
            }
        }
    };
}

/// An adapter's entry in the handshake's metadata, which the server logs.
#[doc(hidden)]
#[macro_export]
macro_rules! adapter_driver_info {
    () => {
        $crate::handshake::DriverInfo::new(env!("CARGO_PKG_NAME"))
            .with_version(env!("CARGO_PKG_VERSION"))
    };
}
