//! The cost of one hello reply for a topology, by the number of members that it lists.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench apply
//! ```
//! A figure is the median of the rounds, and includes reading the reply. The cost should grow at
//! most linearly: the run fails if a member of the largest set costs over twice as much as one of
//! the smallest.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use bson::oid::ObjectId;
use bson::{DateTime, RawDocumentBuf, doc};
use mongo_core::ServerAddress;
use mongo_core::sdam::{Input, ServerDescription, TopologyDescription, TopologySettings, apply};

const MEMBERS: [u16; 4] = [10, 50, 100, 500];
const ROUNDS: usize = 41;
/// Hellos in a round, times members.
const WORK: u32 = 10_000;
/// The most that a member of the largest set may cost, relative to one of the smallest.
const LIMIT: f64 = 2.0;

/// A hello reply that is applied to a known topology.
struct Case {
    name: &'static str,
    known: Arc<TopologyDescription>,
    server: u16,
    reply: RawDocumentBuf,
}

fn main() -> ExitCode {
    println!(
        "{:<48} {:>7} {:>12} {:>14} {:>9}",
        "one hello reply", "members", "ns", "ns per member", "ratio"
    );
    let mut smallest = Vec::new();
    let mut is_linear = true;
    for members in MEMBERS {
        for (number, case) in cases(members).into_iter().enumerate() {
            let nanoseconds = measure(members, &case);
            let each = nanoseconds / f64::from(members);
            if smallest.len() == number {
                smallest.push(each);
            }
            let ratio = each / smallest[number];
            is_linear &= members != MEMBERS[MEMBERS.len() - 1] || ratio <= LIMIT;
            println!(
                "{:<48} {members:>7} {nanoseconds:>12.0} {each:>14.1} {ratio:>9.2}",
                case.name
            );
        }
    }
    match is_linear {
        true => ExitCode::SUCCESS,
        false => {
            println!("FAILED: it grows faster than the set does");
            ExitCode::FAILURE
        }
    }
}

fn cases(members: u16) -> Vec<Case> {
    let settings = settings();
    let seed = apply(&settings, &Arc::default(), Input::Connect).description;
    let known = (1..=members).fold(seed.clone(), |known, server| {
        let reply = hello(members, server, 1);
        apply(&settings, &known, check(server, &reply)).description
    });
    assert_eq!(known.servers().len(), usize::from(members));
    let case = |name, known: &Arc<TopologyDescription>, server, primary| Case {
        name,
        known: known.clone(),
        server,
        reply: hello(members, server, primary),
    };
    vec![
        case("a secondary's, nothing new", &known, 2, 1),
        case("the primary's, nothing new", &known, 1, 1),
        case("a new primary's, the old one becomes unknown", &known, 2, 2),
        case("the first, all other members are new", &seed, 1, 1),
    ]
}

/// The median in nanoseconds.
fn measure(members: u16, case: &Case) -> f64 {
    let settings = settings();
    let hellos = (WORK / u32::from(members)).max(1);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..hellos {
                let input = check(case.server, black_box(&case.reply));
                black_box(apply(&settings, &case.known, input));
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(hellos)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn check(server: u16, reply: &RawDocumentBuf) -> Input {
    let description = ServerDescription::from_hello(address(server), reply, Instant::now());
    Input::Check(Arc::new(description))
}

fn settings() -> TopologySettings {
    let mut settings = TopologySettings::new(ObjectId::from_bytes([1; 12]), [address(1)]);
    settings.replica_set = Some("rs".into());
    settings
}

/// A member's hello in the term that `primary` was elected in.
fn hello(members: u16, server: u16, primary: u16) -> RawDocumentBuf {
    let hosts: Vec<String> = (1..=members)
        .map(|host| address(host).to_string())
        .collect();
    let mut reply = doc! {
        "topologyVersion": { "processId": ObjectId::from_bytes([2; 12]), "counter": 7_i64 },
        "hosts": hosts,
        "setName": "rs",
        "setVersion": 1,
        "isWritablePrimary": server == primary,
        "secondary": server != primary,
        "primary": address(primary).to_string(),
        "tags": { "dc": "ny", "rack": server.to_string() },
        "me": address(server).to_string(),
        "lastWrite": { "lastWriteDate": DateTime::from_millis(1_700_000_000_000) },
        "maxBsonObjectSize": 16 * 1024 * 1024,
        "maxMessageSizeBytes": 48_000_000,
        "maxWriteBatchSize": 100_000,
        "localTime": DateTime::from_millis(1_700_000_000_000),
        "logicalSessionTimeoutMinutes": 30,
        "connectionId": 5,
        "minWireVersion": 0,
        "maxWireVersion": 25,
        "readOnly": false,
        "helloOk": true,
        "ok": 1.0,
    };
    if server == primary {
        let mut term = [0; 12];
        term[10..].copy_from_slice(&primary.to_be_bytes());
        reply.insert("electionId", ObjectId::from_bytes(term));
    }
    RawDocumentBuf::try_from(&reply).expect("a document")
}

fn address(number: u16) -> ServerAddress {
    ServerAddress::tcp(&format!("server-{number}.example.org"), 27017)
}
