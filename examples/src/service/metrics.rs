use std::io;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::task::JoinSet;

/// The interval of the recorder's upkeep. Without upkeep, samples use memory until the metrics are
/// scraped.
const UPKEEP: Duration = Duration::from_secs(5);

/// The upper bounds of the histograms' buckets, in seconds. Unlike the quantiles of a summary, the
/// exporter's default, buckets of several processes can be added up.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Starts to record metrics for Prometheus. The dashboard and the alerts in `examples/monitoring`
/// show them.
///
/// # Errors
/// A recorder is already installed.
pub fn start_metrics(
    background: &mut JoinSet<io::Result<()>>,
) -> Result<PrometheusHandle, BuildError> {
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Prefix("db.client.".to_owned()), &BUCKETS)?
        .install_recorder()?;
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
