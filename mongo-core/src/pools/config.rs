use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::duration;
use crate::settings::{FromValue, SettingError, Value, is_named, settings};
use crate::uri::ClientOptions;

/// How long a command may take where neither the URI nor the manager's configuration says.
pub const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the reply to a cancelled command is waited for, at the next check-out.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a check-out may take in all where neither the URI nor the pool's configuration says.
pub const DEFAULT_WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The connections of a pool where neither the URI nor the pool's configuration says, as the
/// connection monitoring and pooling specification has it.
pub const DEFAULT_MAX_SIZE: u32 = 100;

/// The most connections that a pool may be asked to hold: a generic pool may make room for all of
/// them when it is built.
pub const LARGEST_SIZE: u32 = 100_000;

/// What stands in for "no limit" (`maxPoolSize=0`): the generic pools need a number, and allocate
/// or hang by it.
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
    /// For commands that name no deadline. Default: the URI's `timeoutMS`, else its
    /// `socketTimeoutMS`, else 60 s. Zero is no bound.
    #[serde(serialize_with = "duration::option::serialize")]
    pub command_timeout: Option<Duration>,
    /// How long replies owed to cancelled commands are waited for in one check-out, over all idle
    /// connections that it looks at, before the connections are closed instead. Default 100 ms. Zero
    /// closes at once, unless the reply is there.
    #[serde(serialize_with = "duration::option::serialize")]
    pub drain_timeout: Option<Duration>,
    /// A connection idle for longer is closed at its check-out. Default: the URI's
    /// `maxIdleTimeMS`, else no bound. Zero is no bound.
    #[serde(serialize_with = "duration::option::serialize")]
    pub max_idle_time: Option<Duration>,
    /// A connection older than this is closed at its check-out; of each up to a tenth is taken off at
    /// random, so that those made together do not end together. Default no bound. Zero is no bound.
    #[serde(serialize_with = "duration::option::serialize")]
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
/// Whatever the method, a connection of an earlier generation, over its idle or life time, or with
/// an owed reply that does not come in time is not handed out.
///
/// With serde `fast`, `verified`, or a table of `verified_after` and a duration, without regard to case,
/// `_` and `-`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum RecyclingMethod {
    /// No round trip: the socket must be open and have nothing to read, and its runtime must be alive.
    /// Costs one system call. Does not see a peer that vanished without a word, such as behind a
    /// firewall that has forgotten the connection.
    ///
    /// Once a command has timed out on one connection, all that have been idle since before that
    /// command began are pinged before they are handed out, within 1 s (or `connectTimeoutMS`, if that
    /// is less) in one check-out: so a firewall costs one time-out, and not one for each connection.
    #[default]
    Fast,
    /// One `ping` round trip at each check-out.
    Verified,
    /// [`Fast`](Self::Fast), and a `ping` where the connection has been idle for as long.
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
