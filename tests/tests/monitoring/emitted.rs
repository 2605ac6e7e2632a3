//! The metrics that pools emit, as Prometheus scrapes them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bson::doc;
use futures_util::FutureExt;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use mongo_core::ClientOptions;
use mongo_core::event::{EventHandlers, MetricsRecorder};
use mongo_core::pools::{Backend, Pools};
use mongo_core::select::Criterion;
use mongo_testkit::{Deployment, User};
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Emitted {
    /// The names of the metrics, without the suffixes of histograms.
    pub(crate) families: BTreeSet<String>,
    /// The labels of all series of a name, and their values.
    pub(crate) series: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

impl Emitted {
    /// Parses the text format of Prometheus, as far as the exporter uses it.
    pub(crate) fn parse(text: &str) -> Self {
        let (mut families, mut series) = (BTreeSet::new(), BTreeMap::new());
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                families.extend(family.split(' ').next().map(str::to_owned));
            }
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            let (name, _) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            let own: &mut BTreeMap<String, BTreeSet<String>> =
                series.entry(name.to_owned()).or_default();
            let labels = labels.trim_end_matches('}').split("\",");
            for label in labels.filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once("=\"").expect("a label");
                let value = value.trim_end_matches('"').to_owned();
                own.entry(label.to_owned()).or_default().insert(value);
            }
        }
        Self { families, series }
    }

    /// The metric of a series.
    pub(crate) fn family<'a>(&self, series: &'a str) -> &'a str {
        let suffixes = ["_bucket", "_count", "_sum"];
        let mut bare = suffixes
            .iter()
            .filter_map(|suffix| series.strip_suffix(suffix));
        bare.find(|bare| self.families.contains(*bare))
            .unwrap_or(series)
    }
}

/// The metrics of a failover, by a name and a label of their lines.
const AFTER_A_FAILOVER: [(&str, &str); 7] = [
    (
        "mongodb_client_topology_servers{",
        "mongodb_server_type=\"RSOther\"",
    ),
    (
        "mongodb_client_topology_servers{",
        "mongodb_server_type=\"RSGhost\"",
    ),
    ("mongodb_client_pool_cleared{", ""),
    ("mongodb_client_connection_closed{", "reason=\"error\""),
    (
        "mongodb_client_connection_check_out_failed{",
        "reason=\"connectionError\"",
    ),
    (
        "mongodb_client_server_heartbeats{",
        "error_type=\"connect\"",
    ),
    ("mongodb_client_topology_writable 0", ""),
];

fn has_all(text: &str) -> bool {
    AFTER_A_FAILOVER.iter().all(|(name, label)| {
        let mut lines = text.lines();
        lines.any(|line| line.starts_with(name) && line.contains(label))
    })
}

async fn until(what: impl Fn() -> String, is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(LIMIT, waited).await;
    assert!(waited.is_ok(), "{}", what());
}

/// Runs pools through a failover, and through all that the alerts are about.
pub(crate) async fn run<B: Backend<Config: Default>>() -> Emitted {
    let builder = PrometheusBuilder::new();
    let prefix = Matcher::Prefix("db.client.".to_owned());
    let builder = builder.set_buckets_for_metric(prefix, &[0.1, 1.0]);
    let recorder = builder.expect("buckets").build_recorder();
    let metrics = recorder.handle();
    // All tasks of the test are on this thread.
    let _recorded = metrics::set_default_local_recorder(&recorder);

    let set = Deployment::replica_set("rs")
        .members(2)
        .user(User::new("app", "pencil"));
    let set = set.start().await;
    let uri = set.uri_for("app", "pencil");
    let uri = format!("{uri}&maxPoolSize=1&heartbeatFrequencyMS=500&waitQueueTimeoutMS=100");
    let pools = Pools::<B>::builder(ClientOptions::parse(&uri).expect("a connection string"))
        .event_handlers(EventHandlers::new().with_metrics())
        .on_sdam(MetricsRecorder::sdam)
        .build()
        .expect("pools");

    let mut connection = pools
        .get_by(LIMIT, &Criterion::write(), &[])
        .await
        .expect("a connection");
    let ping = doc! { "ping": 1 };
    let reply = connection.run_command("db", &ping).await;
    reply.expect("a reply");
    // One that is cancelled.
    let reply = connection.run_command("db", &ping).now_or_never();
    assert!(reply.is_none(), "a reply at once");
    let reply = connection.run_command("db", &doc! { "none": 1 }).await;
    reply.expect_err("no such command");
    pools.get().await.expect_err("the pool is exhausted");
    let waiting = tokio::spawn({
        let pools = pools.clone();
        async move {
            pools
                .get_by(LIMIT, &Criterion::write(), &[])
                .await
                .map(drop)
        }
    });
    until(
        || format!("{:?}", pools.status()),
        || pools.status().iter().any(|pool| pool.waiting == 1),
    )
    .await;
    set.change_set(|set| set.set_recovering(1, true));
    let is_other = || metrics.render().contains("mongodb_server_type=\"RSOther\"");
    until(|| metrics.render(), is_other).await;
    set.kill(0).await;
    let reply = connection.run_command("db", &ping).await;
    reply.expect_err("the server is gone");
    drop(connection);
    set.remove(1);
    until(|| metrics.render(), || has_all(&metrics.render())).await;
    waiting.abort();
    let text = metrics.render();
    pools.close().await;
    Emitted::parse(&text)
}
