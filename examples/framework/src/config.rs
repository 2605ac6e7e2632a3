//! The one shape of a configuration, whichever the database and the pool.

use std::time::Duration;

use mongo_core::pools::Timeouts;
use serde::Deserialize;

/// A database, for instance in TOML:
/// ```toml
/// url = "postgres://app:secret@db.example.com/app"
/// pool.max_size = 16
/// pool.timeouts.wait = "5s"
/// ```
/// Without `Debug`, because the URL may contain a password.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// The URL, in the database's own form. Its scheme chooses the database.
    pub url: String,
    /// How connections are pooled.
    #[serde(default)]
    pub pool: PoolConfig,
}

/// The pool's own table, for deadpool and bb8 alike.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PoolConfig {
    /// The most connections. Default the pool's own, or for MongoDB the URL's `maxPoolSize`.
    pub max_size: Option<u32>,
    /// The bounds of a check-out.
    pub timeouts: Timeouts,
}

impl Config {
    /// A configuration with defaults.
    pub fn from_url(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            pool: PoolConfig::default(),
        }
    }

    /// Sets the most connections.
    #[must_use]
    pub fn max_size(mut self, max_size: u32) -> Self {
        self.pool.max_size = Some(max_size);
        self
    }

    /// Sets the longest wait of a check-out.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.pool.timeouts.wait = Some(wait);
        self
    }
}
