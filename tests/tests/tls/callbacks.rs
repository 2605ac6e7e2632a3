//! Callbacks of an application's `rustls::ClientConfig` that panic after the handshake.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bson::doc;
use mongo_core::event::SdamEvent;
use mongo_core::net::{OnDemandTopology, Tls, Topology};
use mongo_core::pools::{Backend, ConnectionFactory, Pools};
use mongo_core::{ClientOptions, Deadline};
use mongo_testkit::{Authority, ScriptedServer, ServerTls};
use rustls::NamedGroup;
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;

use crate::support::{ping, server, trusting, uri};

const LIMIT: Duration = Duration::from_secs(20);

/// Panics at the first session tickets, which come with the first reply of the server.
#[derive(Debug)]
struct Tickets {
    panics: AtomicUsize,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        let less = |left: usize| left.checked_sub(1);
        let fuse = self
            .panics
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        assert!(fuse.is_err(), "on purpose");
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

struct Scene {
    _server: ScriptedServer,
    options: ClientOptions,
    tls: Tls,
}

/// A server over TLS, and the configuration of a client whose session store panics `panics` times.
async fn scene(panics: usize) -> Scene {
    let authority = Authority::new();
    let server = server(ServerTls::new(authority.server())).await;
    let trusting = uri(&server, "localhost", &trusting(&authority));
    let trusting = ClientOptions::parse(&trusting).expect("a connection string");
    let tls = Tls::from_options(&trusting.tls).expect("an authority");
    let mut config = rustls::ClientConfig::clone(&tls.config());
    let panics = AtomicUsize::new(panics);
    config.resumption = Resumption::store(Arc::new(Tickets { panics }));
    let options = uri(&server, "localhost", "&heartbeatFrequencyMS=500");
    Scene {
        options: ClientOptions::parse(&options).expect("a connection string"),
        tls: Tls::new(Arc::new(config)),
        _server: server,
    }
}

fn names_the_panic(text: &str) {
    let wanted = "the application's TLS configuration panicked: on purpose";
    assert!(text.contains(wanted), "{text}");
}

#[tokio::test]
async fn a_session_store_that_panics_fails_its_connection() {
    let scene = scene(2).await;
    let factory = ConnectionFactory::builder(scene.options).tls(scene.tls);
    let factory = factory.build().expect("a factory");
    for _ in 0..2 {
        let error = factory.establish(Deadline::after(LIMIT)).await;
        names_the_panic(&error.map(drop).expect_err("a panic").to_string());
    }
    let made = factory.establish(Deadline::after(LIMIT)).await;
    ping(&mut made.expect("a connection"))
        .await
        .expect("a reply");
}

async fn a_pool_survives<B: Backend<Config: Default>>() {
    let scene = scene(1).await;
    let pool = Pools::<B>::builder(scene.options).tls(scene.tls);
    let pool = pool.build_server_pool().expect("a pool");
    pool.ready();
    let got = pool.get(Deadline::after(LIMIT)).await;
    names_the_panic(&got.map(drop).expect_err("a panic").to_string());
    pool.ready();
    let mut got = pool.get(Deadline::after(LIMIT)).await.expect("another one");
    ping(&mut got).await.expect("a reply");
}

#[tokio::test]
async fn a_session_store_that_panics_does_not_harm_a_pool_of_deadpool() {
    a_pool_survives::<mongo_deadpool::Pool>().await;
}

#[tokio::test]
async fn a_session_store_that_panics_does_not_harm_a_pool_of_bb8() {
    a_pool_survives::<mongo_bb8::Pool>().await;
}

#[tokio::test]
async fn a_session_store_that_panics_ends_no_monitor() {
    let scene = scene(2).await;
    let builder = Topology::builder(scene.options).tls(scene.tls);
    let (builder, mut events) = builder.event_channel(100);
    let topology = builder.build().expect("a topology");
    topology.connect().expect("connected");
    let mut failures = 0;
    let succeeded = async {
        loop {
            match events.recv().await.expect("an event") {
                SdamEvent::ServerHeartbeatSucceeded(_) => return,
                SdamEvent::ServerHeartbeatFailed(failed) => {
                    names_the_panic(&failed.failure.to_string());
                    failures += 1;
                }
                _ => {}
            }
        }
    };
    let succeeded = tokio::time::timeout(LIMIT, succeeded).await;
    succeeded.expect("a heartbeat after the panics");
    assert!((1..=2).contains(&failures), "{failures}");
    topology.close().await;
}

#[tokio::test]
async fn a_single_client_names_the_panic_of_a_session_store() {
    let scene = scene(1).await;
    let builder = OnDemandTopology::builder(scene.options).tls(scene.tls);
    let mut client = builder.build_client().expect("a client");
    let command = doc! { "ping": 1 };
    let ran = client.run_command("admin", &command).await;
    names_the_panic(&ran.map(drop).expect_err("a panic").to_string());
}
