//! The queries of the dashboard and of the alerts.

use std::collections::BTreeSet;
use std::convert::Infallible;

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

const DASHBOARD: &str = include_str!("../../../examples/monitoring/dashboard.json");
const ALERTS: &str = include_str!("../../../examples/monitoring/alerts.yml");

/// A query, with what is shown of its result.
#[derive(Default)]
pub(crate) struct Query {
    /// The panel or the alert.
    pub(crate) place: String,
    pub(crate) selectors: Vec<Selector>,
    /// The labels that it groups by or matches on, and those that its legend or its texts name.
    pub(crate) labels: BTreeSet<String>,
}

pub(crate) struct Selector {
    pub(crate) metric: String,
    /// The labels, with the values that they are compared with, if those are fixed.
    pub(crate) labels: Vec<(String, Vec<String>)>,
}

impl Query {
    pub(crate) fn parse(place: &str, query: &str) -> Self {
        let mut found = Self {
            place: place.to_owned(),
            ..Self::default()
        };
        let query = query.replace("$__rate_interval", "5m");
        let parsed = parser::parse(&query);
        let parsed = parsed.unwrap_or_else(|error| panic!("{place}: {query}: {error}"));
        let Ok(_) = walk_expr(&mut found, &parsed);
        assert!(!found.selectors.is_empty(), "{place}: {query}");
        found
    }

    /// Adds the labels that a text names, each after `before` and before the next other character.
    fn and_labels_of(mut self, text: &str, before: &str) -> Self {
        for part in text.split(before).skip(1) {
            let is_end = |character: char| !character.is_alphanumeric() && character != '_';
            let label = part.split(is_end).next().unwrap_or_default();
            self.labels.insert(label.to_owned());
        }
        self
    }

    fn select(&mut self, selector: &VectorSelector) {
        assert!(selector.matchers.or_matchers.is_empty(), "{selector}");
        let labels = selector.matchers.matchers.iter();
        self.selectors.push(Selector {
            metric: selector.name.clone().expect("a metric's name"),
            labels: labels
                .map(|own| (own.name.clone(), fixed_values(own)))
                .collect(),
        });
    }
}

/// The values that a label is compared with; none if they are variables of the dashboard, or empty,
/// which is the absence of the label.
fn fixed_values(matcher: &Matcher) -> Vec<String> {
    let values: Vec<_> = match &matcher.op {
        MatchOp::Equal | MatchOp::NotEqual => vec![matcher.value.as_str()],
        MatchOp::Re(_) | MatchOp::NotRe(_) => matcher.value.split('|').collect(),
    };
    let is_fixed = |value: &&str| !value.is_empty() && !value.starts_with('$');
    values
        .into_iter()
        .filter(is_fixed)
        .map(str::to_owned)
        .collect()
}

impl ExprVisitor for Query {
    type Error = Infallible;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, Infallible> {
        match expression {
            Expr::VectorSelector(selector) => self.select(selector),
            Expr::MatrixSelector(selector) => self.select(&selector.vs),
            Expr::Aggregate(aggregate) => {
                let grouping = aggregate.modifier.iter();
                self.labels
                    .extend(grouping.flat_map(|own| own.labels().labels.clone()));
            }
            Expr::Binary(binary) => {
                if let Some(modifier) = &binary.modifier {
                    let matching = modifier.matching.iter().map(|own| own.labels());
                    let labels = matching.chain(modifier.card.labels());
                    self.labels
                        .extend(labels.flat_map(|own| own.labels.clone()));
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

/// The queries of the dashboard: those of its panels, its variables and its annotations.
pub(crate) fn dashboard() -> Vec<Query> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let list = |value: &Value| value.as_array().cloned().expect("a list");
    let text = |value: &Value| value.as_str().map(str::to_owned).expect("a text");
    let mut queries = Vec::new();
    for panel in list(&dashboard["panels"]) {
        let title = text(&panel["title"]);
        if panel["type"] == "row" {
            continue;
        }
        for target in list(&panel["targets"]) {
            let query = Query::parse(&title, &text(&target["expr"]));
            queries.push(query.and_labels_of(&text(&target["legendFormat"]), "{{"));
        }
    }
    for annotation in list(&dashboard["annotations"]["list"]) {
        let query = Query::parse(&text(&annotation["name"]), &text(&annotation["expr"]));
        queries.push(query.and_labels_of(&text(&annotation["textFormat"]), "{{"));
    }
    for variable in list(&dashboard["templating"]["list"]) {
        if variable["type"] == "query" {
            // `label_values(selector, label)`.
            let query = text(&variable["query"]["query"]);
            let query = query.strip_prefix("label_values(").expect("label values");
            let (selector, label) = query.rsplit_once(", ").expect("a label");
            let mut query = Query::parse(&text(&variable["name"]), selector);
            query.labels.insert(label.trim_end_matches(')').to_owned());
            queries.push(query);
        }
    }
    queries
}

/// The queries of the alerts.
pub(crate) fn alerts() -> Vec<Query> {
    let alerts = YamlLoader::load_from_str(ALERTS).expect("YAML");
    let groups = alerts[0]["groups"].as_vec().expect("groups").iter();
    let rules = groups.flat_map(|group| group["rules"].as_vec().expect("rules"));
    let text = |value: &Yaml| value.as_str().map(str::to_owned).expect("a text");
    rules
        .map(|rule| {
            assert!(["critical", "warning"].contains(&&*text(&rule["labels"]["severity"])));
            let query = Query::parse(&text(&rule["alert"]), &text(&rule["expr"]));
            let annotations = &rule["annotations"];
            ["summary", "description"]
                .into_iter()
                .fold(query, |query, name| {
                    query.and_labels_of(&text(&annotations[name]), "$labels.")
                })
        })
        .collect()
}
