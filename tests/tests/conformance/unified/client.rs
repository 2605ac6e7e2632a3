//! The clients of a case: pools, and what the case observes of them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::{Bson, Document};
use mongo_core::ClientOptions;
use mongo_core::auth::{AuthMechanism, Credential};
use mongo_core::handshake::{ServerApi, ServerApiVersion};
use mongo_core::net::{AccessToken, OidcCallback, OidcRequest};
use mongo_core::pools::{Backend, Pools};
use tokio::time::{sleep, timeout};
use tracing::Level;

use super::case::Fields;
use super::events::Observed;
use super::stage::{Stage, TOKEN};
use crate::Outcome;

/// A client.
pub(super) struct Client<B: Backend> {
    pub(super) pools: Pools<B>,
    pub(super) observed: Arc<Observed>,
    /// The components whose log messages the case observes, and the least severe level.
    pub(super) logs: Vec<(String, Level)>,
}

impl<B: Backend<Config: Default>> Client<B> {
    pub(super) async fn new(what: &Document, stage: &Stage) -> Result<Self, String> {
        let known = [
            "id",
            "uriOptions",
            "useMultipleMongoses",
            "observeEvents",
            "ignoreCommandMonitoringEvents",
            "observeSensitiveCommands",
            "observeLogMessages",
            "observeTracingMessages",
            "serverApi",
            "awaitMinPoolSizeMS",
        ];
        let what = Fields::new(what, "client", &known)?;
        let wanted = what.document("uriOptions")?;
        let direct = wanted.is_some_and(|all| all.get_bool("directConnection").unwrap_or(false));
        let uri = stage.uri(what.flag("useMultipleMongoses")?, direct);
        let uri = with_options(uri, wanted)?;
        let told = |error: &dyn std::fmt::Display| format!("{uri}: {error}");
        let mut options = ClientOptions::parse(&uri).map_err(|error| told(&error))?;
        options.server_api = server_api(what.document("serverApi")?)?;
        if stage.plan.oidc {
            let credential = Credential::from_mechanism(AuthMechanism::MongoDbOidc);
            options.credential = Some(credential);
            options.allow_plain_without_tls = true;
        }
        let observed = Observed::new(
            what.texts("observeEvents")?,
            what.texts("ignoreCommandMonitoringEvents")?,
            what.flag("observeSensitiveCommands")?,
        );
        let topology = Arc::clone(&observed);
        let tracing = what.document("observeTracingMessages")?;
        let shows_query = |all: &Document| all.get_bool("enableCommandPayload").unwrap_or(false);
        let query_text = if tracing.is_some_and(shows_query) {
            10_000
        } else {
            0
        };
        let mut builder = Pools::<B>::builder(options)
            .connector(stage.connector())
            .event_handlers(observed.handlers().with_query_text(query_text))
            .on_sdam(move |event| topology.add_sdam(event));
        if stage.plan.oidc {
            builder = builder.oidc_callback(Arc::new(OneToken));
        }
        let pools = builder.build().map_err(|error| told(&error))?;
        let logs = what.document("observeLogMessages")?.into_iter().flatten();
        let client = Self {
            pools,
            observed,
            logs: logs
                .map(|(component, level)| Ok((component.clone(), severity(level)?)))
                .collect::<Result<_, String>>()?,
        };
        // A client that nothing is observed of does nothing until it is used.
        if client.observed.is_watching() || !client.logs.is_empty() {
            client.pools.connect().map_err(|error| told(&error))?;
        }
        if let Some(limit) = what.number("awaitMinPoolSizeMS")? {
            let limit = super::entities::millis(limit);
            client.await_min_pool_size(limit).await?;
            client.observed.clear();
        }
        Ok(client)
    }

    /// Waits until each pool has its least number of connections.
    async fn await_min_pool_size(&self, limit: Duration) -> Outcome {
        self.pools.connect().map_err(|error| error.to_string())?;
        let is_full = || {
            let all = self.pools.status();
            let ready = |size: usize, pending: usize, min: u32| size - pending >= min as usize;
            !all.is_empty()
                && all
                    .iter()
                    .all(|pool| ready(pool.size, pool.pending, pool.min_size))
        };
        let full = async {
            while !is_full() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let full = timeout(limit, full).await;
        full.map_err(|_| format!("minPoolSize was not reached: {:?}", self.pools.status()))
    }
}

impl<B: Backend> Client<B> {
    /// How many connections are checked out.
    pub(super) fn checked_out(&self) -> usize {
        self.pools.status().iter().map(|pool| pool.in_use).sum()
    }
}

/// Sets the options of a connection string.
fn with_options(uri: String, options: Option<&Document>) -> Result<String, String> {
    let (start, query) = uri.split_once('?').unwrap_or((&uri, ""));
    let mut all: Vec<(String, String)> = query
        .split('&')
        .filter_map(|option| option.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for (name, value) in options.into_iter().flatten() {
        let value = match value {
            // The callback of a placeholder is set apart.
            _ if name.starts_with("authMechanism") => continue,
            Bson::String(text) => text.clone(),
            Bson::Array(_) | Bson::Document(_) => {
                return Err(format!("uriOptions: {name}: {value}"));
            }
            other => other.to_string(),
        };
        all.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
        all.push((name.clone(), value));
    }
    let all: Vec<String> = all
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    Ok(format!("{start}?{}", all.join("&")))
}

/// The level of `tracing` for a severity of the logging specification.
pub(super) fn severity(level: &Bson) -> Result<Level, String> {
    Ok(match level.as_str() {
        Some("emergency" | "alert" | "critical" | "error") => Level::ERROR,
        Some("warn") => Level::WARN,
        Some("notice" | "info") => Level::INFO,
        Some("debug") => Level::DEBUG,
        Some("trace") => Level::TRACE,
        _ => return Err(format!("no level of a log: {level}")),
    })
}

fn server_api(wanted: Option<&Document>) -> Result<Option<ServerApi>, String> {
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    let known = ["version", "strict", "deprecationErrors"];
    let wanted = Fields::new(wanted, "serverApi", &known)?;
    crate::equal("serverApi", wanted.text("version")?, "1")?;
    let mut api = ServerApi::new(ServerApiVersion::V1);
    api.strict = wanted.get("strict").and_then(Bson::as_bool);
    api.deprecation_errors = wanted.get("deprecationErrors").and_then(Bson::as_bool);
    Ok(Some(api))
}

struct OneToken;

#[async_trait]
impl OidcCallback for OneToken {
    async fn token(&self, _: OidcRequest<'_>) -> mongo_core::Result<AccessToken> {
        Ok(AccessToken::new(TOKEN))
    }
}
