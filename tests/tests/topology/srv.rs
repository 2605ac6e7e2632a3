//! `mongodb+srv` through the live topology: the prose tests of polling SRV records, by their
//! numbers, and the first lookup. The clock is paused.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::error::{ErrorKind, Wait};
use mongo_core::event::SdamEvent;
use mongo_core::net::{DnsResolver, Topology};
use mongo_core::sdam::TopologyType;
use mongo_core::select::Criterion;
use mongo_core::uri::{SrvRecord, TxtRecord};
use mongo_core::{ClientOptions, Error};
use mongo_testkit::{Deployment, SimNetwork};

use crate::support::LIMIT;

#[path = "../common/by_port.rs"]
mod by_port;
pub(crate) use by_port::ByPort;

/// The least time between two successful lookups.
pub(crate) const RESCAN: Duration = Duration::from_secs(60);

pub(crate) const RECORD: &str = "_mongodb._tcp.test1.test.build.10gen.cc";

pub(crate) const TEST1: &str = "mongodb+srv://test1.test.build.10gen.cc/?tls=false";

/// The behavior of the resolver.
#[derive(Clone)]
pub(crate) enum Zone {
    /// One record for each port.
    Ports(Vec<u16>),
    Fails,
    Silent,
}

/// A resolver that a test can change.
pub(crate) struct Dns {
    name: &'static str,
    zone: Mutex<Zone>,
    txt: Option<&'static str>,
    asked: AtomicUsize,
}

impl Dns {
    pub(crate) fn new(ports: &[u16]) -> Arc<Self> {
        Self::of(RECORD, ports, None)
    }

    pub(crate) fn of(name: &'static str, ports: &[u16], txt: Option<&'static str>) -> Arc<Self> {
        Arc::new(Self {
            name,
            zone: Mutex::new(Zone::Ports(ports.to_vec())),
            txt,
            asked: AtomicUsize::new(0),
        })
    }

    pub(crate) fn set(&self, zone: Zone) {
        *self.zone.lock().expect("no panic") = zone;
    }

    pub(crate) fn ports(&self, ports: &[u16]) {
        self.set(Zone::Ports(ports.to_vec()));
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl DnsResolver for Dns {
    async fn srv_lookup(&self, name: &str) -> io::Result<Vec<SrvRecord>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let zone = self.zone.lock().expect("no panic").clone();
        match zone {
            Zone::Fails => Err(io::Error::other("SERVFAIL")),
            Zone::Silent => std::future::pending().await,
            Zone::Ports(_) if name != self.name => Ok(Vec::new()),
            Zone::Ports(ports) => Ok(ports
                .into_iter()
                .map(|port| {
                    SrvRecord::new(
                        "localhost.test.build.10gen.cc.",
                        port,
                        Duration::from_secs(5),
                    )
                })
                .collect()),
        }
    }

    async fn txt_lookup(&self, _name: &str) -> io::Result<Vec<TxtRecord>> {
        let record = self
            .txt
            .map(|text| TxtRecord::new(vec![text.as_bytes().to_vec()]));
        Ok(record.into_iter().collect())
    }
}

/// Four routers, and a client of them.
struct Routers {
    topology: Topology,
    events: Arc<Mutex<Vec<SdamEvent>>>,
    _deployment: Deployment,
}

impl Routers {
    async fn start(uri: &str, dns: &Arc<Dns>) -> Self {
        let network = SimNetwork::new(7);
        let deployment = Deployment::sharded(4).network(&network).start().await;
        Self::over(uri, dns, &network, deployment)
    }

    fn over(uri: &str, dns: &Arc<Dns>, network: &SimNetwork, deployment: Deployment) -> Self {
        let options = ClientOptions::parse(uri).expect("a connection string");
        let events = Arc::new(Mutex::new(Vec::new()));
        let kept = events.clone();
        let topology = Topology::builder(options)
            .resolver(dns.clone())
            .connector(Arc::new(ByPort(network.clone())))
            .event_handler(move |event| kept.lock().expect("no panic").push(event.clone()))
            .build()
            .expect("a topology");
        topology.connect().expect("connected");
        Self {
            topology,
            events,
            _deployment: deployment,
        }
    }

    fn ports(&self) -> BTreeSet<u16> {
        let known = self.topology.description();
        let ports = known.servers().iter().map(|server| server.address.port());
        ports.map(Option::unwrap_or_default).collect()
    }

    async fn select(&self) -> Result<(), Error> {
        let criterion = Criterion::write();
        let selected = self.topology.select_by(LIMIT, &criterion, &[]).await;
        selected.map(|_| ())
    }

    /// Discovers the routers of test1, changes the zone, and returns the known ports two intervals
    /// later.
    async fn after(uri: &str, dns: Arc<Dns>, change: impl FnOnce(&Dns)) -> BTreeSet<u16> {
        let routers = Self::start(uri, &dns).await;
        routers.select().await.expect("a router");
        assert_eq!(routers.ports(), [27017, 27018].into());
        change(&dns);
        tokio::time::sleep(2 * RESCAN).await;
        let ports = routers.ports();
        routers.select().await.expect("a router");
        routers.topology.close().await;
        ports
    }
}

#[tokio::test(start_paused = true)]
async fn polling_1_a_record_is_added() {
    let dns = Dns::new(&[27017, 27018]);
    let ports = Routers::after(TEST1, dns, |dns| dns.ports(&[27017, 27018, 27019])).await;
    assert_eq!(ports, [27017, 27018, 27019].into());
}

#[tokio::test(start_paused = true)]
async fn polling_2_a_record_is_removed() {
    let dns = Dns::new(&[27017, 27018]);
    let ports = Routers::after(TEST1, dns, |dns| dns.ports(&[27017])).await;
    assert_eq!(ports, [27017].into());
}

#[tokio::test(start_paused = true)]
async fn polling_3_a_record_is_replaced() {
    let dns = Dns::new(&[27017, 27018]);
    let ports = Routers::after(TEST1, dns, |dns| dns.ports(&[27017, 27019])).await;
    assert_eq!(ports, [27017, 27019].into());
}

#[tokio::test(start_paused = true)]
async fn polling_4_all_are_replaced_by_one() {
    let dns = Dns::new(&[27017, 27018]);
    let ports = Routers::after(TEST1, dns, |dns| dns.ports(&[27019])).await;
    assert_eq!(ports, [27019].into());
}

#[tokio::test(start_paused = true)]
async fn polling_5_all_are_replaced_by_two() {
    let dns = Dns::new(&[27017, 27018]);
    let ports = Routers::after(TEST1, dns, |dns| dns.ports(&[27019, 27020])).await;
    assert_eq!(ports, [27019, 27020].into());
}

/// Tests 6 to 8: the list stays, lookups continue at the heartbeat frequency, and a later result is
/// applied.
async fn nothing_changes(zone: Zone) {
    let dns = Dns::new(&[27017, 27018]);
    let routers = Routers::start(TEST1, &dns).await;
    routers.select().await.expect("a router");
    dns.set(zone);
    tokio::time::sleep(2 * RESCAN).await;
    assert_eq!(routers.ports(), [27017, 27018].into());
    // The first lookup, one at the end of the interval, then one each 10 s, or 20 s with the
    // timeout.
    assert!((4..=8).contains(&dns.asked()), "{} lookups", dns.asked());
    routers.select().await.expect("a router");
    dns.ports(&[27018, 27019]);
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert_eq!(routers.ports(), [27018, 27019].into());
    routers.topology.close().await;
}

#[tokio::test(start_paused = true)]
async fn polling_6_a_lookup_times_out() {
    nothing_changes(Zone::Silent).await;
}

#[tokio::test(start_paused = true)]
async fn polling_7_a_lookup_fails() {
    nothing_changes(Zone::Fails).await;
}

#[tokio::test(start_paused = true)]
async fn polling_8_all_records_are_gone() {
    nothing_changes(Zone::Ports(Vec::new())).await;
}

#[tokio::test(start_paused = true)]
async fn polling_9_is_not_done_for_a_load_balancer() {
    let network = SimNetwork::new(8);
    let balanced = Deployment::load_balanced(2).network(&network).start().await;
    let name = "_mongodb._tcp.test3.test.build.10gen.cc";
    for (option, txt) in [
        ("&loadBalanced=true", None),
        ("", Some("loadBalanced=true")),
    ] {
        let dns = Dns::of(name, &[27017], txt);
        let uri = format!("mongodb+srv://test3.test.build.10gen.cc/?tls=false{option}");
        let topology = Topology::builder(ClientOptions::parse(&uri).expect("options"))
            .resolver(dns.clone())
            .connector(Arc::new(ByPort(network.clone())))
            .build()
            .expect("a topology");
        topology.connect().expect("connected");
        let selected = topology.select(&Criterion::write()).await;
        assert_eq!(
            selected.expect("the balancer").address().port(),
            Some(27017)
        );
        assert_eq!(topology.options().load_balanced, Some(true));
        dns.ports(&[27017, 27018]);
        tokio::time::sleep(2 * RESCAN).await;
        let known = topology.description();
        assert_eq!(known.topology_type(), TopologyType::LoadBalanced);
        assert_eq!(known.servers().len(), 1);
        assert_eq!(dns.asked(), 1);
        topology.close().await;
    }
    balanced.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn polling_10_all_are_taken_without_a_maximum() {
    let dns = Dns::new(&[27017, 27018]);
    let uri = format!("{TEST1}&srvMaxHosts=0");
    let ports = Routers::after(&uri, dns, |dns| dns.ports(&[27017, 27019, 27020])).await;
    assert_eq!(ports, [27017, 27019, 27020].into());
}

#[tokio::test(start_paused = true)]
async fn polling_11_all_are_taken_up_to_the_maximum() {
    let dns = Dns::new(&[27017, 27018]);
    let uri = format!("{TEST1}&srvMaxHosts=2");
    let ports = Routers::after(&uri, dns, |dns| dns.ports(&[27019, 27020])).await;
    assert_eq!(ports, [27019, 27020].into());
}

#[tokio::test(start_paused = true)]
async fn polling_12_new_ones_are_chosen_up_to_the_maximum() {
    let dns = Dns::new(&[27017, 27018]);
    let uri = format!("{TEST1}&srvMaxHosts=2");
    let ports = Routers::after(&uri, dns, |dns| dns.ports(&[27017, 27019, 27020])).await;
    assert!(ports.len() == 2 && ports.contains(&27017), "{ports:?}");
}

#[tokio::test(start_paused = true)]
async fn polling_13_a_custom_service_name() {
    let name = "_customname._tcp.test22.test.build.10gen.cc";
    let dns = Dns::of(name, &[27017, 27018], None);
    let uri = "mongodb+srv://test22.test.build.10gen.cc/?tls=false&srvServiceName=customname";
    let ports = Routers::after(uri, dns, |dns| dns.ports(&[27019, 27020])).await;
    assert_eq!(ports, [27019, 27020].into());
}

/// A replica set reports its members itself.
#[tokio::test(start_paused = true)]
async fn records_of_a_replica_set_are_not_polled() {
    let network = SimNetwork::new(9);
    let set = Deployment::replica_set("rs")
        .members(2)
        .network(&network)
        .start()
        .await;
    for member in 0..2 {
        set.rename(member, &format!("localhost:{}", 27017 + member));
    }
    let dns = Dns::new(&[27017, 27018]);
    let routers = Routers::over(TEST1, &dns, &network, set);
    routers.select().await.expect("a primary");
    dns.ports(&[27019]);
    tokio::time::sleep(3 * RESCAN).await;
    assert_eq!(routers.ports(), [27017, 27018].into());
    assert_eq!(dns.asked(), 1);
    routers.topology.close().await;
}

/// A selection fails as soon as the lookup fails, before its timeout, and the lookup is repeated
/// for the next selection.
#[tokio::test(start_paused = true)]
async fn a_failed_first_lookup_fails_selections_and_is_repeated() {
    let dns = Dns::new(&[27017, 27018]);
    dns.set(Zone::Fails);
    let routers = Routers::start(TEST1, &dns).await;
    for _ in 0..3 {
        let begun = tokio::time::Instant::now();
        let error = routers.select().await.expect_err("no hosts");
        assert!(matches!(error.kind(), ErrorKind::Srv(_)), "{error}");
        assert!(error.to_string().contains("SERVFAIL"), "{error}");
        assert!(begun.elapsed() <= Duration::from_millis(501));
    }
    assert_eq!(routers.events.lock().expect("no panic").len(), 0);
    dns.ports(&[27017]);
    routers.select().await.expect("a router");
    assert_eq!(routers.ports(), [27017].into());
    let options = routers.topology.options();
    assert_eq!(options.hosts.len(), 1);
    routers.topology.close().await;
    let events = routers.events.lock().expect("no panic");
    assert!(matches!(
        events.first(),
        Some(SdamEvent::TopologyOpening(_))
    ));
    assert!(matches!(events.last(), Some(SdamEvent::TopologyClosed(_))));
}

/// Without a selection, the lookup is repeated at the heartbeat frequency.
#[tokio::test(start_paused = true)]
async fn a_failed_first_lookup_is_repeated_without_a_selection() {
    let dns = Dns::new(&[27017]);
    dns.set(Zone::Fails);
    let routers = Routers::start(TEST1, &dns).await;
    tokio::time::sleep(Duration::from_millis(9900)).await;
    assert_eq!(dns.asked(), 1);
    dns.ports(&[27017]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(dns.asked(), 2);
    assert_eq!(routers.ports(), [27017].into());
    routers.topology.close().await;
}

/// DNS does not answer: the selection ends at its deadline, and the error names the wait.
#[tokio::test(start_paused = true)]
async fn a_selection_does_not_wait_for_dns_past_its_deadline() {
    let dns = Dns::new(&[27017]);
    dns.set(Zone::Silent);
    let routers = Routers::start(TEST1, &dns).await;
    let waited = Duration::from_secs(3);
    let selected = routers
        .topology
        .select_by(waited, &Criterion::write(), &[])
        .await;
    let error = selected.expect_err("no hosts");
    let dns_wait = |kind: &ErrorKind| matches!(kind, ErrorKind::Timeout { wait: Wait::Dns, after } if *after == waited);
    assert!(dns_wait(error.kind()), "{error}");
    assert!(error.to_string().contains("test1.test.build.10gen.cc"));
    routers.topology.close().await;
    let closed = routers.select().await.expect_err("closed");
    assert!(matches!(closed.kind(), ErrorKind::TopologyClosed));
    // The topology was never opened, so there is no event.
    assert_eq!(routers.events.lock().expect("no panic").len(), 0);
}

/// After a disconnect and a connect the records are looked up again.
#[tokio::test(start_paused = true)]
async fn a_reconnected_topology_looks_records_up_again() {
    let dns = Dns::new(&[27017, 27018]);
    let routers = Routers::start(TEST1, &dns).await;
    routers.select().await.expect("a router");
    routers.topology.disconnect().await;
    let asked = dns.asked();
    tokio::time::sleep(2 * RESCAN).await;
    assert_eq!(dns.asked(), asked, "nothing polls a disconnected topology");
    dns.ports(&[27019]);
    routers.topology.connect().expect("connected");
    routers.select().await.expect("a router");
    assert_eq!(routers.ports(), [27019].into());
    assert_eq!(
        Arc::strong_count(&dns),
        3,
        "the test, the topology, its task"
    );
    routers.topology.close().await;
    assert_eq!(Arc::strong_count(&dns), 2, "no task");
}
