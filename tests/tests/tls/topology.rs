//! Monitors and single clients over TLS.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::doc;
use mongo_core::error::{CertificateProblem, TlsError, Wait};
use mongo_core::event::SdamEvent;
use mongo_core::net::{Connector, SingleClient, SocketConnector, Stream, Topology};
use mongo_core::pools::{Backend, Pools};
use mongo_core::select::Criterion;
use mongo_core::{ClientOptions, Error, ErrorKind, ServerAddress};
use mongo_testkit::{Action, Authority, Matcher, ScriptedServer, ServerTls};

use rustls::{SupportedProtocolVersion, version};
use tokio::sync::broadcast;
use tokio::time::{advance, pause, resume, timeout};

use crate::support::{escape, server, trusting, uri};

/// No test waits for longer, whatever goes wrong.
const LIMIT: Duration = Duration::from_secs(20);

fn options(uri: &str) -> ClientOptions {
    ClientOptions::parse(uri).expect("options")
}

#[tokio::test]
async fn a_topology_is_discovered() {
    let authority = Authority::new();
    let server = server(ServerTls::new(authority.server())).await;
    let uri = uri(&server, "localhost", &trusting(&authority));
    let topology = Topology::new(options(&uri)).expect("a topology");
    topology.connect().expect("connected");
    topology
        .select(&Criterion::write())
        .await
        .expect("a server");
    topology.close().await;

    let mut client = SingleClient::new(options(&uri)).expect("a client");
    let ping = doc! { "ping": 1 };
    client.run_command("admin", &ping).await.expect("a reply");
}

/// A server for clients of an authority, and a client whose certificate is of a stranger's.
struct Renewal {
    authority: Authority,
    server: ScriptedServer,
    file: PathBuf,
    uri: String,
    /// Its files go with it.
    _stranger: Authority,
}

impl Renewal {
    async fn of(version: &'static SupportedProtocolVersion) -> Self {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let tls = ServerTls::new(authority.server()).version(version);
        let server = server(tls.clients_of(&authority)).await;
        let file = stranger.client("app").file();
        let key = format!("&tlsCertificateKeyFile={}", escape(&file));
        let more = format!("{}{key}&heartbeatFrequencyMS=500", trusting(&authority));
        Self {
            uri: uri(&server, "localhost", &more),
            authority,
            server,
            file,
            _stranger: stranger,
        }
    }

    /// The authority has issued a certificate for the client, and as much time has passed as files
    /// are not read again for.
    async fn renew(&self) {
        let renewed = self.authority.client("app");
        let text = format!("{}{}", renewed.certificate(), renewed.key());
        std::fs::write(&self.file, text).expect("a file");
        pause();
        advance(Duration::from_secs(6)).await;
        resume();
    }
}

/// The next failure of a heartbeat.
async fn refused(events: &mut broadcast::Receiver<SdamEvent>) -> Error {
    loop {
        let event = timeout(LIMIT, events.recv()).await.expect("in time");
        if let SdamEvent::ServerHeartbeatFailed(failed) = event.expect("an event") {
            return failed.failure;
        }
    }
}

/// With TLS 1.3 a server refuses a client's certificate only after the hello.
#[tokio::test]
async fn a_monitor_reads_a_renewed_certificate_of_the_client_again() {
    for version in [&version::TLS12, &version::TLS13] {
        let renewal = Renewal::of(version).await;
        let builder = Topology::builder(options(&renewal.uri));
        let (builder, mut events) = builder.event_channel(100);
        let topology = builder.build().expect("a topology");
        topology.connect().expect("connected");
        let refused = refused(&mut events).await;
        assert!(matches!(refused.kind(), ErrorKind::Tls(_)), "{refused}");
        renewal.renew().await;
        let known = topology.select_by(LIMIT, &Criterion::write(), &[]).await;
        known.unwrap_or_else(|error| panic!("{version:?}: {error}"));
        topology.close().await;
    }
}

/// No check-out has to fail first: pools use what their monitors have read.
async fn pools_use_the_tls_files_of_their_monitors<B: Backend<Config: Default>>() {
    for version in [&version::TLS12, &version::TLS13] {
        let renewal = Renewal::of(version).await;
        let (told, mut events) = broadcast::channel(100);
        let pools = Pools::<B>::builder(options(&renewal.uri)).on_sdam(move |event| {
            let _ = told.send(event.clone());
        });
        let pools = pools.build().expect("pools");
        pools.connect().expect("connected");
        refused(&mut events).await;
        renewal.renew().await;
        let got = timeout(LIMIT, pools.get()).await.expect("in time");
        drop(got.unwrap_or_else(|error| panic!("{version:?}: {error}")));
        pools.close().await;
        assert!(renewal.server.look(|seen| seen.protocol_errors.is_empty()));
    }
}

#[tokio::test]
async fn pools_of_deadpool_use_the_tls_files_of_their_monitors() {
    pools_use_the_tls_files_of_their_monitors::<mongo_deadpool::Pool>().await;
}

#[tokio::test]
async fn pools_of_bb8_use_the_tls_files_of_their_monitors() {
    pools_use_the_tls_files_of_their_monitors::<mongo_bb8::Pool>().await;
}

/// The first failed heartbeat of a new topology.
async fn failed_heartbeat(uri: &str, connector: Option<Arc<dyn Connector>>) -> Error {
    let mut builder = Topology::builder(options(uri));
    if let Some(connector) = connector {
        builder = builder.connector(connector);
    }
    let (builder, mut events) = builder.event_channel(100);
    let topology = builder.build().expect("a topology");
    topology.connect().expect("connected");
    loop {
        match events.recv().await.expect("an event") {
            SdamEvent::ServerHeartbeatFailed(event) => {
                topology.close().await;
                return event.failure;
            }
            SdamEvent::ServerHeartbeatSucceeded(event) => panic!("{event:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_monitor_reports_a_wrong_certificate() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = server(ServerTls::new(stranger.server())).await;
    let uri = uri(&server, "localhost", &trusting(&authority));
    let unknown = TlsError::Certificate(CertificateProblem::UnknownIssuer);
    let error = failed_heartbeat(&uri, None).await;
    assert_eq!(crate::support::refusal(&error, &server), unknown);
    let mut client = SingleClient::new(options(&uri)).expect("a client");
    let ping = doc! { "ping": 1 };
    let error = client.run_command("admin", &ping).await.map(drop);
    let text = error.expect_err("refused").to_string();
    assert!(text.contains("not issued by a trusted authority"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn the_connect_timeout_of_a_monitor_covers_tls() {
    let authority = Authority::new();
    let silent = ScriptedServer::builder()
        .rule(Matcher::accept().then(Action::Hang))
        .start()
        .await;
    let uri = uri(&silent, "127.0.0.1", &trusting(&authority));
    let error = failed_heartbeat(&(uri + "&connectTimeoutMS=500"), None).await;
    let bound = Duration::from_millis(500);
    let ErrorKind::Timeout { wait, after } = error.kind() else {
        panic!("{error:?}");
    };
    assert_eq!(*wait, Wait::Tls);
    assert!(*after >= bound && *after < bound + Duration::from_millis(50));
}

/// A connector that opens plain sockets, even if TLS is requested.
struct Plain(bool);

#[async_trait]
impl Connector for Plain {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        SocketConnector::new().connect(address).await
    }

    fn is_secure(&self) -> bool {
        self.0
    }
}

#[tokio::test]
async fn tls_runs_on_top_of_a_custom_connector() {
    let authority = Authority::new();
    let server = ScriptedServer::builder().record_bytes().start().await;
    let uri = uri(&server, "localhost", &trusting(&authority));
    // To a server without TLS, the ClientHello looks like the start of a longer message.
    let hasty = format!("{uri}&connectTimeoutMS=100");
    let error = failed_heartbeat(&hasty, Some(Arc::new(Plain(false)))).await;
    let wait = Wait::Tls;
    let timed_out = matches!(error.kind(), ErrorKind::Timeout { wait: own, .. } if *own == wait);
    assert!(timed_out, "{error:?}");
    assert_eq!(server.look(|seen| seen.hellos()), 0);

    // Except if the connector claims to be secure.
    let topology = Topology::builder(options(&uri)).connector(Arc::new(Plain(true)));
    let topology = topology.build().expect("a topology");
    topology.connect().expect("connected");
    topology
        .select(&Criterion::write())
        .await
        .expect("a server");
    topology.close().await;
}

/// Pools over a topology that is there, or a manager that floats over one.
async fn over_a_topology(floats: bool) {
    let renewal = Renewal::of(&version::TLS13).await;
    let builder = Topology::builder(options(&renewal.uri));
    let (builder, mut events) = builder.event_channel(100);
    let topology = builder.build().expect("a topology");
    topology.connect().expect("connected");
    let factory = mongo_core::pools::ConnectionFactory::builder(options(&renewal.uri))
        .floating(topology.clone(), Criterion::write())
        .build()
        .expect("a factory");
    let pools = Pools::<mongo_deadpool::Pool>::builder(options(&renewal.uri))
        .topology(topology.clone())
        .build()
        .expect("pools");
    refused(&mut events).await;
    renewal.renew().await;
    let known = topology.select_by(LIMIT, &Criterion::write(), &[]).await;
    known.map(drop).expect("the monitor has read it");
    let deadline = mongo_core::Deadline::after(LIMIT);
    match floats {
        true => drop(factory.establish(deadline).await.expect("a connection")),
        false => drop(pools.get().await.expect("a connection")),
    }
    topology.close().await;
}

#[tokio::test]
async fn pools_over_a_given_topology_use_the_tls_files_of_its_monitors() {
    over_a_topology(false).await;
}

#[tokio::test]
async fn a_floating_factory_uses_the_tls_files_of_its_topology() {
    over_a_topology(true).await;
}
