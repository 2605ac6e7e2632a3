//! The parts of a web service that deal with its database, for any web framework: configuration,
//! health, error responses, metrics, graceful shutdown.

mod answer;
mod health;
mod metrics;
mod notes;
mod settings;
mod stop;

pub use answer::Answer;
pub use health::{Health, verify};
pub use metrics::start_metrics;
pub use notes::{Note, notes, put_note};
pub use settings::{Settings, start_embedded};
pub use stop::Signals;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Logs to stderr, filtered by `RUST_LOG`. By default it logs each span when it closes, with its
/// parent spans.
pub fn start_tracing() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,mongodb::span=debug"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}
