//! A web service on axum that stores notes: pools in its state, and everything needed to operate
//! it.
//!
//! | path | purpose |
//! |---|---|
//! | `/notes` | `GET`: the notes |
//! | `/notes/{id}` | `PUT {"text": "…"}`: creates or replaces a note |
//!
//! A second address, which must not be public, is for operators:
//!
//! | path | purpose |
//! |---|---|
//! | `/status` | a page that follows the deployment and the pools: `mongo_examples::status` |
//! | `/livez`, `/readyz` | probes of orchestrators and load balancers |
//! | `/metrics` | for Prometheus |
//!
//! Needs no server: the test kit's embedded replica set is started unless `MONGO__URL` is set. See
//! `Settings` for the other settings of the environment or a file.
//!
//! ```sh
//! cargo run --example axum
//! cargo run --example axum --no-default-features --features bb8
//! MONGO__URL='mongodb://app:secret@localhost/?replicaSet=rs0' cargo run --example axum
//! curl -X PUT --json '{ "text": "hello" }' http://127.0.0.1:3000/notes/first
//! ```

use axum::extract::{FromRef, FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use mongo_core::event::{EventHandlers, MetricsRecorder};
// The one line that names a backend: `use mongo_deadpool::…` or `use mongo_bb8::…` in your code.
use mongo_examples::Fatal;
use mongo_examples::backend::{Pools, PoolsConnection};
use mongo_examples::service::{self, Answer, Health, Note, Settings, Signals};
use mongo_examples::status::{RecentEvents, StatusPage};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tower_http::trace::{DefaultMakeSpan, TraceLayer};
use tracing::Level;

#[tokio::main]
async fn main() -> Result<(), Fatal> {
    service::start_tracing();
    let mut settings = Settings::load()?;
    let _embedded = service::start_embedded(&mut settings).await;
    // Its tasks are aborted when it is dropped.
    let mut background = JoinSet::new();
    // Before the first event.
    let metrics = service::start_metrics(&mut background)?;
    let events = RecentEvents::default();
    let pools = settings
        .mongo
        .pools_builder()?
        .event_handlers(events.handlers(EventHandlers::new().with_metrics()))
        .on_sdam(MetricsRecorder::sdam)
        .on_sdam(events.sdam_handler())
        .build()?;
    // Starts the monitors, so that `/readyz` knows the deployment before the first request.
    pools.connect()?;
    service::verify(&pools).await?;
    let health = Health::new(&pools);
    let signals = Signals::catch()?;

    let listener = TcpListener::bind(&settings.admin).await?;
    println!("for operators: http://{}", listener.local_addr()?);
    let page = StatusPage::new(&pools, &events);
    let admin = Admin {
        health: health.clone(),
        metrics,
    };
    background.spawn(axum::serve(listener, admin_routes(page, admin)).into_future());

    let listener = TcpListener::bind(&settings.listen).await?;
    println!("listening at http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, routes(pools.clone()))
        .with_graceful_shutdown(async { drop(stopped.await) })
        .into_future();
    let stop = || drop(stop);
    signals.serve(server, stop, &health, &settings).await?;
    // Closes all connections, including those of requests that were cut off, and ends the monitors.
    pools.close().await;
    println!("stopped");
    Ok(())
}

fn routes(pools: Pools) -> Router {
    let spans = DefaultMakeSpan::new().level(Level::INFO);
    Router::new()
        .route("/notes", get(notes))
        .route("/notes/{id}", put(put_note))
        .layer(TraceLayer::new_for_http().make_span_with(spans))
        .with_state(pools)
}

/// Routes that are polled frequently, and therefore not traced.
fn admin_routes(page: StatusPage, admin: Admin) -> Router {
    Router::new()
        .route_service("/status", page)
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

#[derive(Clone, FromRef)]
struct Admin {
    health: Health,
    metrics: PrometheusHandle,
}

async fn ready(State(health): State<Health>) -> Response {
    match health.is_ready() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}

async fn metrics(State(metrics): State<PrometheusHandle>) -> String {
    metrics.render()
}

async fn notes(Connection(mut connection): Connection) -> Result<Json<Vec<Note>>, Failure> {
    Ok(Json(service::notes(&mut connection).await?))
}

/// Checks out its connection after the body has arrived, so that no connection waits for a slow
/// client.
async fn put_note(
    State(pools): State<Pools>,
    Path(id): Path<String>,
    Json(note): Json<Note>,
) -> Result<StatusCode, Failure> {
    let mut connection = pools.get().await?;
    service::put_note(&mut connection, id, note).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A connection to the primary for the duration of a request. It is returned to its pool when it is
/// dropped, also with a cancelled request.
struct Connection(PoolsConnection);

impl<S: Send + Sync> FromRequestParts<S> for Connection
where
    Pools: FromRef<S>,
{
    type Rejection = Failure;

    async fn from_request_parts(_: &mut Parts, state: &S) -> Result<Self, Failure> {
        Ok(Self(Pools::from_ref(state).get().await?))
    }
}

/// An error of the database, as a response.
struct Failure(mongo_core::Error);

impl From<mongo_core::Error> for Failure {
    fn from(error: mongo_core::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        tracing::warn!(error = %self.0, "the database failed a request");
        let answer = Answer::new(&self.0);
        let status = StatusCode::from_u16(answer.status).unwrap_or_default();
        let mut response = (status, answer.text).into_response();
        if let Some(seconds) = answer.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
