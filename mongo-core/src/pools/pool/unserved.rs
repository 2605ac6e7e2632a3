//! The failure of a wait.

use super::PoolInner;
use crate::error::Error;

/// Why a waiter gets no connection.
#[derive(Clone)]
pub(crate) enum Unserved {
    Failed(Error),
    /// Its connection was closed before it had taken it: the pool was cleared or closed, or the
    /// connection had to make room for another pool. If the pool is ready, it waits for another one.
    TakenBack,
    /// The runtime of its attempt has shut down.
    RuntimeEnded,
}

impl Unserved {
    pub(crate) fn into_error(self, shared: &PoolInner) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::TakenBack => shared.not_ready(),
            Self::RuntimeEnded => shared.shut_down(),
        }
    }
}
