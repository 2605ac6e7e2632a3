//! The metrics that pools emit, as Prometheus scrapes them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bson::doc;
use metrics_exporter_prometheus::{Matcher as Metric, PrometheusBuilder};
use mongo_core::ClientOptions;
use mongo_core::event::{EventHandlers, MetricsRecorder};
use mongo_core::pools::{Backend, Pools};
use mongo_testkit::{Action, Deployment, Matcher, User};
use tokio::time::timeout;

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

/// Runs pools through a failover, and through all that the alerts are about.
pub(crate) async fn run<B: Backend<Config: Default>>() -> Emitted {
    let builder = PrometheusBuilder::new();
    let prefix = Metric::Prefix("db.client.".to_owned());
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

    let refused = Action::Close;
    let refused = set
        .server(0)
        .script()
        .add(Matcher::command("saslContinue").then(refused));
    pools.get().await.expect_err("no connection can be made");
    set.server(0).script().remove(refused);
    let connected = timeout(LIMIT, async {
        loop {
            if let Ok(connection) = pools.get().await {
                return connection;
            }
        }
    });
    let mut connection = connected.await.expect("a connection");
    connection
        .run_command("db", &doc! { "ping": 1 })
        .await
        .expect("a reply");
    connection
        .run_command("db", &doc! { "none": 1 })
        .await
        .expect_err("no such command");
    pools.get().await.expect_err("the pool is exhausted");
    set.kill(0).await;
    connection
        .run_command("db", &doc! { "ping": 1 })
        .await
        .expect_err("no server");
    drop(connection);
    let mut known = pools.topology().subscribe();
    let lost = known.wait_for(|known| known.primary().is_none());
    drop(
        timeout(LIMIT, lost)
            .await
            .expect("in time")
            .expect("a topology"),
    );
    let text = metrics.render();
    pools.close().await;
    Emitted::parse(&text)
}
