//! One seed: a deployment, a client, a minute of faults, and the invariants.

mod chance;
mod clients;
mod faults;
mod log;
mod observer;
mod operations;
mod plan;
mod pools;
mod rules;
mod wire;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use mongo_core::ClientOptions;
use mongo_core::bson::doc;
use mongo_core::error::ErrorKind;
use mongo_core::net::Topology;
use mongo_core::sdam::{ApplicationError, ErrorPhase, TopologyVersion};
use mongo_core::select::Criterion;
use mongo_testkit::{Deployment, ExhaustReplies, MemberKind, MemberSpec, SimNetwork, User};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use chance::Chance;
use clients::{Client, not_primary};
use faults::{Faults, SLOWEST};
use log::Log;
use observer::Observer;
use plan::Plan;
use wire::{Ends, Wire, member_at};

pub(crate) use operations::{OPERATION_TROUBLE, run_operations};
pub(crate) use pools::{POOL_TROUBLE, run_pools};

/// The duration of faults, by the simulated clock.
pub(crate) const TROUBLE: Duration = Duration::from_secs(60);

/// The least time between two checks of a server (`minHeartbeatFrequencyMS`).
const MIN_HEARTBEAT: Duration = Duration::from_millis(500);

/// A few round trips of a healthy network, 0.2 to 4 ms each, with timers of millisecond
/// granularity.
const SOME_TRIPS: Duration = Duration::from_millis(30);

const CLIENTS: u64 = 4;

/// The outcome of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The hash of its trace.
    pub(crate) hash: u64,
    /// The entries of the trace.
    pub(crate) entries: u64,
    pub(crate) faults: u64,
    /// The number of selections or check-outs.
    pub(crate) selections: u64,
    pub(crate) connections: u64,
    pub(crate) simulated: Duration,
}

/// A violated invariant.
pub(crate) struct Failure {
    seed: u64,
    what: String,
    trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.trace.len().saturating_sub(120);
        for line in &self.trace[skipped..] {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

/// Runs a seed of a topology without pools. It replays exactly.
///
/// # Errors
/// The violated invariant, with the trace of a second run.
pub(crate) fn run(seed: u64) -> Result<Outcome, Failure> {
    simulate(seed, async |log| Run::start(seed, log).await.go().await)
}

fn simulate(seed: u64, run: impl AsyncFn(Log) -> Outcome) -> Result<Outcome, Failure> {
    let log = Log::new(false);
    let outcome = simulate_once(&log, &run);
    let Some(what) = log.take_violation() else {
        return Ok(outcome);
    };
    let log = Log::new(true);
    simulate_once(&log, &run);
    let trace = log.take_lines();
    Err(Failure { seed, what, trace })
}

fn simulate_once(log: &Log, run: &impl AsyncFn(Log) -> Outcome) -> Outcome {
    let mut outcome = runtime().block_on(async {
        let start = Instant::now();
        log.start();
        let mut outcome = run(log.clone()).await;
        outcome.simulated = start.elapsed();
        outcome
    });
    (outcome.hash, outcome.entries) = log.digest();
    outcome
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
}

struct Run {
    plan: Plan,
    log: Log,
    faults: Arc<Faults>,
    observer: Arc<Observer>,
    network: SimNetwork,
    topology: Topology,
    chance: Chance,
    is_over: Arc<AtomicBool>,
    selections: Arc<AtomicU64>,
    ends: Ends,
    /// The number of tasks of the servers alone.
    tasks: usize,
    clients: JoinHandle<()>,
}

impl Run {
    async fn start(seed: u64, log: Log) -> Self {
        let mut chance = Chance::new(seed, 1);
        let plan = Plan::new(&mut chance);
        let network = SimNetwork::new(seed);
        let set = Arc::new(deployment(&plan, &network, &[], &mut chance).await);
        let observer = Observer::new(log.clone(), plan.versions);
        let ends = Ends::default();
        let wire = Wire {
            network: network.clone(),
            ends: ends.clone(),
        };
        let options = ClientOptions::parse(&plan.uri(&set)).expect("a connection string");
        let sees = observer.clone();
        let topology = Topology::builder(options)
            .connector(Arc::new(wire))
            .random_seed(seed)
            .event_handler(move |event| sees.see(event))
            .build()
            .expect("a topology");
        let faults = Arc::new(Faults::new(
            set,
            network.clone(),
            log.clone(),
            plan.versions,
        ));
        // The servers' tasks have begun, and no client has connected.
        sleep(Duration::from_millis(1)).await;
        let tasks = Handle::current().metrics().num_alive_tasks();
        let (is_over, selections) = (Arc::default(), Arc::default());
        let client = Client {
            topology: topology.clone(),
            faults: faults.clone(),
            observer: observer.clone(),
            log: log.clone(),
            heartbeat_frequency: plan.heartbeat_frequency,
            is_over: Arc::clone(&is_over),
            selections: Arc::clone(&selections),
        };
        topology.connect().expect("connected");
        // In one task, which polls all clients in order: waiters for a change are woken in any
        // order.
        let clients = tokio::spawn(async move {
            let runs = (0..CLIENTS).map(|number| client.run(Chance::new(seed, 100 + number)));
            join_all(runs).await;
        });
        Self {
            plan,
            log,
            faults,
            observer,
            network,
            topology,
            chance,
            is_over,
            selections,
            ends,
            tasks,
            clients,
        }
    }

    async fn go(mut self) -> Outcome {
        let mut faults = 0;
        let end = Instant::now() + TROUBLE;
        while Instant::now() < end && !self.log.is_broken() {
            faults += u64::from(self.faults.inject(&mut self.chance).await);
            let pause = match self.chance.once_in(3) {
                true => self.chance.millis(0, 20),
                false => self.chance.millis(20, 2500),
            };
            sleep(pause).await;
        }
        if !self.log.is_broken() {
            let primary = self.faults.heal(&mut self.chance).await;
            self.expect_primary(primary, self.plan.recovery()).await;
        }
        if !self.log.is_broken() {
            sleep(self.plan.recovery()).await;
            self.elect_again().await;
        }
        if !self.log.is_broken() {
            self.hear_of_the_future().await;
        }
        let mut outcome = Outcome {
            faults,
            ..Outcome::default()
        };
        outcome.selections = self.selections.load(Ordering::Relaxed);
        outcome.connections = self.ends.opened();
        self.end().await;
        outcome
    }

    /// Checks that within the bound a write is sent to the right member.
    async fn expect_primary(&self, member: usize, bound: Duration) {
        let start = Instant::now();
        let arrives = async {
            let mut changes = self.topology.subscribe();
            loop {
                changes.borrow_and_update();
                let selected = self.topology.select(&Criterion::write()).await;
                let selected = selected.map(|selected| member_at(selected.address()));
                if selected.is_ok_and(|selected| selected == Some(member)) {
                    return;
                }
                // The sender lives in the topology.
                let _ = changes.changed().await;
            }
        };
        let arrived = timeout(bound, arrives).await;
        let took = start.elapsed();
        self.log.write(format_args!("m{member} after {took:?}"));
        self.log.require(
            arrived.is_ok(),
            format_args!(
                "m{member} is not known as primary after {took:?}: {:?}",
                self.topology.description()
            ),
        );
    }

    /// With a healthy set, an election is known at once if hellos stream, and a server with a
    /// broken connection is checked as soon as allowed.
    async fn elect_again(&mut self) {
        let Some(primary) = self.faults.elect(&mut self.chance) else {
            return;
        };
        self.expect_primary(primary, self.plan.news()).await;
        sleep(MIN_HEARTBEAT).await;
        let known = self.topology.description();
        let Some(server) = known.primary() else {
            let elected = format_args!("m{primary} was primary, now there is none: {known:?}");
            return self.log.violation(elected);
        };
        let broken = io::Error::from(io::ErrorKind::BrokenPipe);
        let error = ErrorKind::Network(Arc::new(broken)).into();
        self.topology.handle_error(ApplicationError::new(
            server.address.clone(),
            error,
            ErrorPhase::Completed,
        ));
        let unknown = self.topology.description().primary().is_none();
        self.log
            .require(unknown, format_args!("a broken primary is one still"));
        self.expect_primary(primary, MIN_HEARTBEAT + SOME_TRIPS)
            .await;
    }

    /// An error reports a step-down before any hello does. Older hellos don't make the server
    /// primary again.
    async fn hear_of_the_future(&mut self) {
        let known = self.topology.description();
        let (Some(primary), Some(member)) = (known.primary(), self.faults.set.primary()) else {
            return self.log.violation(format_args!("no primary: {known:?}"));
        };
        let version = self.faults.set.look_at_set(|set| TopologyVersion {
            process_id: set.process(member).id,
            counter: set.process(member).counter + 1,
        });
        self.topology.handle_error(ApplicationError::new(
            primary.address.clone(),
            not_primary(version),
            ErrorPhase::Completed,
        ));
        sleep(self.plan.heartbeat_frequency + MIN_HEARTBEAT + SOME_TRIPS).await;
        let primary = self.topology.description().primary().is_some();
        self.log
            .require(!primary, format_args!("a hello of the past counts"));
        if let Some(elected) = self.faults.elect(&mut self.chance) {
            self.expect_primary(elected, self.plan.news()).await;
        }
    }

    /// Checks that nothing is left over.
    async fn end(self) {
        let closes = self.plan.closes;
        if closes {
            self.topology.close().await;
            self.no_socket();
            // Waiting selections have failed, or are about to.
            self.is_over.store(true, Ordering::Relaxed);
        } else {
            self.is_over.store(true, Ordering::Relaxed);
        }
        let ends = timeout(Duration::from_secs(20), self.clients).await;
        self.log.require(
            ends.is_ok_and(|end| end.is_ok()),
            format_args!("clients hang"),
        );
        drop(self.topology);
        sleep(Duration::from_millis(1)).await;
        let open = self.ends.open();
        self.log
            .require(open == 0, format_args!("{open} sockets at the end"));
        self.log.require(
            self.observer.is_closed(),
            format_args!("no event of the end"),
        );
        // The servers notice, and close their side.
        sleep(SLOWEST * 2).await;
        let tasks = Handle::current().metrics().num_alive_tasks();
        self.log.require(
            tasks == self.tasks,
            format_args!("{} tasks before, {tasks} at the end", self.tasks),
        );
        for member in 0..self.faults.set.len() {
            let address = self.faults.set.address(member);
            let open = self.network.open_streams(&address);
            self.log
                .require(open == 0, format_args!("{open} streams to {address}"));
        }
    }

    fn no_socket(&self) {
        let open = self.ends.open();
        self.log
            .require(open == 0, format_args!("{open} sockets after the close"));
    }
}

/// A set of five or six members, one of which may be of another kind.
async fn deployment(
    plan: &Plan,
    network: &SimNetwork,
    users: &[User],
    chance: &mut Chance,
) -> Deployment {
    let mut builder = Deployment::replica_set("rs").network(network);
    for user in users {
        builder = builder.user(user.clone());
    }
    for member in 0..5 {
        let lag = chance.millis(0, 120_000);
        let spec = MemberSpec::new(MemberKind::Electable)
            .tag("rack", chance.pick(&["a", "b", "c"]))
            .lag(if member == 0 { Duration::ZERO } else { lag })
            .wire_versions(0, plan.wire_version);
        builder = builder.member(spec);
    }
    if chance.once_in(2) {
        let kind = chance.pick(&[MemberKind::Arbiter, MemberKind::Hidden, MemberKind::Passive]);
        builder = builder.member(MemberSpec::new(kind).wire_versions(0, plan.wire_version));
    }
    if chance.once_in(2) {
        builder = builder.exhaust_replies(ExhaustReplies::AnswerTheRequest);
    }
    let set = builder.start().await;
    if chance.once_in(2) {
        set.remove(4);
        set.change_set(|state| state.set_tags(3, doc! {"rack": "b"}));
    }
    set
}
