use std::io;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tokio::task::JoinSet;

/// How often what was measured is summed up, whether anybody asks for it or not: it takes memory
/// until then.
const UPKEEP: Duration = Duration::from_secs(5);

/// Records metrics from now on, for Prometheus.
///
/// # Errors
/// There is a recorder already.
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
