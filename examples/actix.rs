//! The service of the example `axum`, on actix-web: the same addresses and paths, the same
//! configuration.
//!
//! ```sh
//! cargo run --example actix
//! cargo run --example actix --no-default-features --features bb8
//! MONGO__URL='mongodb://app:secret@localhost/?replicaSet=rs0' cargo run --example actix
//! ```

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use actix_web::body::MessageBody;
use actix_web::dev::{Payload, Server, ServiceRequest, ServiceResponse};
use actix_web::http::{StatusCode, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Json, ServiceConfig, ThinData};
use actix_web::{App, FromRequest, HttpRequest, HttpResponse, HttpServer, ResponseError};
use metrics_exporter_prometheus::PrometheusHandle;
use mongo_core::event::{EventHandlers, MetricsRecorder};
// The one line that names a backend: `use mongo_deadpool::…` or `use mongo_bb8::…` in your code.
use mongo_examples::Fatal;
use mongo_examples::backend::{Pools, PoolsConnection};
use mongo_examples::service::{self, Answer, Health, Note, Settings, Signals};
use mongo_examples::status::{RecentEvents, StatusPage};
use tokio::task::JoinSet;
use tracing::Instrument;

#[actix_web::main]
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
    // Connects here, so that background tasks run on this runtime: each of actix's workers
    // has a runtime of its own, which ends before the pools are closed.
    pools.connect()?;
    service::verify(&pools).await?;
    let health = Health::new(&pools);
    let signals = Signals::catch()?;

    let page = StatusPage::new(&pools, &events);
    let admin = (page, health.clone(), metrics);
    background.spawn(start_admin(&settings, admin)?);
    let server = start(&settings, pools.clone())?;
    let handle = server.handle();
    // `stop` sends its message at once. Its future ends with the server and is not needed.
    let stop = || drop(handle.stop(true));
    signals.serve(server, stop, &health, &settings).await?;
    // Closes all connections, including those of requests that were cut off, and ends the monitors.
    pools.close().await;
    println!("stopped");
    Ok(())
}

fn start(settings: &Settings, pools: Pools) -> io::Result<Server> {
    let routes = |app: &mut ServiceConfig| {
        let notes = web::scope("/notes")
            .wrap(from_fn(traced))
            .route("", web::get().to(notes))
            .route("/{id}", web::put().to(put_note));
        app.service(notes);
    };
    // Cheap to clone, so it does not need the `Arc` of `web::Data`.
    let app = move || {
        App::new()
            .app_data(ThinData(pools.clone()))
            .configure(routes)
    };
    let server = HttpServer::new(app)
        .bind(&settings.listen)?
        .disable_signals()
        // In whole seconds. `serve` is more precise, and times out first.
        .shutdown_timeout(settings.grace.as_secs().saturating_add(1));
    for address in server.addrs() {
        println!("listening at http://{address}");
    }
    Ok(server.run())
}

/// Routes that are polled frequently, and therefore not traced.
fn start_admin(
    settings: &Settings,
    (page, health, metrics): (StatusPage, Health, PrometheusHandle),
) -> io::Result<Server> {
    let app = move || {
        App::new()
            .app_data(ThinData(health.clone()))
            .app_data(ThinData(metrics.clone()))
            .route("/status", web::to(page.clone()))
            .route("/livez", web::get().to(async || "alive\n"))
            .route("/readyz", web::get().to(ready))
            .route("/metrics", web::get().to(rendered))
    };
    let server = HttpServer::new(app)
        .workers(1)
        .bind(&settings.admin)?
        .disable_signals();
    for address in server.addrs() {
        println!("for operators: http://{address}");
    }
    Ok(server.run())
}

/// A span for each request, the parent of the database's spans.
async fn traced(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let span = tracing::info_span!("request", method = %request.method(), uri = %request.uri());
    next.call(request).instrument(span).await
}

async fn ready(ThinData(health): ThinData<Health>) -> HttpResponse {
    match health.is_ready() {
        Ok(()) => HttpResponse::Ok().body("ready\n"),
        Err(reason) => HttpResponse::ServiceUnavailable().body(reason),
    }
}

async fn rendered(ThinData(metrics): ThinData<PrometheusHandle>) -> String {
    metrics.render()
}

async fn notes(Connection(mut connection): Connection) -> Result<Json<Vec<Note>>, Failure> {
    Ok(Json(service::notes(&mut connection).await?))
}

/// Checks out its connection after the body has arrived, so that no connection waits for a slow
/// client.
async fn put_note(
    ThinData(pools): ThinData<Pools>,
    id: web::Path<String>,
    Json(note): Json<Note>,
) -> Result<HttpResponse, Failure> {
    let mut connection = pools.get().await?;
    service::put_note(&mut connection, id.into_inner(), note).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// A connection to the primary for the duration of a request. It is returned to its pool when it is
/// dropped, also with a cancelled request.
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

/// An error of the database, as a response.
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
