use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::duration;
use crate::settings::{FromValue, SettingError, Value, is_named, settings};
use crate::uri::ClientOptions;

/// How long a command may take if neither the URI nor the manager's configuration sets a bound.
pub const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the next check-out waits for the reply to a cancelled command.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a check-out may take in all if neither the URI nor the pool's configuration sets a
/// bound.
pub const DEFAULT_WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest number of connections of a pool if neither the URI nor the pool's configuration sets
/// one: the default of the connection monitoring and pooling specification.
pub const DEFAULT_MAX_SIZE: u32 = 100;

/// The upper limit of a pool's largest size: a generic pool may allocate for all of its connections
/// when it is built.
pub const LARGEST_SIZE: u32 = 100_000;

/// The size that stands for "no limit" (`maxPoolSize=0`): the generic pools need a number, and
/// allocate or hang by it.
pub const UNLIMITED_SIZE: u32 = 10_000;

/// How a manager makes and checks connections. The same on either backend.
///
/// With serde every field may be left out; durations are `"5s"`, `"100ms"` and the like, or
/// `{ secs, nanos }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ManagerConfig {
    /// How an idle connection is checked at its check-out. Default [`RecyclingMethod::Fast`].
    pub recycling_method: RecyclingMethod,
    /// The time-out of commands that name no deadline. Default: the URI's `timeoutMS`, else its
    /// `socketTimeoutMS`, else 60 s. Zero is no bound.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::option::serialize"
    )]
    pub command_timeout: Option<Duration>,
    /// How long one check-out waits for the replies to cancelled commands, over all idle
    /// connections that it checks, before it closes the connections instead. Default 100 ms. Zero
    /// closes at once, unless the reply has arrived.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::option::serialize"
    )]
    pub drain_timeout: Option<Duration>,
    /// A connection idle for longer is closed at its check-out. Default: the URI's
    /// `maxIdleTimeMS`, else no bound. Zero is no bound.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::option::serialize"
    )]
    pub max_idle_time: Option<Duration>,
    /// A connection older than this is closed at its check-out. For each connection the bound is
    /// shortened at random by up to a tenth, so that connections made together do not end together.
    /// Default no bound. Zero is no bound.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::option::serialize"
    )]
    pub max_lifetime: Option<Duration>,
}

settings! {
    ManagerConfig {
        recycling_method,
        command_timeout,
        drain_timeout,
        max_idle_time,
        max_lifetime,
    }
}

impl ManagerConfig {
    /// The defaults, with a recycling method.
    pub fn new(recycling_method: RecyclingMethod) -> Self {
        Self {
            recycling_method,
            ..Self::default()
        }
    }

    pub(super) fn command_timeout(&self, options: &ClientOptions) -> Option<Duration> {
        self.command_timeout
            .or(options.timeout)
            .or(options.socket_timeout)
            .or(Some(DEFAULT_COMMAND_TIMEOUT))
            .filter(|bound| !bound.is_zero())
    }

    pub(super) fn max_idle_time(&self, options: &ClientOptions) -> Option<Duration> {
        self.max_idle_time
            .or(options.max_idle_time)
            .filter(|bound| !bound.is_zero())
    }
}

/// How an idle connection is checked when it is checked out.
///
/// With every method, a connection is not handed out if it is of an earlier generation, past its
/// idle time or lifetime, or if the reply to a cancelled command does not arrive in time.
///
/// With serde: `fast`, `verified`, or a table of `verified_after` and a duration; case, `_` and `-`
/// are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum RecyclingMethod {
    /// No round trip: the socket must be open and have nothing to read, and its runtime must be
    /// alive. Costs one system call. Does not detect a peer that vanished silently, such as behind
    /// a firewall that has dropped the connection.
    ///
    /// Once a command has timed out on one connection, connections that have been idle since before
    /// that command began are pinged before they are handed out. One check-out pings for at most 1
    /// s (or `connectTimeoutMS`, if that is less). So a firewall costs one time-out, not one for
    /// each connection.
    #[default]
    Fast,
    /// One `ping` round trip at each check-out.
    Verified,
    /// [`Fast`](Self::Fast), and a `ping` if the connection has been idle for at least this long.
    #[serde(serialize_with = "duration::plain::serialize")]
    VerifiedAfter(Duration),
}

impl FromValue for RecyclingMethod {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        const CHOICES: &str = "fast, verified, or a table of verified_after and a duration";
        let wrong = SettingError::unknown_choice(CHOICES, &value);
        match value {
            Value::Text(text) if is_named(&text, "fast") => Ok(Self::Fast),
            Value::Text(text) if is_named(&text, "verified") => Ok(Self::Verified),
            Value::Table(fields) => match <[_; 1]>::try_from(fields) {
                Ok([(key, after)]) if is_named(&key, "verified_after") => {
                    let after: Result<Duration, _> = after.read();
                    let after = after.map_err(|error| error.within("verified_after"))?;
                    Ok(Self::VerifiedAfter(after))
                }
                Ok(_) | Err(_) => Err(wrong),
            },
            _ => Err(wrong),
        }
    }
}

impl<'de> Deserialize<'de> for RecyclingMethod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::settings::deserialize(deserializer)
    }
}
