//! A web service on axum that keeps notes: pools in its state, and all that goes with running it.
//!
//! | path | what |
//! |---|---|
//! | `/` | a page that follows the deployment and the pools |
//! | `/notes` | `GET`: the notes; `POST {"text": "…"}`: one more |
//! | `/livez`, `/readyz` | for who starts, restarts and balances services |
//! | `/metrics` | for Prometheus |
//!
//! Needs no server: the test kit's embedded replica set is started unless `MONGO__URL` is set. See
//! `Settings` for what else the environment or a file may say.
//!
//! ```sh
//! cargo run --example axum
//! cargo run --example axum --no-default-features --features bb8
//! MONGO__URL='mongodb://app:secret@localhost/?replicaSet=rs0' cargo run --example axum
//! ```

use axum::extract::{FromRef, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bson::{Document, doc};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use mongo_core::event::EventHandlers;
// The one line that names a backend: `use mongo_deadpool::…` or `use mongo_bb8::…` in your code.
use mongo_examples::Fatal;
use mongo_examples::backend::{Pools, PoolsConnection};
use mongo_examples::service::{self, Answer, DATABASE, Health, Settings};
use serde::{Deserialize, Serialize};
use tower_http::trace::{DefaultMakeSpan, TraceLayer};
use tracing::Level;

#[derive(Clone, FromRef)]
struct App {
    pools: Pools,
    health: Health,
    metrics: PrometheusHandle,
}

#[tokio::main]
async fn main() -> Result<(), Fatal> {
    service::start_tracing();
    let mut settings = Settings::load()?;
    let _embedded = service::start_embedded(&mut settings).await;
    // Before the first event.
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let pools = settings
        .mongo
        .pools_builder()?
        .event_handlers(EventHandlers::new().with_metrics())
        .build()?;
    // Monitors from now on, so that `/readyz` knows the deployment before the first request.
    pools.connect()?;
    let health = Health::new(&pools);
    let app = App {
        pools: pools.clone(),
        health: health.clone(),
        metrics,
    };

    let listener = tokio::net::TcpListener::bind(&settings.listen).await?;
    println!("listening at http://{}", listener.local_addr()?);
    axum::serve(listener, router(app))
        .with_graceful_shutdown(async move {
            service::asked_to_stop().await;
            health.drain();
            tokio::time::sleep(settings.drain.unwrap_or_default()).await;
        })
        .await?;
    // No request is left. Connections are closed, and the monitors have ended.
    pools.close().await;
    println!("stopped");
    Ok(())
}

fn router(app: App) -> Router {
    let spans = DefaultMakeSpan::new().level(Level::INFO);
    Router::new()
        .route("/notes", get(notes).post(add_note))
        .layer(TraceLayer::new_for_http().make_span_with(spans))
        // What is asked for all the time is not traced.
        .route(
            "/",
            get(async |State(pools): State<Pools>| Html(service::page(&pools))),
        )
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(app)
}

async fn ready(State(health): State<Health>) -> Response {
    match health.is_ready() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}

async fn metrics(State(metrics): State<PrometheusHandle>) -> String {
    metrics.run_upkeep();
    metrics.render()
}

#[derive(Deserialize, Serialize)]
struct Note {
    text: String,
}

/// The reply to a `find`, as far as it is of interest here.
#[derive(Deserialize)]
struct Found {
    cursor: Cursor,
}

#[derive(Deserialize)]
struct Cursor {
    #[serde(rename = "firstBatch")]
    first_batch: Vec<Note>,
}

async fn notes(Connection(mut connection): Connection) -> Result<Json<Vec<Note>>, Failure> {
    let find = doc! { "find": "notes", "batchSize": 100, "singleBatch": true };
    let reply = connection.run_command(DATABASE, &find).await?;
    let found: Found = reply.deserialize()?;
    Ok(Json(found.cursor.first_batch))
}

/// Takes its connection after the body has come, so that none waits for a slow client.
async fn add_note(
    State(pools): State<Pools>,
    Json(note): Json<Note>,
) -> Result<StatusCode, Failure> {
    let documents: [Document; 1] = [doc! { "text": note.text }];
    let insert = doc! { "insert": "notes", "documents": &documents[..] };
    let mut connection = pools.get().await?;
    connection
        .run_command(DATABASE, &insert)
        .await?
        .check_write()?;
    Ok(StatusCode::CREATED)
}

/// A connection to the primary for the time of a request. Dropped, with the request if need be, it
/// goes back to its pool.
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

/// An error of the database, as an answer.
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
