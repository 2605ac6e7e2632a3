//! The failure of a wait.

use super::PoolInner;
use crate::error::Error;

/// Why a waiter gets no connection.
#[derive(Clone)]
pub(crate) enum Unserved {
    Failed(Error),
    /// The runtime of its attempt has shut down.
    RuntimeEnded,
}

impl Unserved {
    pub(crate) fn into_error(self, shared: &PoolInner) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::RuntimeEnded => shared.shut_down(),
        }
    }
}
