//! The service of the example `axum`, on actix-web: the same paths, the same configuration.
//!
//! ```sh
//! cargo run --example actix
//! cargo run --example actix --no-default-features --features bb8
//! MONGO__URL='mongodb://app:secret@localhost/?replicaSet=rs0' cargo run --example actix
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::{StatusCode, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Html, Json, ThinData};
use actix_web::{App, FromRequest, HttpRequest, HttpResponse, HttpServer, ResponseError};
use bson::{Document, doc};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use mongo_core::event::EventHandlers;
// The one line that names a backend: `use mongo_deadpool::…` or `use mongo_bb8::…` in your code.
use mongo_examples::Fatal;
use mongo_examples::backend::{Pools, PoolsConnection};
use mongo_examples::service::{self, Answer, DATABASE, Health, Settings};
use serde::{Deserialize, Serialize};
use tracing::Instrument;

#[actix_web::main]
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
    // From here, so that what is in the background lives on this runtime: each of actix's workers
    // has one of its own, which ends before the pools are closed.
    pools.connect()?;
    let health = Health::new(&pools);

    let app = (pools.clone(), health.clone());
    let server = HttpServer::new(move || {
        let (pools, health) = app.clone();
        App::new()
            // Cheap to clone, and so without the `Arc` of `web::Data`.
            .app_data(ThinData(pools))
            .app_data(ThinData(health))
            .app_data(ThinData(metrics.clone()))
            .configure(routes)
    })
    .bind(&settings.listen)?
    .disable_signals();
    for address in server.addrs() {
        println!("listening at http://{address}");
    }
    let server = server.run();
    let handle = server.handle();
    actix_web::rt::spawn(async move {
        service::asked_to_stop().await;
        health.drain();
        tokio::time::sleep(settings.drain.unwrap_or_default()).await;
        handle.stop(true).await;
    });
    server.await?;
    // No request is left. Connections are closed, and the monitors have ended.
    pools.close().await;
    println!("stopped");
    Ok(())
}

fn routes(app: &mut web::ServiceConfig) {
    let notes = web::resource("/notes")
        .wrap(from_fn(traced))
        .get(notes)
        .post(add_note);
    app.service(notes)
        .route("/", web::get().to(page))
        .route("/livez", web::get().to(async || "alive\n"))
        .route("/readyz", web::get().to(ready))
        .route("/metrics", web::get().to(rendered));
}

/// A span for each request, in which those of the database are.
async fn traced(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let span = tracing::info_span!("request", method = %request.method(), uri = %request.uri());
    next.call(request).instrument(span).await
}

async fn page(ThinData(pools): ThinData<Pools>) -> Html {
    Html::new(service::page(&pools))
}

async fn ready(ThinData(health): ThinData<Health>) -> HttpResponse {
    match health.is_ready() {
        Ok(()) => HttpResponse::Ok().body("ready\n"),
        Err(reason) => HttpResponse::ServiceUnavailable().body(reason),
    }
}

async fn rendered(ThinData(metrics): ThinData<PrometheusHandle>) -> String {
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
    ThinData(pools): ThinData<Pools>,
    Json(note): Json<Note>,
) -> Result<HttpResponse, Failure> {
    let documents: [Document; 1] = [doc! { "text": note.text }];
    let insert = doc! { "insert": "notes", "documents": &documents[..] };
    let mut connection = pools.get().await?;
    connection
        .run_command(DATABASE, &insert)
        .await?
        .check_write()?;
    Ok(HttpResponse::Created().finish())
}

/// A connection to the primary for the time of a request. Dropped, with the request if need be, it
/// goes back to its pool.
struct Connection(PoolsConnection);

impl FromRequest for Connection {
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Self::Error>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let pools = ThinData::<Pools>::extract(request);
        Box::pin(async move {
            let ThinData(pools) = pools.await?;
            Ok(Self(pools.get().await.map_err(Failure)?))
        })
    }
}

/// An error of the database, as an answer.
#[derive(Debug)]
struct Failure(mongo_core::Error);

impl From<mongo_core::Error> for Failure {
    fn from(error: mongo_core::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Failure {
    fn error_response(&self) -> HttpResponse {
        tracing::warn!(error = %self.0, "the database failed a request");
        let answer = Answer::new(&self.0);
        let status = StatusCode::from_u16(answer.status).unwrap_or_default();
        let mut response = HttpResponse::build(status);
        if let Some(seconds) = answer.retry_after {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        response.body(answer.text)
    }
}
