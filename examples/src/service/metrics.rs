use std::io;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tokio::task::JoinSet;

/// The interval of the recorder's upkeep. Without upkeep, samples use memory until the metrics are
/// scraped.
const UPKEEP: Duration = Duration::from_secs(5);

/// Starts to record metrics for Prometheus.
///
/// # Errors
/// A recorder is already installed.
pub fn start_metrics(
    background: &mut JoinSet<io::Result<()>>,
) -> Result<PrometheusHandle, BuildError> {
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let recorded = metrics.clone();
    background.spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            recorded.run_upkeep();
        }
    });
    Ok(metrics)
}
