//! The Grafana dashboard and the Prometheus alerts of `examples/monitoring`: each query is valid, and
//! names metrics, labels and values that the libraries emit; each metric is on the dashboard.

mod emitted;
mod queries;

use std::collections::BTreeSet;

use emitted::Emitted;
use mongo_core::pools::Backend;
use mongo_testkit::on_both;
use queries::{Query, alerts, dashboard};

/// Labels that Prometheus adds to each series of a target.
const TARGET_LABELS: [&str; 2] = ["job", "instance"];

/// The problems of a query.
fn problems(query: &Query, emitted: &Emitted) -> Vec<String> {
    let mut problems = Vec::new();
    let mut labels = BTreeSet::from(TARGET_LABELS);
    for selector in &query.selectors {
        let Some(series) = emitted.series.get(&selector.metric) else {
            problems.push(format!("no metric {}", selector.metric));
            continue;
        };
        labels.extend(series.keys().map(String::as_str));
        for (label, values) in &selector.labels {
            match series.get(label) {
                None if TARGET_LABELS.contains(&&**label) => {}
                None => problems.push(format!("{} has no label {label}", selector.metric)),
                Some(known) => problems.extend(
                    values
                        .iter()
                        .filter(|value| !known.contains(*value))
                        .map(|value| format!("{} has no {label}={value}", selector.metric)),
                ),
            }
        }
    }
    let unknown = query
        .labels
        .iter()
        .filter(|label| !labels.contains(&***label));
    problems.extend(unknown.map(|label| format!("no label {label}")));
    problems
}

fn assert_no_problems(queries: &[Query], emitted: &Emitted) {
    let problems: Vec<_> = queries
        .iter()
        .flat_map(|query| {
            let problems = problems(query, emitted).into_iter();
            problems.map(move |problem| format!("{}: {problem}", query.place))
        })
        .collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

async fn alerts_are_about_metrics_that_are_emitted<B: Backend<Config: Default>>() {
    let alerts = alerts();
    assert_eq!(alerts.len(), 11);
    assert_no_problems(&alerts, &emitted::run::<B>().await);
}

async fn the_dashboard_shows_each_metric_that_is_emitted<B: Backend<Config: Default>>() {
    let (dashboard, emitted) = (dashboard(), emitted::run::<B>().await);
    assert_no_problems(&dashboard, &emitted);
    let shown: BTreeSet<_> = dashboard
        .iter()
        .flat_map(|query| &query.selectors)
        .map(|selector| emitted.family(&selector.metric))
        .collect();
    let emitted: BTreeSet<_> = emitted.families.iter().map(String::as_str).collect();
    assert_eq!(shown, emitted);
}

on_both!(
    alerts_are_about_metrics_that_are_emitted,
    the_dashboard_shows_each_metric_that_is_emitted
);

#[test]
fn a_metric_that_is_not_emitted_is_a_problem() {
    let text = "# TYPE requests counter\nrequests{reason=\"timeout\"} 1\n\
                # TYPE duration histogram\nduration_bucket{le=\"1\"} 1\nduration_count 1\n";
    let emitted = Emitted::parse(text);
    let found = |query: &str| problems(&Query::parse("here", query), &emitted);
    for right in [
        "sum by (job, reason) (rate(requests{reason=\"timeout\", instance=\"a\"}[5m]))",
        "histogram_quantile(0.9, sum by (le) (rate(duration_bucket[5m])))",
        "rate(requests{reason=~\"timeout\"}[5m]) / on (job) rate(duration_count[5m])",
    ] {
        assert_eq!(found(right), [""; 0], "{right}");
    }
    for (wrong, problem) in [
        ("other > 0", "no metric other"),
        ("sum(duration)", "no metric duration"),
        ("requests{user=\"a\"}", "requests has no label user"),
        ("requests{reason=\"late\"}", "requests has no reason=late"),
        (
            "requests{reason=~\"timeout|late\"}",
            "requests has no reason=late",
        ),
        ("sum by (user) (requests)", "no label user"),
        ("requests / on (user) requests", "no label user"),
        (
            "requests * on (job) group_left (user) requests",
            "no label user",
        ),
    ] {
        assert_eq!(found(wrong), [problem], "{wrong}");
    }
}
