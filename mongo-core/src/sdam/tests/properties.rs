//! Properties that hold for any replies of the servers, in any order.

use std::collections::{BTreeMap, BTreeSet};

use bson::raw::cstr;
use bson::{RawArrayBuf, rawdoc};

use super::*;

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 0
    }

    fn host(&mut self) -> String {
        format!("h{}:27017", self.below(6))
    }

    fn small(&mut self) -> u8 {
        self.below(4) as u8
    }
}

/// The sum of the events and effects so far.
#[derive(Default)]
struct Sum {
    monitored: BTreeSet<ServerAddress>,
    pools: BTreeSet<ServerAddress>,
    servers: BTreeMap<ServerAddress, Arc<ServerDescription>>,
    topology: Arc<TopologyDescription>,
    is_open: bool,
}

impl Sum {
    fn event(&mut self, event: &SdamEvent) {
        match event {
            SdamEvent::TopologyOpening(_) => {
                assert!(!self.is_open);
                self.is_open = true;
            }
            SdamEvent::TopologyClosed(_) => {
                assert!(self.is_open);
                self.is_open = false;
            }
            SdamEvent::TopologyDescriptionChanged(event) => {
                assert_eq!(*self.topology, *event.previous_description);
                assert_ne!(*self.topology, *event.new_description);
                self.topology = event.new_description.clone();
            }
            SdamEvent::ServerOpening(event) => {
                let unknown = Arc::new(ServerDescription::unknown(event.address.clone()));
                assert_eq!(self.servers.insert(event.address.clone(), unknown), None);
            }
            SdamEvent::ServerDescriptionChanged(event) => {
                let new = event.new_description.clone();
                let old = self.servers.insert(event.address.clone(), new.clone());
                assert_eq!(old.as_ref(), Some(&event.previous_description));
                assert_ne!(old, Some(new));
            }
            SdamEvent::ServerClosed(event) => {
                assert!(self.servers.remove(&event.address).is_some());
            }
            other => panic!("{other:?}"),
        }
    }

    fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::StartMonitor { server } => {
                assert!(self.monitored.insert(server.clone()), "monitored twice");
            }
            Effect::StopMonitor { server } => {
                assert!(self.monitored.remove(server), "was not monitored");
            }
            Effect::ReadyPool { server } => {
                self.pools.insert(server.clone());
            }
            Effect::ClosePool { server } => {
                self.pools.remove(server);
            }
            Effect::RequestCheck { server, .. } => assert!(self.monitored.contains(server)),
            // These may concern a server that its own error removed.
            Effect::CancelCheck { .. } | Effect::ClearPool { .. } => {}
        }
    }

    fn check(&self, topology: &TopologyDescription) {
        assert_eq!(*self.topology, *topology);
        let servers: Vec<_> = self.servers.values().cloned().collect();
        assert_eq!(servers, topology.servers(), "sorted, and as the events say");
        let addresses: BTreeSet<_> = self.servers.keys().cloned().collect();
        assert_eq!(self.monitored, addresses);
        assert!(self.pools.is_subset(&addresses));
        let types = || topology.servers().iter().map(|own| own.server_type);
        let primaries = types().filter(|own| *own == ServerType::RsPrimary).count();
        match topology.topology_type() {
            TopologyType::ReplicaSetWithPrimary => assert_eq!(primaries, 1),
            TopologyType::Single => assert_eq!(topology.servers().len(), 1),
            TopologyType::Unknown
            | TopologyType::ReplicaSetNoPrimary
            | TopologyType::Sharded
            | TopologyType::LoadBalanced => assert_eq!(primaries, 0),
        }
        // An earlier ghost stays until it is checked again.
        let routers = types().all(|own| {
            matches!(
                own,
                ServerType::Mongos | ServerType::Unknown | ServerType::RsGhost
            )
        });
        assert!(topology.topology_type() != TopologyType::Sharded || routers);
    }
}

/// Any reply of a server; mostly of a member of the replica set.
fn reply(random: &mut Random, wire_version: i32) -> RawDocumentBuf {
    let mut reply = rawdoc! { "ok": 1, "maxWireVersion": wire_version };
    match random.below(12) {
        0 => return rawdoc! { "ok": 0 },
        1 => return rawdoc! { "ok": 1, "isreplicaset": true, "maxWireVersion": wire_version },
        2 => reply.append(cstr!("msg"), "isdbgrid"),
        3 => {}
        role => {
            let name = ["rs", "rs", "rs", "other"][random.small() as usize];
            reply.append(cstr!("setName"), name);
            match role {
                4..=8 => reply.append(cstr!("isWritablePrimary"), true),
                9 => reply.append(cstr!("arbiterOnly"), true),
                _ => reply.append(cstr!("secondary"), true),
            }
            let mut hosts = RawArrayBuf::new();
            for host in 0..6 {
                if random.below(5) != 0 {
                    hosts.push(format!("h{host}"));
                }
            }
            reply.append(cstr!("hosts"), hosts);
            if random.below(4) != 0 {
                reply.append(cstr!("electionId"), id(random.small()));
            }
            if random.below(4) != 0 {
                reply.append(cstr!("setVersion"), i32::from(random.small()));
            }
            if random.flip() {
                reply.append(cstr!("primary"), random.host());
            }
            if random.below(8) == 0 {
                reply.append(cstr!("me"), random.host());
            }
        }
    }
    if random.flip() {
        let version = rawdoc! { "processId": id(random.small()), "counter": 1_i64 };
        reply.append(cstr!("topologyVersion"), version);
    }
    reply
}

fn input(random: &mut Random, wire_version: i32) -> Input {
    let server = address(&random.host());
    match random.below(20) {
        0 => {
            let failed = ServerDescription::failed(server, network_error(), Instant::now());
            Input::Check(Arc::new(failed))
        }
        1 | 2 => {
            let phase = match random.flip() {
                true => ErrorPhase::Completed,
                false => ErrorPhase::Authentication,
            };
            let error = ApplicationError::new(server, network_error(), phase);
            Input::ApplicationError(error.with_generations(random.below(2), 1))
        }
        3 => Input::SrvHosts((0..3).map(|_| address(&random.host())).collect()),
        _ => {
            let reply = reply(random, wire_version);
            let now = Instant::now();
            Input::Check(Arc::new(ServerDescription::from_hello(server, &reply, now)))
        }
    }
}

#[test]
fn hold_for_any_stream_of_inputs() {
    let mut random = Random(1);
    let mut seen = BTreeMap::<&str, u32>::new();
    for round in 0..600_u32 {
        let wire_version = if round % 2 == 0 { 25 } else { 16 };
        let list: &[&str] = if round % 3 == 0 {
            &["h0"]
        } else {
            &["h0", "h1", "h2", "h3"]
        };
        let mut settings = seeds(list);
        match round % 5 {
            0 | 1 => settings.replica_set = Some("rs".into()),
            2 if list.len() == 1 => settings.direct_connection = true,
            _ => {}
        }
        let mut sum = Sum::default();
        let mut topology = Arc::<TopologyDescription>::default();
        let mut take = |topology: &mut Arc<TopologyDescription>, input| {
            let before = topology.max_election();
            let transition = apply(&settings, topology, input);
            *topology = transition.description;
            transition.events.iter().for_each(|event| sum.event(event));
            transition.effects.iter().for_each(|own| sum.effect(own));
            sum.check(topology);
            before
        };
        take(&mut topology, Input::Connect);
        for _ in 0..60 {
            let before = take(&mut topology, input(&mut random, wire_version));
            let now = topology.max_election();
            match wire_version {
                25 => assert!(now >= before, "{before} to {now}"),
                _ => {
                    let by_version = |own: ElectionTuple| (own.set_version, own.election_id);
                    assert!(by_version(now) >= by_version(before), "{before} to {now}");
                }
            }
            *seen.entry(topology.topology_type().as_str()).or_default() += 1;
        }
        take(&mut topology, Input::Close);
        assert!(sum.monitored.is_empty() && sum.pools.is_empty() && !sum.is_open);
    }
    // The random inputs must reach all topology types.
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert!(seen.values().all(|count| *count > 300), "{seen:?}");
}
