//! The generic pool, which a feature flag chooses. Both modules have the same names.

#[cfg(feature = "bb8")]
mod bb8;
#[cfg(all(feature = "deadpool", not(feature = "bb8")))]
mod deadpool;

#[cfg(feature = "bb8")]
pub(crate) use self::bb8::{PostgresConnection, PostgresPool, mongo, pool_config};
#[cfg(all(feature = "deadpool", not(feature = "bb8")))]
pub(crate) use self::deadpool::{PostgresConnection, PostgresPool, mongo, pool_config};

#[cfg(not(any(feature = "deadpool", feature = "bb8")))]
compile_error!("choose a pool: the feature `deadpool` or the feature `bb8`");
