//! The cost of one server selection with 3, 50 and 1,000 servers.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench selection
//! ```
//! All members of the replica set are within the latency window. A figure is the median of the
//! rounds. Times are only reported, because they contain the machine's noise. The run fails if
//! there are allocations where none are allowed.

use std::alloc::System;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongo_core::ServerAddress;
use mongo_core::sdam::{ServerDescription, ServerType, TopologyDescription, TopologyType};
use mongo_core::select::{
    Criterion, ReadPreference, ReadPreferenceMode, SelectionIndex, SelectionOptions, TagSet,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SERVERS: [u16; 3] = [3, 50, 1000];
const ROUNDS: usize = 41;

/// The goal of a selection by a criterion.
struct Subject {
    name: &'static str,
    criterion: Criterion,
    deprioritized: Vec<ServerAddress>,
    selections: u32,
    /// The most nanoseconds; `None` without a goal.
    goal: Option<f64>,
}

fn main() -> ExitCode {
    let mut allocated = false;
    println!(
        "{:<44} {:>7} {:>12} {:>12}  goal",
        "selection", "servers", "ns", "allocations"
    );
    for subject in subjects() {
        for servers in SERVERS {
            let index = SelectionIndex::new(topology(servers), SelectionOptions::default());
            let (nanoseconds, allocations) = measure(&index, &subject);
            allocated |= allocations > 0;
            let verdict = match subject.goal {
                None => String::new(),
                Some(goal) if nanoseconds <= goal => format!("<= {goal} ns met"),
                Some(goal) => format!("<= {goal} ns MISSED"),
            };
            println!(
                "{:<44} {servers:>7} {nanoseconds:>12.1} {allocations:>12}  {verdict}",
                subject.name
            );
        }
    }
    for servers in SERVERS {
        println!(
            "{:<44} {servers:>7} {:>12.0}",
            "the index of a changed topology",
            prepare(servers)
        );
    }
    match allocated {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn subjects() -> Vec<Subject> {
    let subject = |name, criterion, goal| Subject {
        name,
        criterion,
        deprioritized: Vec::new(),
        selections: 100_000,
        goal,
    };
    let goal = Some(100.0);
    let nearest = || read(ReadPreferenceMode::Nearest, Vec::new());
    let tags = ["la", "ny"].map(|dc| TagSet::from([("dc".to_owned(), dc.to_owned())]));
    vec![
        subject("write", Criterion::write(), goal),
        subject(
            "primary",
            read(ReadPreferenceMode::Primary, Vec::new()),
            goal,
        ),
        subject("nearest", nearest(), goal),
        subject(
            "secondaryPreferred",
            read(ReadPreferenceMode::SecondaryPreferred, Vec::new()),
            goal,
        ),
        subject(
            "nearest, the second of two tag sets matches",
            read(ReadPreferenceMode::Nearest, tags.to_vec()),
            None,
        ),
        Subject {
            deprioritized: vec![address(2)],
            selections: 100,
            ..subject("nearest, one server deprioritized", nearest(), None)
        },
    ]
}

fn read(mode: ReadPreferenceMode, tags: Vec<TagSet>) -> Criterion {
    let preference = ReadPreference::new(mode).with_tag_sets(tags);
    Criterion::read(preference).expect("a valid read preference")
}

/// The median in nanoseconds, and all allocations once warm.
fn measure(index: &SelectionIndex, subject: &Subject) -> (f64, usize) {
    let mut random = 0_u64;
    let mut select = || {
        random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let found = index.select(&subject.criterion, &subject.deprioritized, random);
        assert!(matches!(black_box(found), Ok(Some(_))));
    };
    select();
    let mut rounds = Vec::with_capacity(ROUNDS);
    let region = Region::new(ALLOCATOR);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..subject.selections {
            select();
        }
        rounds.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(subject.selections));
    }
    let change = region.change();
    (median(rounds), change.allocations + change.reallocations)
}

/// The time of the work at each topology change, in nanoseconds.
fn prepare(servers: u16) -> f64 {
    let topology = topology(servers);
    let index = SelectionIndex::new(topology.clone(), SelectionOptions::default());
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        black_box(index.next(topology.clone()));
        start.elapsed().as_secs_f64() * 1e9
    });
    median(rounds.collect())
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn topology(servers: u16) -> Arc<TopologyDescription> {
    let servers = (1..=servers).map(|number| {
        let mut server = ServerDescription::unknown(address(number));
        server.server_type = match number {
            1 => ServerType::RsPrimary,
            _ => ServerType::RsSecondary,
        };
        server.round_trip_time = Some(Duration::from_micros(500 + u64::from(number)));
        server.max_wire_version = 21;
        let dc = if number % 2 == 0 { "ny" } else { "sf" };
        server.tags = TagSet::from([("dc".to_owned(), dc.to_owned())]);
        server
    });
    let with_primary = TopologyType::ReplicaSetWithPrimary;
    Arc::new(TopologyDescription::new(
        with_primary,
        Some("rs".into()),
        servers,
    ))
}

fn address(number: u16) -> ServerAddress {
    ServerAddress::tcp(&format!("server-{number}.example.org"), 27017)
}
