//! SRV and TXT records take effect in pools and floating managers. The clock is paused.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::net::{DnsResolver, Topology};
use mongo_core::pools::{Backend, ConnectionFactory, Pools, PoolsBuilder};
use mongo_core::select::Criterion;
use mongo_core::uri::{SrvRecord, TxtRecord};
use mongo_core::{ClientOptions, Deadline, ErrorKind};
use mongo_testkit::{Deployment, SimNetwork, User};
use tokio::time::sleep;

use crate::support::{LIMIT, ping};

#[path = "../common/by_port.rs"]
mod by_port;
use by_port::ByPort;

on_both! {
    on a paused clock:
    load_balanced_in_a_txt_record_reaches_the_handshake,
    replica_set_in_the_connection_string_overrides_a_txt_record,
    srv_max_hosts_with_a_replica_set_in_a_txt_record_is_refused,
    srv_service_name_is_used,
    records_are_polled_and_an_unlisted_router_keeps_connections_in_use,
}

/// The least time between two successful lookups.
const RESCAN: Duration = Duration::from_secs(60);

const HOST: &str = "cluster0.db.example.net";

/// A name server that a test can change.
struct Dns {
    service: &'static str,
    ports: Mutex<Vec<u16>>,
    text: Option<&'static str>,
    asked: AtomicUsize,
}

impl Dns {
    fn new(ports: &[u16], text: Option<&'static str>) -> Arc<Self> {
        Self::of_service("mongodb", ports, text)
    }

    fn of_service(service: &'static str, ports: &[u16], text: Option<&'static str>) -> Arc<Self> {
        Arc::new(Self {
            service,
            ports: Mutex::new(ports.to_vec()),
            text,
            asked: AtomicUsize::new(0),
        })
    }

    fn set_ports(&self, ports: &[u16]) {
        *self.ports.lock().expect("no panic") = ports.to_vec();
    }
}

#[async_trait]
impl DnsResolver for Dns {
    async fn srv_lookup(&self, name: &str) -> io::Result<Vec<SrvRecord>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if name != format!("_{}._tcp.{HOST}", self.service) {
            return Ok(Vec::new());
        }
        let ports = self.ports.lock().expect("no panic").clone();
        let record = |port| SrvRecord::new("shard0.db.example.net.", port, Duration::from_secs(5));
        Ok(ports.into_iter().map(record).collect())
    }

    async fn txt_lookup(&self, _name: &str) -> io::Result<Vec<TxtRecord>> {
        let record = self
            .text
            .map(|text| TxtRecord::new(vec![text.as_bytes().to_vec()]));
        Ok(record.into_iter().collect())
    }
}

fn options(user: &str, more: &str) -> ClientOptions {
    let uri = format!("mongodb+srv://{user}{HOST}/?tls=false{more}");
    ClientOptions::parse(&uri).expect("a connection string")
}

fn builder<B: Backend<Config: Default>>(
    network: &SimNetwork,
    dns: &Arc<Dns>,
    more: &str,
) -> PoolsBuilder<B> {
    Pools::builder(options("", more))
        .resolver(dns.clone())
        .connector(Arc::new(ByPort(network.clone())))
}

/// A set whose members have the names of the SRV records.
async fn set(network: &SimNetwork) -> Deployment {
    let set = Deployment::replica_set("rs").members(2).network(network);
    let set = set.start().await;
    for member in 0..2 {
        set.rename(member, &format!("shard0.db.example.net:{}", 27017 + member));
    }
    set
}

async fn load_balanced_in_a_txt_record_reaches_the_handshake<B: Backend<Config: Default>>() {
    let network = SimNetwork::new(8);
    let _balanced = Deployment::load_balanced(2).network(&network).start().await;
    let dns = Dns::new(&[27017], Some("loadBalanced=true"));
    let pools = builder::<B>(&network, &dns, "").build().expect("pools");
    let connection = pools.get().await.expect("a connection");
    assert!(connection.description().service_id.is_some());
    drop(connection);
    pools.close().await;
}

async fn replica_set_in_the_connection_string_overrides_a_txt_record<
    B: Backend<Config: Default>,
>() {
    let network = SimNetwork::new(9);
    let _set = set(&network).await;
    let cases = [
        ("", Some("replicaSet=rs"), true),
        ("&replicaSet=rs", Some("replicaSet=other"), true),
        ("", Some("replicaSet=other"), false),
        ("&replicaSet=other", Some("replicaSet=rs"), false),
    ];
    for (more, text, is_found) in cases {
        let dns = Dns::new(&[27017, 27018], text);
        let pools = builder::<B>(&network, &dns, more).build().expect("pools");
        let outcome = ping(&pools).await;
        assert_eq!(outcome.is_ok(), is_found, "{more:?}, {text:?}: {outcome:?}");
        pools.close().await;
    }
}

async fn srv_max_hosts_with_a_replica_set_in_a_txt_record_is_refused<
    B: Backend<Config: Default>,
>() {
    let network = SimNetwork::new(10);
    let _set = set(&network).await;
    let more = "&srvMaxHosts=1";
    let dns = Dns::new(&[27017, 27018], Some("replicaSet=rs"));
    let pools = builder::<B>(&network, &dns, more).build().expect("pools");
    let error = ping(&pools).await.expect_err("a contradiction");
    assert!(matches!(error.kind(), ErrorKind::Srv(_)), "{error}");
    assert!(error.to_string().contains("srvMaxHosts"), "{error}");
    pools.close().await;
    let dns = Dns::new(&[27017, 27018], None);
    let pools = builder::<B>(&network, &dns, more).build().expect("pools");
    ping(&pools).await.expect("a primary");
    assert_eq!(pools.topology().options().hosts.len(), 1);
    pools.close().await;
}

async fn srv_service_name_is_used<B: Backend<Config: Default>>() {
    let network = SimNetwork::new(11);
    let _routers = Deployment::sharded(1).network(&network).start().await;
    let dns = Dns::of_service("custom", &[27017], None);
    let own = builder::<B>(&network, &dns, "&srvServiceName=custom").build();
    ping(&own.expect("pools")).await.expect("a router");
    let other = builder::<B>(&network, &dns, "").build().expect("pools");
    let error = ping(&other).await.expect_err("no records");
    assert!(error.to_string().contains("no SRV records"), "{error}");
}

/// Only a server's own reply ends its connections in use.
async fn records_are_polled_and_an_unlisted_router_keeps_connections_in_use<
    B: Backend<Config: Default>,
>() {
    let network = SimNetwork::new(12);
    let _routers = Deployment::sharded(2).network(&network).start().await;
    let dns = Dns::new(&[27017], None);
    let pools = builder::<B>(&network, &dns, "").build().expect("pools");
    let mut held = pools.get().await.expect("a connection");
    assert_eq!(held.server().port(), Some(27017));
    dns.set_ports(&[27018]);
    sleep(2 * RESCAN).await;
    let insert = doc! {"insert": "c", "documents": [{"x": 1}]};
    held.run_command("db", &insert).await.expect("a write");
    assert_eq!(ping(&pools).await.expect("a router").port(), Some(27018));
    held.run_command("db", &insert).await.expect("a write");
    drop(held);
    // If it is listed again, it is used again.
    dns.set_ports(&[27017]);
    sleep(2 * RESCAN).await;
    let mut again = pools.get().await.expect("a connection");
    assert_eq!(again.server().port(), Some(27017));
    again.run_command("db", &insert).await.expect("a write");
    assert!(dns.asked.load(Ordering::SeqCst) >= 4);
    drop(again);
    pools.close().await;
}

/// The factory of a manager that follows a topology.
fn floating(network: &SimNetwork, dns: &Arc<Dns>, options: &ClientOptions) -> ConnectionFactory {
    let topology = Topology::builder(options.clone())
        .resolver(dns.clone())
        .connector(Arc::new(ByPort(network.clone())))
        .build()
        .expect("a topology");
    ConnectionFactory::builder(options.clone())
        .connector(Arc::new(ByPort(network.clone())))
        .floating(topology, Criterion::write())
        .build()
        .expect("a factory")
}

#[tokio::test(start_paused = true)]
async fn txt_records_reach_floating_managers() {
    let network = SimNetwork::new(13);
    let user = User::new("app", "secret").iterations(4096);
    let _routers = Deployment::sharded(1)
        .user(user.database("people"))
        .network(&network)
        .start()
        .await;
    let dns = Dns::new(&[27017], Some("authSource=people"));
    let factory = floating(&network, &dns, &options("app:secret@", ""));
    let made = factory.establish(Deadline::after(LIMIT)).await;
    let made = made.expect("a connection");
    assert!(made.description().authenticated.is_some());

    let network = SimNetwork::new(14);
    let _balanced = Deployment::load_balanced(2).network(&network).start().await;
    let dns = Dns::new(&[27017], Some("loadBalanced=true"));
    let factory = floating(&network, &dns, &options("", ""));
    let made = factory.establish(Deadline::after(LIMIT)).await;
    let made = made.expect("a connection");
    assert!(made.description().service_id.is_some());
}

/// A floating manager's connection to a router that the records no longer list.
#[tokio::test(start_paused = true)]
async fn an_unlisted_router_keeps_connections_in_use_of_a_floating_manager() {
    let network = SimNetwork::new(15);
    let _routers = Deployment::sharded(2).network(&network).start().await;
    let dns = Dns::new(&[27017], None);
    let factory = floating(&network, &dns, &options("", ""));
    let made = factory.establish(Deadline::after(LIMIT)).await;
    let mut held = made.expect("a connection");
    dns.set_ports(&[27018]);
    sleep(2 * RESCAN).await;
    let insert = doc! {"insert": "c", "documents": [{"x": 1}]};
    held.run_command("db", &insert).await.expect("a write");
    let verdict = factory.recycle_now(&mut held);
    assert!(
        matches!(verdict, Some(Err(_))),
        "it is not handed out again"
    );
}

/// The options' own credential, with the database of the connection string.
#[tokio::test(start_paused = true)]
async fn the_database_of_the_connection_string_is_the_default_source() {
    let network = SimNetwork::new(16);
    let user = User::new("app", "secret").iterations(4096);
    let _routers = Deployment::sharded(1)
        .user(user.database("shop"))
        .network(&network)
        .start()
        .await;
    let uri = format!("mongodb+srv://app:secret@{HOST}/shop?tls=false");
    let options = ClientOptions::parse(&uri).expect("a connection string");
    assert_eq!(
        options.credential.as_ref().and_then(Credential::source),
        None
    );
    let dns = Dns::new(&[27017], None);
    let pools = Pools::<mongo_deadpool::Pool>::builder(options)
        .resolver(dns)
        .connector(Arc::new(ByPort(network.clone())))
        .build()
        .expect("pools");
    ping(&pools).await.expect("a reply");
    pools.close().await;
}
