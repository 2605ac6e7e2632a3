//! Callbacks of the application that panic: monitoring and polling continue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::event::SdamEvent;
use mongo_core::net::{Connector, DnsResolver, OnDemandTopology, Stream, Topology};
use mongo_core::select::{Criterion, SelectionError, ServerSelector};
use mongo_core::uri::{SrvRecord, TxtRecord};
use mongo_core::{ClientOptions, Error, ErrorKind, ServerAddress};
use mongo_testkit::{Deployment, SimNetwork};
use tokio::time::{Instant, sleep};

use crate::support::{LIMIT, OverSim};

/// Panics at some of the calls, counted from 1.
#[derive(Clone)]
struct Fuse {
    at: &'static [usize],
    calls: Arc<AtomicUsize>,
}

impl Fuse {
    fn at(at: &'static [usize]) -> Self {
        Self {
            at,
            calls: Arc::default(),
        }
    }

    fn burn(&self) {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if self.at.contains(&call) {
            panic!("on purpose");
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

async fn set(network: &SimNetwork) -> Deployment {
    let set = Deployment::replica_set("rs").members(1).network(network);
    set.start().await
}

fn options(set: &Deployment) -> ClientOptions {
    let uri = format!("{}&heartbeatFrequencyMS=500", set.uri());
    ClientOptions::parse(&uri).expect("a connection string")
}

/// Checks that a server is monitored: a killed one is discovered after its restart.
async fn is_monitored(topology: &Topology, set: &Deployment) {
    let criterion = Criterion::write();
    let writable = || topology.select_by(LIMIT, &criterion, &[]);
    writable().await.expect("a primary");
    set.kill(0).await;
    sleep(Duration::from_secs(2)).await;
    let down = topology.snapshot();
    let found = down.select(&Criterion::write(), &[], 0).expect("no error");
    assert!(found.is_none(), "the end of the server is noticed");
    set.restart(0).await;
    set.elect(0);
    writable().await.expect("the restarted server");
    topology.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_at_every_event_ends_no_monitor() {
    let network = SimNetwork::new(1);
    let set = set(&network).await;
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let topology = Topology::builder(options(&set))
        .connector(Arc::new(OverSim(network)))
        .event_handler(|_| panic!("on purpose"))
        .event_handler(move |event| {
            if let SdamEvent::ServerHeartbeatSucceeded(_) = event {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        })
        .build()
        .expect("a topology");
    topology.connect().expect("within a runtime");
    is_monitored(&topology, &set).await;
    assert!(seen.load(Ordering::SeqCst) > 0);
}

struct Fused(OverSim, Fuse);

#[async_trait]
impl Connector for Fused {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        self.1.burn();
        self.0.connect(address).await
    }
}

/// The third attempt is that of the round trip time probe, or of the monitor after its first
/// failure.
#[tokio::test(start_paused = true)]
async fn a_connector_that_panics_ends_no_monitor_and_no_probe() {
    let network = SimNetwork::new(2);
    let set = set(&network).await;
    let fuse = Fuse::at(&[1, 3, 5]);
    let topology = Topology::builder(options(&set))
        .connector(Arc::new(Fused(OverSim(network), fuse.clone())))
        .build()
        .expect("a topology");
    topology.connect().expect("within a runtime");
    is_monitored(&topology, &set).await;
    assert!(fuse.calls() > 5, "{}", fuse.calls());
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_panics_fails_one_selection() {
    let network = SimNetwork::new(3);
    let set = set(&network).await;
    let fuse = Fuse::at(&[1]);
    let burnt = fuse.clone();
    let topology = Topology::builder(options(&set))
        .connector(Arc::new(OverSim(network)))
        .server_selector(ServerSelector::new(move |servers| {
            burnt.burn();
            servers.to_vec()
        }))
        .build()
        .expect("a topology");
    topology.connect().expect("within a runtime");
    let begun = Instant::now();
    let refused = topology.select(&Criterion::write()).await;
    let error = refused.expect_err("a panic");
    assert!(begun.elapsed() < Duration::from_secs(5), "at once");
    let reason = SelectionError::of(&error);
    assert!(
        matches!(reason, Some(SelectionError::Selector(_))),
        "{error}"
    );
    is_monitored(&topology, &set).await;
}

/// A resolver that panics at every second lookup.
struct Dns {
    srv: Fuse,
    txt: Fuse,
}

#[async_trait]
impl DnsResolver for Dns {
    async fn srv_lookup(&self, _: &str) -> io::Result<Vec<SrvRecord>> {
        self.srv.burn();
        Ok(vec![SrvRecord::new(
            "a.example.com.",
            27017,
            Duration::from_secs(60),
        )])
    }

    async fn txt_lookup(&self, _: &str) -> io::Result<Vec<TxtRecord>> {
        self.txt.burn();
        Ok(Vec::new())
    }
}

#[tokio::test(start_paused = true)]
async fn a_lookup_is_repeated_after_its_resolver_panicked() {
    let (srv, txt) = (Fuse::at(&[1, 4, 6]), Fuse::at(&[2]));
    let resolver = Dns {
        srv: srv.clone(),
        txt: txt.clone(),
    };
    let uri = "mongodb+srv://cluster.example.com/?tls=false";
    let topology = Topology::builder(ClientOptions::parse(uri).expect("a connection string"))
        .resolver(Arc::new(resolver))
        .connector(Arc::new(OverSim(SimNetwork::new(4))))
        .build()
        .expect("a topology");
    topology.connect().expect("within a runtime");
    let refused = topology.select(&Criterion::write()).await;
    let error = refused.expect_err("a panic");
    assert!(matches!(error.kind(), ErrorKind::Srv(_)), "{error}");
    let wanted = "the application's DNS resolver panicked: on purpose";
    assert!(error.to_string().contains(wanted), "{error}");
    // The first lookup is repeated until it succeeds; then the records are polled.
    sleep(Duration::from_secs(600)).await;
    assert_eq!(topology.description().servers().len(), 1);
    assert!(srv.calls() > 8, "{}", srv.calls());
    topology.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_scan_survives_callbacks_that_panic() {
    let network = SimNetwork::new(5);
    let set = set(&network).await;
    let (connect, select) = (Fuse::at(&[1]), Fuse::at(&[1]));
    let burnt = select.clone();
    let connector = Fused(OverSim(network), connect.clone());
    let mut topology = OnDemandTopology::builder(options(&set))
        .connector(Arc::new(connector))
        .event_handler(|_| panic!("on purpose"))
        .server_selector(ServerSelector::new(move |servers| {
            burnt.burn();
            servers.to_vec()
        }))
        .try_once(false)
        .build()
        .expect("a topology");
    let refused = topology.select(&Criterion::write()).await;
    let error = refused.expect_err("the selector panics once a server is found");
    assert!(
        error.to_string().contains("server selector panicked"),
        "{error}"
    );
    assert_eq!(connect.calls(), 2);
    topology
        .select(&Criterion::write())
        .await
        .expect("a server");
}
