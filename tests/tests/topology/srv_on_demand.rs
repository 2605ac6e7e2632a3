//! `mongodb+srv` without background tasks: the records are looked up before a scan.

use std::sync::Arc;
use std::time::Duration;

use mongo_core::ClientOptions;
use mongo_core::bson::doc;
use mongo_core::error::{ErrorKind, Wait};
use mongo_core::net::{OnDemandTopology, OnDemandTopologyBuilder};
use mongo_core::sdam::TopologyDescription;
use mongo_core::select::Criterion;
use mongo_testkit::{Deployment, SimNetwork, User};
use tokio::time::{Instant, sleep};

use crate::srv::{ByPort, Dns, RECORD, RESCAN, TEST1, Zone};
use crate::support::LIMIT;

fn over(uri: &str, dns: &Arc<Dns>, network: &SimNetwork) -> OnDemandTopologyBuilder {
    OnDemandTopology::builder(ClientOptions::parse(uri).expect("a connection string"))
        .resolver(dns.clone())
        .connector(Arc::new(ByPort(network.clone())))
}

fn ports(known: &TopologyDescription) -> Vec<u16> {
    let ports = known.servers().iter().map(|own| own.address.port());
    ports.map(Option::unwrap_or_default).collect()
}

#[tokio::test(start_paused = true)]
async fn records_are_looked_up_again_before_a_scan() {
    let network = SimNetwork::new(1);
    let _routers = Deployment::sharded(4).network(&network).start().await;
    let dns = Dns::new(&[27017, 27018]);
    let mut topology = over(TEST1, &dns, &network).build().expect("a topology");
    let write = Criterion::write();
    assert_eq!(dns.asked(), 0, "no I/O before the first selection");
    topology.select(&write).await.expect("a router");
    assert_eq!(ports(topology.description()), [27017, 27018]);
    // Without a scan, and with one before the interval is over.
    dns.ports(&[27018, 27019]);
    topology.select(&write).await.expect("a router");
    assert_eq!(dns.asked(), 1);
    sleep(RESCAN + Duration::from_secs(1)).await;
    topology.select(&write).await.expect("a router");
    assert_eq!(ports(topology.description()), [27018, 27019]);
    assert_eq!(dns.asked(), 2);
    // A failure changes nothing, and is repeated after the heartbeat frequency.
    dns.set(Zone::Fails);
    sleep(RESCAN + Duration::from_secs(1)).await;
    topology.select(&write).await.expect("a router");
    assert_eq!(ports(topology.description()), [27018, 27019]);
    dns.ports(&[27019]);
    sleep(RESCAN + Duration::from_secs(1)).await;
    topology.select(&write).await.expect("a router");
    assert_eq!(ports(topology.description()), [27019]);
}

#[tokio::test(start_paused = true)]
async fn records_of_a_replica_set_are_not_looked_up_again() {
    let network = SimNetwork::new(2);
    let set = Deployment::replica_set("rs").members(1).network(&network);
    let set = set.start().await;
    set.rename(0, "localhost.test.build.10gen.cc:27017");
    let dns = Dns::of(RECORD, &[27017], Some("replicaSet=rs"));
    let mut topology = over(TEST1, &dns, &network).build().expect("a topology");
    let write = Criterion::write();
    for _ in 0..3 {
        topology.select(&write).await.expect("a primary");
        sleep(2 * RESCAN).await;
    }
    assert_eq!(dns.asked(), 1);
    // Another set is refused.
    let dns = Dns::of(RECORD, &[27017], Some("replicaSet=other"));
    let mut topology = over(TEST1, &dns, &network).build().expect("a topology");
    topology.select(&write).await.expect_err("no such set");
}

#[tokio::test(start_paused = true)]
async fn a_failed_or_hung_lookup_is_the_error_and_is_repeated() {
    let network = SimNetwork::new(3);
    let _routers = Deployment::sharded(1).network(&network).start().await;
    let dns = Dns::new(&[27017]);
    let mut topology = over(TEST1, &dns, &network).build().expect("a topology");
    let write = Criterion::write();
    dns.set(Zone::Fails);
    let error = topology.select(&write).await.expect_err("no host");
    assert!(matches!(error.kind(), ErrorKind::Srv(_)), "{error}");
    dns.set(Zone::Silent);
    let begun = Instant::now();
    let wait = Duration::from_secs(3);
    let error = topology.select_by(wait, &write, &[]).await;
    let error = error.expect_err("no host");
    assert_eq!(begun.elapsed(), wait);
    assert!(matches!(
        error.kind(),
        ErrorKind::Timeout {
            wait: Wait::Dns,
            ..
        }
    ));
    assert!(error.to_string().contains("SRV records"), "{error}");
    let begun = Instant::now();
    let error = topology.select(&write).await.expect_err("no host");
    assert!(error.is_timeout() && begun.elapsed() <= LIMIT, "{error}");
    dns.ports(&[27017]);
    topology.select(&write).await.expect("a router");
    topology.close();
}

#[tokio::test(start_paused = true)]
async fn a_single_client_uses_the_txt_source_and_refuses_a_load_balancer() {
    let network = SimNetwork::new(4);
    let user = User::new("app", "secret").iterations(4096);
    let _routers = Deployment::sharded(1)
        .user(user.database("people"))
        .network(&network)
        .start()
        .await;
    let uri = TEST1.replace("test1", "app:secret@test1");
    let dns = Dns::of(RECORD, &[27017], Some("authSource=people"));
    let mut client = over(&uri, &dns, &network).build_client().expect("a client");
    let ping = doc! {"ping": 1};
    client.run_command("admin", &ping).await.expect("a reply");
    let dns = Dns::of(RECORD, &[27017], Some("loadBalanced=true"));
    let mut client = over(&uri, &dns, &network).build_client().expect("a client");
    let error = client.run_command("admin", &ping).await.map(drop);
    let text = error.expect_err("not supported").to_string();
    assert!(text.contains("loadBalanced=true"), "{text}");
}
