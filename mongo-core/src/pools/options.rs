//! The settings of pools over a topology.

use std::time::Duration;

use serde::Serialize;

use super::config::{DEFAULT_WAIT_TIMEOUT, LARGEST_SIZE, UNLIMITED_SIZE};
use super::server_cap::ServerLimits;
use super::{Limits, duration};
use crate::error::{Error, Result};
use crate::event::PoolCreatedOptions;
use crate::settings::settings;
use crate::uri::ClientOptions;

/// The interval of maintenance.
pub const DEFAULT_MAINTENANCE_INTERVAL: Duration = Duration::from_secs(10);

/// How long the pools of a credential may be unused before they are closed.
pub const DEFAULT_UNUSED_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// How long [`Pools::close`](super::Pools::close) waits for connections in use.
pub const DEFAULT_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of [`Pools`](super::Pools) beside the client's options.
///
/// With serde every field may be left out; durations are `"5s"`, `"100ms"` and the like, or
/// `{ secs, nanos }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PoolsConfig {
    /// The most connections to one server, of all credentials together; those of monitors are not
    /// counted. If it is reached, the least recently used idle connection of any credential makes
    /// room. At least `minPoolSize`. Default no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections_per_server: Option<u32>,
    /// The most pending connections to one server, of all credentials together, beside
    /// `maxConnecting` of each pool. Waiting pools are served first in, first out. Default no
    /// limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connecting_per_server: Option<u32>,
    /// How many idle connections maintenance keeps in each pool, beside those in use, up to its
    /// largest size. At most that size. `minPoolSize` also counts connections in use; whichever
    /// needs more connections applies. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_idle: Option<u32>,
    /// The pools of a credential other than the one in the options are closed when they have been
    /// unused for this long. Default 10 min. Zero is never.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::option::serialize"
    )]
    pub unused_timeout: Option<Duration>,
    /// The interval of maintenance: it closes idle connections that are too old, and makes new ones
    /// up to `minPoolSize`. Default 10 s. Zero is never.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::option::serialize"
    )]
    pub maintenance_interval: Option<Duration>,
    /// How long a check-out may take in all, selection included. Not zero: use
    /// [`try_get_with`](super::Pools::try_get_with) for a check-out that does not wait. Default:
    /// the URI's `timeoutMS`, else its `waitQueueTimeoutMS`, else 30 s.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::option::serialize"
    )]
    pub wait_timeout: Option<Duration>,
    /// How long `close` waits for connections in use before it interrupts them. Default 10 s. With
    /// zero it does not wait.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::option::serialize"
    )]
    pub close_timeout: Option<Duration>,
}

settings! {
    PoolsConfig {
        max_connections_per_server,
        max_connecting_per_server,
        min_idle,
        unused_timeout,
        maintenance_interval,
        wait_timeout,
        close_timeout,
    }
}

impl PoolsConfig {
    /// Sets [`max_connections_per_server`](Self::max_connections_per_server).
    #[must_use]
    pub fn with_max_connections_per_server(mut self, max: u32) -> Self {
        self.max_connections_per_server = Some(max);
        self
    }

    /// Sets [`max_connecting_per_server`](Self::max_connecting_per_server).
    #[must_use]
    pub fn with_max_connecting_per_server(mut self, max: u32) -> Self {
        self.max_connecting_per_server = Some(max);
        self
    }

    /// Sets [`min_idle`](Self::min_idle).
    #[must_use]
    pub fn with_min_idle(mut self, min_idle: u32) -> Self {
        self.min_idle = Some(min_idle);
        self
    }

    /// Sets [`unused_timeout`](field@Self::unused_timeout).
    #[must_use]
    pub fn with_unused_timeout(mut self, timeout: Duration) -> Self {
        self.unused_timeout = Some(timeout);
        self
    }

    /// Sets [`maintenance_interval`](field@Self::maintenance_interval).
    #[must_use]
    pub fn with_maintenance_interval(mut self, interval: Duration) -> Self {
        self.maintenance_interval = Some(interval);
        self
    }

    /// Sets [`wait_timeout`](field@Self::wait_timeout).
    #[must_use]
    pub fn with_wait_timeout(mut self, timeout: Duration) -> Self {
        self.wait_timeout = Some(timeout);
        self
    }

    /// Sets [`close_timeout`](field@Self::close_timeout).
    #[must_use]
    pub fn with_close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = Some(timeout);
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.max_connections_per_server == Some(0) {
            return Err(Error::configuration(
                "`max_connections_per_server` is 0: no connection can be made",
            ));
        }
        if self.max_connecting_per_server == Some(0) {
            return Err(Error::configuration(
                "`max_connecting_per_server` is 0: no connection can be made",
            ));
        }
        if self.wait_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Error::configuration(
                "the wait time-out of a check-out is zero: no check-out can wait for a connection",
            ));
        }
        Ok(())
    }

    pub(super) fn server_limits(&self) -> ServerLimits {
        ServerLimits {
            max: self.max_connections_per_server,
            max_connecting: self.max_connecting_per_server,
        }
    }

    pub(super) fn unused_timeout(&self) -> Option<Duration> {
        let timeout = self.unused_timeout.unwrap_or(DEFAULT_UNUSED_TIMEOUT);
        Some(timeout).filter(|timeout| !timeout.is_zero())
    }

    pub(super) fn maintenance_interval(&self) -> Option<Duration> {
        let interval = self.maintenance_interval;
        let interval = interval.unwrap_or(DEFAULT_MAINTENANCE_INTERVAL);
        Some(interval).filter(|interval| !interval.is_zero())
    }

    pub(super) fn wait_timeout(&self, options: &ClientOptions) -> Duration {
        let timeout = self.wait_timeout.or(options.wait_timeout());
        timeout.unwrap_or(DEFAULT_WAIT_TIMEOUT)
    }

    pub(super) fn close_timeout(&self) -> Duration {
        self.close_timeout.unwrap_or(DEFAULT_CLOSE_TIMEOUT)
    }
}

/// The limits that all pools of a registry share.
#[derive(Clone, Debug)]
pub(super) struct PoolOptions {
    /// 0 is no limit.
    pub(super) max_size: u32,
    /// How many connections the generic pool needs room for: at most the server's cap.
    room: u32,
    pub(super) min_size: u32,
    min_idle: u32,
    max_connecting: u32,
    created: PoolCreatedOptions,
}

impl PoolOptions {
    /// The client's options, except that the backend's settings may override the largest size.
    ///
    /// # Errors
    /// The smallest size or number of idle connections is over the largest size, or over the
    /// server's cap; the largest size is over 100,000, or is 0 in the backend's settings; or
    /// `maxConnecting` is 0.
    pub(super) fn new(
        options: &ClientOptions,
        max_lifetime: Option<Duration>,
        backend_size: Option<u32>,
        config: &PoolsConfig,
    ) -> Result<Self> {
        let max_size = backend_size.unwrap_or(options.max_pool_size);
        let (min_size, max_connecting) = (options.min_pool_size, options.max_connecting);
        if backend_size == Some(0) {
            return Err(Error::configuration("the pool's `max_size` is 0"));
        }
        // A generic pool may allocate for all of them when it is built.
        if max_size > LARGEST_SIZE {
            return Err(Error::configuration(format!(
                "the pool's largest size is {max_size}, over {LARGEST_SIZE}"
            )));
        }
        if max_size != 0 && min_size > max_size {
            return Err(Error::configuration(format!(
                "minPoolSize is {min_size}, over the pool's largest size of {max_size}"
            )));
        }
        let cap = config.max_connections_per_server;
        let limits = [Some(max_size).filter(|max| *max != 0), cap];
        let least = limits.into_iter().flatten().min();
        let min_idle = config.min_idle.unwrap_or(0);
        if let Some(least) = least.filter(|least| min_idle > *least) {
            return Err(Error::configuration(format!(
                "`min_idle` is {min_idle}, over the largest size of the pool or the server's cap, \
                 which is {least}"
            )));
        }
        if let Some(cap) = cap.filter(|cap| min_size > *cap) {
            return Err(Error::configuration(format!(
                "minPoolSize is {min_size}, over `max_connections_per_server`, which is {cap}"
            )));
        }
        if max_connecting == 0 {
            return Err(Error::configuration("maxConnecting is 0"));
        }
        let defaults = ClientOptions::default();
        let created = PoolCreatedOptions {
            max_pool_size: Some(max_size).filter(|size| *size != defaults.max_pool_size),
            min_pool_size: Some(min_size).filter(|size| *size != defaults.min_pool_size),
            max_connecting: Some(max_connecting).filter(|max| *max != defaults.max_connecting),
            max_idle_time: options.max_idle_time,
            max_lifetime,
            wait_queue_timeout: options.wait_queue_timeout,
        };
        let limit = match max_size {
            0 => UNLIMITED_SIZE,
            max_size => max_size,
        };
        Ok(Self {
            max_size,
            room: cap.map_or(limit, |cap| limit.min(cap)),
            min_size,
            min_idle,
            max_connecting,
            created,
        })
    }

    /// Whether maintenance makes connections.
    pub(super) fn fills(&self) -> bool {
        self.min_size > 0 || self.min_idle > 0
    }

    /// The size that maintenance fills a pool up to, with so many connections in use.
    pub(super) fn target(&self, in_use: usize) -> u32 {
        let in_use = || u32::try_from(in_use).unwrap_or(u32::MAX);
        let for_idle = match self.min_idle {
            0 => 0,
            min_idle => min_idle.saturating_add(in_use()).min(self.room),
        };
        self.min_size.max(for_idle)
    }

    /// The size of the generic pool, which needs a number and may allocate by it.
    pub(super) fn backend_size(&self) -> u32 {
        self.room
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            max_size: Some(self.max_size).filter(|max| *max != 0),
            max_connecting: Some(self.max_connecting),
        }
    }

    pub(super) fn created_options(&self) -> PoolCreatedOptions {
        self.created.clone()
    }
}
