use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bson::oid::ObjectId;

use super::*;
use crate::sdam::{Input, ServerDescription, TopologyDescription, TopologySettings, apply};

const HOST: &str = "localhost.test.build.10gen.cc";
const TEST1: &str = "_mongodb._tcp.test1.test.build.10gen.cc";
const TEST3: &str = "_mongodb._tcp.test3.test.build.10gen.cc";
const TEST22: &str = "_customname._tcp.test22.test.build.10gen.cc";
const DAY: Duration = Duration::from_secs(86400);
const HEARTBEAT: Duration = Duration::from_secs(10);

fn record(target: &str, port: u16) -> SrvRecord {
    SrvRecord {
        target: format!("{target}."),
        port,
        priority: 0,
        weight: 0,
        ttl: DAY,
    }
}

fn ports(ports: &[u16]) -> Vec<SrvRecord> {
    ports.iter().map(|port| record(HOST, *port)).collect()
}

/// The content of DNS: records by their name, or the error of the lookup.
type Dns = HashMap<&'static str, Result<Vec<SrvRecord>, &'static str>>;

fn dns() -> Dns {
    HashMap::from([
        (TEST1, Ok(ports(&[27017, 27018]))),
        (TEST3, Ok(ports(&[27017]))),
        (TEST22, Ok(ports(&[27017]))),
    ])
}

/// A client with a manual clock, and its DNS.
struct Client {
    dns: Dns,
    now: Instant,
    settings: TopologySettings,
    topology: Arc<TopologyDescription>,
    polling: Option<SrvPolling>,
    lookups: usize,
    random: u64,
}

impl Client {
    /// Looks up the seeds, which are routers.
    fn new(uri: &str) -> Self {
        let (dns, now) = (dns(), Instant::now());
        let options = ClientOptions::parse(uri).expect("options");
        let name = options.srv.as_ref().expect("srv").record_name();
        let records = dns[&*name.expect("a name")].clone().expect("records");
        let options = options
            .with_records(&records, &[], &mut || 0)
            .expect("hosts");
        let settings = TopologySettings::from_options(ObjectId::new(), &options);
        let topology_type = match settings.load_balanced {
            true => TopologyType::LoadBalanced,
            false => TopologyType::Sharded,
        };
        Self {
            dns,
            now,
            topology: topology(topology_type, options.hosts.iter().cloned()),
            settings,
            polling: SrvPolling::new(&options, now),
            lookups: 0,
            random: 0,
        }
    }

    /// Advances the clock, and runs all lookups that are due.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(polling) = &mut self.polling {
            let due = polling.poll_at(self.topology.topology_type());
            let Some(due) = due.filter(|due| *due <= until) else {
                break;
            };
            self.now = due;
            self.lookups += 1;
            match &self.dns[polling.record_name()] {
                Ok(records) => {
                    let random = &mut || {
                        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                        self.random
                    };
                    let hosts = polling.handle_records(records, random, due);
                    let input = Input::SrvHosts(hosts);
                    self.topology = apply(&self.settings, &self.topology, input).description;
                }
                Err(reason) => polling.handle_failure(reason, due),
            }
        }
        self.now = until;
    }

    /// Changes the content of DNS, and waits for two lookups.
    fn change(&mut self, name: &'static str, answer: Result<Vec<SrvRecord>, &'static str>) {
        self.dns.insert(name, answer);
        self.pass(2 * DAY);
    }

    fn ports(&self) -> BTreeSet<u16> {
        let servers = self.topology.servers().iter();
        servers
            .map(|server| {
                assert_eq!(server.address.host(), Some(HOST));
                server.address.port().expect("a port")
            })
            .collect()
    }
}

fn topology(
    topology_type: TopologyType,
    hosts: impl IntoIterator<Item = ServerAddress>,
) -> Arc<TopologyDescription> {
    let servers = hosts.into_iter().map(ServerDescription::unknown);
    Arc::new(TopologyDescription::new(topology_type, None, servers))
}

const URI: &str = "mongodb+srv://test1.test.build.10gen.cc";

#[track_caller]
fn changes(uri: &str, after: &[u16]) {
    let mut client = Client::new(uri);
    client.change(TEST1, Ok(ports(after)));
    assert_eq!(client.ports(), after.iter().copied().collect());
}

#[test]
fn prose_1_addition_of_a_new_dns_record() {
    changes(URI, &[27017, 27018, 27019]);
}

#[test]
fn prose_2_removal_of_an_existing_dns_record() {
    changes(URI, &[27017]);
}

#[test]
fn prose_3_replacement_of_a_dns_record() {
    changes(URI, &[27017, 27019]);
}

#[test]
fn prose_4_replacement_of_both_existing_dns_records_with_one_new_record() {
    changes(URI, &[27019]);
}

#[test]
fn prose_5_replacement_of_both_existing_dns_records_with_two_new_records() {
    changes(URI, &[27019, 27020]);
}

/// Nothing changes, and lookups follow at `heartbeatFrequencyMS` until one succeeds.
#[track_caller]
fn changes_nothing(answer: Result<Vec<SrvRecord>, &'static str>) {
    let mut client = Client::new(URI);
    client.dns.insert(TEST1, answer);
    client.pass(DAY - Duration::from_secs(1));
    assert_eq!(client.lookups, 0);
    client.pass(Duration::from_secs(1) + 5 * HEARTBEAT);
    assert_eq!(client.lookups, 6);
    assert_eq!(client.ports(), BTreeSet::from([27017, 27018]));
    client.dns.insert(TEST1, Ok(ports(&[27019])));
    client.pass(HEARTBEAT);
    assert_eq!((client.lookups, client.ports()), (7, [27019].into()));
    client.pass(DAY - Duration::from_secs(1));
    assert_eq!(client.lookups, 7);
}

#[test]
fn prose_6_dns_record_lookup_timeout() {
    changes_nothing(Err("timed out"));
}

#[test]
fn prose_7_dns_record_lookup_failure() {
    changes_nothing(Err("no such domain"));
}

#[test]
fn prose_8_removal_of_all_dns_srv_records() {
    changes_nothing(Ok(Vec::new()));
}

#[test]
fn prose_9_srv_polling_is_not_done_for_load_balanced_clusters() {
    let mut client = Client::new("mongodb+srv://test3.test.build.10gen.cc/?loadBalanced=true");
    assert!(client.polling.is_none());
    client.change(TEST3, Ok(ports(&[27017, 27018])));
    assert_eq!((client.lookups, client.ports()), (0, [27017].into()));
    // Nor if only the topology is of that type.
    let polling = SrvPolling::new(&ClientOptions::parse(URI).expect("options"), client.now);
    assert_eq!(
        polling
            .expect("polling")
            .poll_at(TopologyType::LoadBalanced),
        None
    );
}

#[test]
fn prose_10_all_dns_records_are_selected_with_srv_max_hosts_0() {
    changes(&format!("{URI}/?srvMaxHosts=0"), &[27017, 27019, 27020]);
}

#[test]
fn prose_11_all_dns_records_are_selected_with_srv_max_hosts_equal_to_records() {
    changes(&format!("{URI}/?srvMaxHosts=2"), &[27019, 27020]);
}

#[test]
fn prose_12_new_dns_records_are_randomly_selected_with_srv_max_hosts() {
    let mut seen = BTreeSet::new();
    for seed in 0..16 {
        let mut client = Client::new(&format!("{URI}/?srvMaxHosts=2"));
        client.random = seed;
        client.change(TEST1, Ok(ports(&[27017, 27019, 27020])));
        let found = client.ports();
        assert_eq!(found.len(), 2);
        assert!(found.contains(&27017));
        seen.extend(found);
    }
    assert_eq!(seen, BTreeSet::from([27017, 27019, 27020]));
}

#[test]
fn prose_13_dns_record_with_custom_service_name_can_be_found() {
    let uri = "mongodb+srv://test22.test.build.10gen.cc/?srvServiceName=customname";
    let mut client = Client::new(uri);
    client.change(TEST22, Ok(ports(&[27019, 27020])));
    assert_eq!(client.ports(), BTreeSet::from([27019, 27020]));
}

#[test]
fn hosts_that_stay_are_left_alone() {
    let mut client = Client::new(URI);
    let address = ServerAddress::tcp(HOST, 27017);
    let before = client.topology.server(&address).expect("there").clone();
    client.change(TEST1, Ok(ports(&[27019, 27017, 27019])));
    assert_eq!(client.ports(), BTreeSet::from([27017, 27019]));
    let after = client.topology.server(&address).expect("still there");
    assert!(Arc::ptr_eq(&before, after));
}

#[test]
fn bad_hosts_are_ignored_and_only_bad_hosts_change_no_server() {
    let evil = record("localhost.test.evil.cc", 27017);
    let mut client = Client::new(URI);
    client.change(TEST1, Ok(vec![evil.clone(), record(HOST, 27019)]));
    assert_eq!(client.ports(), BTreeSet::from([27019]));
    changes_nothing(Ok(vec![evil]));
}

#[test]
fn too_many_records_change_nothing() {
    changes_nothing(Ok(vec![record(HOST, 1); crate::uri::MAX_SRV_RECORDS + 1]));
}

#[test]
fn the_interval_is_the_lowest_ttl_but_at_least_a_minute() {
    for (ttls, wanted) in [([5, 300], 60), ([300, 90], 90), ([u32::MAX, 61], 61)] {
        let mut client = Client::new(URI);
        let mut records = ports(&[27017, 27018]);
        for (record, ttl) in records.iter_mut().zip(ttls) {
            record.ttl = Duration::from_secs(ttl.into());
        }
        client.dns.insert(TEST1, Ok(records));
        client.pass(DAY);
        assert_eq!(client.lookups, 1);
        client.pass(Duration::from_secs(wanted - 1));
        assert_eq!(client.lookups, 1);
        client.pass(Duration::from_secs(1));
        assert_eq!(client.lookups, 2);
    }
    // A TTL that `Instant` can't represent never ends, and causes no panic.
    let mut options = ClientOptions::parse(URI).expect("options");
    options.srv.as_mut().expect("srv").lowest_ttl = Some(Duration::MAX);
    let polling = SrvPolling::new(&options, Instant::now()).expect("polling");
    assert_eq!(polling.poll_at(TopologyType::Sharded), None);
}

#[test]
fn only_unknown_and_sharded_topologies_are_polled_for() {
    let client = Client::new(URI);
    let mut polling = client.polling.expect("polling");
    for topology_type in TopologyType::ALL {
        let polled = matches!(topology_type, TopologyType::Unknown | TopologyType::Sharded);
        assert_eq!(polling.poll_at(topology_type).is_some(), polled);
        // An answer that comes after the topology's type has become known.
        let hosts = polling.handle_records(&ports(&[1]), &mut || 0, client.now);
        let before = topology(topology_type, [ServerAddress::tcp(HOST, 27017)]);
        let after = apply(&client.settings, &before, Input::SrvHosts(hosts)).description;
        assert_eq!(after != before, polled, "{topology_type}");
    }
}

#[test]
fn options_without_srv_are_not_polled() {
    let options = ClientOptions::parse("mongodb://a").expect("options");
    assert!(SrvPolling::new(&options, Instant::now()).is_none());
}
