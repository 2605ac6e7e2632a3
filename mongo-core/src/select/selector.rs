//! The application's server selector.

use std::fmt;
use std::sync::Arc;

use crate::callback::{Panicked, guard};
use crate::sdam::ServerDescription;

type Select = dyn for<'a> Fn(&[&'a ServerDescription]) -> Vec<&'a ServerDescription> + Send + Sync;

/// A function of the application that filters servers (`serverSelector`). Cloning is cheap.
///
/// It gets the suitable servers and returns those that it accepts; one of them within the latency
/// window is selected. It is called for each selection that finds a suitable server, on the
/// caller's task and without a lock; it should not block. If it returns no server, the selection
/// waits for the topology to change, as if no server were suitable. A factory that floats over a
/// topology (`ConnectionFactoryBuilder::floating`) also calls it for each change of the topology,
/// on the task that causes the change.
///
/// A panic in it is caught and logged. The selection then fails at once with
/// [`SelectionError::Selector`](super::SelectionError::Selector), because any server might be one that the application excludes.
///
/// ```
/// # use mongo_core::select::ServerSelector;
/// let highest_port = ServerSelector::new(|servers| {
///     let highest = servers.iter().max_by_key(|server| server.address.port());
///     highest.into_iter().copied().collect()
/// });
/// ```
#[derive(Clone)]
pub struct ServerSelector(Arc<Select>);

impl ServerSelector {
    /// Wraps the function.
    pub fn new<F>(select: F) -> Self
    where
        F: for<'a> Fn(&[&'a ServerDescription]) -> Vec<&'a ServerDescription>,
        F: Send + Sync + 'static,
    {
        Self(Arc::new(select))
    }

    /// Calls the function.
    pub(super) fn call<'a>(
        &self,
        suitable: &[&'a ServerDescription],
    ) -> Result<Vec<&'a ServerDescription>, Panicked> {
        guard("server selector", || (self.0)(suitable))
    }
}

impl fmt::Debug for ServerSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerSelector")
    }
}
