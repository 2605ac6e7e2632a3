//! The options of operations in a connection string, and whether commands get them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::concern::{ReadConcern, WriteConcern};
use crate::select::{ReadPreference, ReadPreferenceMode};
use crate::uri::ClientOptions;

/// The options that [`Defaults::given`] names.
pub(super) const WRITE_OPTIONS: &str = "w, journal, wTimeoutMS";
pub(super) const READ_CONCERN: &str = "readConcernLevel";
pub(super) const READ_PREFERENCE: &str = "readPreference";

/// The options of operations in a connection string.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) read_preference: ReadPreference,
    pub(crate) read_concern: ReadConcern,
    pub(crate) write_concern: WriteConcern,
    pub(crate) retry_reads: bool,
    pub(crate) retry_writes: bool,
    pub(crate) max_adaptive_retries: u32,
    pub(crate) enable_overload_retargeting: bool,
    /// `timeoutMS`; zero is no limit.
    pub(crate) timeout: Option<Duration>,
    pub(crate) load_balanced: bool,
    pub(crate) usage: Arc<Usage>,
}

/// Whether the concerns and the read preference of a connection string reach commands. Warns once if
/// they do not.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    is_applied: AtomicBool,
    is_warned: AtomicBool,
}

impl Usage {
    /// Whether there is still something to warn of.
    pub(super) fn may_warn(&self) -> bool {
        !self.is_warned.load(Ordering::Relaxed)
    }

    /// Returns whether this is the first warning.
    pub(super) fn warn(&self) -> bool {
        !self.is_warned.swap(true, Ordering::Relaxed)
    }

    /// The application applies the options.
    pub(crate) fn applied(&self) {
        if !self.is_applied.load(Ordering::Relaxed) {
            self.is_applied.store(true, Ordering::Relaxed);
        }
    }
}

impl Defaults {
    /// The options of the connection string that only operations of a kind apply.
    pub(super) fn given(&self) -> impl Iterator<Item = &'static str> {
        let is_primary = self.read_preference.mode == ReadPreferenceMode::Primary;
        let given = [
            (!self.write_concern.is_default()).then_some(WRITE_OPTIONS),
            (!self.read_concern.is_default()).then_some(READ_CONCERN),
            (!is_primary).then_some(READ_PREFERENCE),
        ];
        given.into_iter().flatten()
    }

    /// Connections were checked out for some time. Warns if options of the connection string were
    /// given that nothing has applied.
    pub(crate) fn warn_if_unapplied(&self) {
        let given: Vec<_> = self.given().collect();
        let is_needless = given.is_empty() || self.usage.is_applied.load(Ordering::Relaxed);
        if !is_needless && self.usage.warn() {
            tracing::warn!(
                target: "mongo_core::operation",
                "{} of the connection string have not been applied to any command so far: \
                 `run_command` sends commands as they are. Use `command` with a kind, or \
                 `Pools::write_concern`, `read_concern` and `read_preference`",
                given.join(", ")
            );
        }
    }

    pub(crate) fn of(options: &ClientOptions) -> Self {
        Self {
            read_preference: options.read_preference.clone(),
            read_concern: options.read_concern.clone(),
            write_concern: options.write_concern.clone(),
            retry_reads: options.retry_reads,
            retry_writes: options.retry_writes,
            max_adaptive_retries: options.max_adaptive_retries,
            enable_overload_retargeting: options.enable_overload_retargeting,
            timeout: options.timeout,
            load_balanced: options.load_balanced == Some(true),
            usage: Arc::default(),
        }
    }
}
