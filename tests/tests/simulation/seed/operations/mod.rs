//! Operations over the deployment of a seed: retries, cursors, sessions and transactions.

mod callers;
mod journal;
mod plan;
mod spoils;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use mongo_core::ClientOptions;
use mongo_core::net::Topology;
use mongo_core::pools::{Backend, Pools};
use mongo_testkit::{Deployment, SimNetwork};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::chance::Chance;
use super::faults::{Faults, SLOWEST};
use super::log::Log;
use super::wire::{Ends, Wire};
use super::{Failure, Outcome, Plan, deployment, simulate};
use callers::Caller;
use journal::{Data, Journal};
use plan::{End, OperationPlan, Shape};
use spoils::Spoils;
use usage::Usage;

/// The duration of faults, by the simulated clock.
pub(crate) const OPERATION_TROUBLE: Duration = Duration::from_secs(12);

/// The duration without faults, in which all operations must succeed.
const CALM: Duration = Duration::from_secs(2);

/// The longest time of an operation then, with the transactions of other callers.
const CALM_LIMIT: Duration = Duration::from_secs(20);

/// The time between two looks at the members' data.
const LOOK: Duration = Duration::from_millis(1500);

const CALLERS: u64 = 6;

/// Runs a seed of operations: even ones on deadpool, odd ones on bb8. It replays exactly.
///
/// # Errors
/// The violated invariant, with the trace of a second run.
pub(crate) fn run_operations(seed: u64) -> Result<Outcome, Failure> {
    match seed.is_multiple_of(2) {
        true => run::<mongo_deadpool::Pool>(seed),
        false => run::<mongo_bb8::Pool>(seed),
    }
}

fn run<B: Backend<Config: Default>>(seed: u64) -> Result<Outcome, Failure> {
    simulate(seed, async |log| {
        Run::<B>::start(seed, log).await.go().await
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Trouble,
    /// Callers end their operations, and begin none: a cancelled command may begin a transaction
    /// after its abort.
    Pause,
    Calm,
    Over,
}

/// State that all callers share.
struct World {
    log: Log,
    journal: Journal,
    usage: Arc<Usage>,
    /// Whether what is acknowledged can't be lost.
    is_safe: bool,
    phase: AtomicU8,
    number: AtomicI64,
    done: AtomicU64,
}

impl World {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Trouble,
            1 => Phase::Pause,
            2 => Phase::Calm,
            _ => Phase::Over,
        }
    }

    fn enter(&self, phase: Phase) {
        self.log.write(format_args!("{phase:?}"));
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn next_number(&self) -> i64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }
}

struct Run<B: Backend> {
    plan: Plan,
    own_plan: OperationPlan,
    log: Log,
    spoils: Spoils,
    network: SimNetwork,
    topology: Topology,
    pools: Pools<B>,
    world: Arc<World>,
    chance: Chance,
    ends: [Ends; 2],
    /// The number of tasks of the servers alone.
    tasks: usize,
    /// The cursors of each member that the faults left open: a lost `killCursors` is not repeated.
    left_open: Vec<usize>,
    callers: JoinHandle<()>,
}

impl<B: Backend<Config: Default>> Run<B> {
    async fn start(seed: u64, log: Log) -> Self {
        let mut chance = Chance::new(seed, 3);
        let mut plan = Plan::new(&mut chance);
        // To recover soon after the faults end.
        plan.heartbeat_frequency = plan.heartbeat_frequency.min(Duration::from_secs(2));
        plan.connect_timeout = Duration::from_secs(1);
        let own_plan = OperationPlan::new(&mut chance);
        let network = SimNetwork::new(seed);
        let set = match own_plan.shape {
            Shape::ReplicaSet => deployment(&plan, &network, &[], &mut chance).await,
            Shape::Sharded => Deployment::sharded(3).network(&network).start().await,
            Shape::LoadBalanced => Deployment::load_balanced(2).network(&network).start().await,
        };
        let set = Arc::new(set);
        Journal::prepare(&set, CALLERS);
        // The servers' tasks have begun, and no client has connected.
        sleep(Duration::from_millis(1)).await;
        let tasks = Handle::current().metrics().num_alive_tasks();
        let ends = [Ends::default(), Ends::default()];
        let wire = |ends: &Ends| {
            let (network, ends) = (network.clone(), ends.clone());
            Arc::new(Wire { network, ends })
        };
        let uri = match own_plan.shape {
            Shape::ReplicaSet => plan.uri(&set),
            Shape::Sharded => set.uri() + &plan.options(),
            Shape::LoadBalanced => set.uri(),
        };
        let options = (uri + own_plan.options()).replacen("?&", "?", 1);
        let options = ClientOptions::parse(&options).expect("a connection string");
        let topology = Topology::builder(options.clone())
            .connector(wire(&ends[0]))
            .random_seed(seed)
            .build()
            .expect("a topology");
        let usage = Usage::new(log.clone());
        let pools: Pools<B> = Pools::builder(options)
            .connector(wire(&ends[1]))
            .config(OperationPlan::config())
            .event_handlers(usage.handlers())
            .topology(topology.clone())
            .build()
            .expect("pools");
        let world = Arc::new(World {
            log: log.clone(),
            journal: Journal::default(),
            usage,
            is_safe: own_plan.has_majority || own_plan.shape != Shape::ReplicaSet,
            phase: AtomicU8::new(Phase::Trouble as u8),
            number: AtomicI64::new(1),
            done: AtomicU64::new(0),
        });
        let faults = (own_plan.shape == Shape::ReplicaSet)
            .then(|| Faults::new(set.clone(), network.clone(), log.clone(), plan.versions));
        Self {
            callers: tokio::spawn(all_callers(seed, &world, &pools)),
            spoils: Spoils::new(set, own_plan.shape, log.clone(), faults),
            plan,
            own_plan,
            log,
            network,
            topology,
            pools,
            world,
            chance,
            ends,
            tasks,
            left_open: Vec::new(),
        }
    }

    async fn go(mut self) -> Outcome {
        let mut faults = 0;
        let end = Instant::now() + OPERATION_TROUBLE;
        let mut look = Instant::now() + LOOK;
        while Instant::now() < end && !self.log.is_broken() {
            faults += u64::from(self.spoils.inject(&mut self.chance).await);
            let pause = match self.chance.once_in(3) {
                true => self.chance.millis(0, 20),
                false => self.chance.millis(20, 800),
            };
            sleep(pause).await;
            if Instant::now() >= look {
                look += LOOK;
                self.look();
            }
        }
        if !self.log.is_broken() {
            self.world.enter(Phase::Pause);
            for _ in 0..2 {
                self.spoils.heal(&mut self.chance).await;
                sleep(self.plan.recovery()).await;
            }
            let set = &self.spoils.set;
            self.left_open = (0..set.len())
                .map(|member| set.server(member).open_cursors())
                .collect();
            self.world.usage.count_new();
            self.world.enter(Phase::Calm);
            sleep(CALM).await;
            self.look();
        }
        let selections = self.world.done.load(Ordering::Relaxed);
        let connections = self.ends.iter().map(Ends::opened).sum();
        self.end().await;
        Outcome {
            faults,
            selections,
            connections,
            ..Outcome::default()
        }
    }

    /// Checks the data of each member: an isolated one has its own.
    fn look(&self) {
        let set = &self.spoils.set;
        for member in 0..set.len() {
            let data = Data::read(|name| set.server(member).documents(name));
            let whose = format!("m{member}");
            self.world.journal.check(&self.log, &whose, &data, false);
        }
    }

    /// Checks that nothing is left over, and that nothing is lost.
    async fn end(self) {
        let log = self.log.clone();
        let is_calm = self.own_plan.end == End::Calm && !log.is_broken();
        self.world.enter(Phase::Over);
        if self.own_plan.end == End::Sudden {
            self.pools.close().await;
        }
        let ended = timeout(Duration::from_secs(60), self.callers).await;
        let ended = ended.is_ok_and(|ended| ended.is_ok());
        log.require(ended, format_args!("callers hang"));
        // For what dropped sessions and cursors leave to do.
        sleep(Duration::from_secs(1)).await;
        let set = self.spoils.set;
        if is_calm {
            check_idle(&set, &self.left_open, &self.pools, &self.world);
            self.pools.close().await;
            let left = self.world.usage.not_ended();
            log.require(left.is_empty(), format_args!("not ended: {left:?}"));
        }
        drop(self.pools);
        sleep(Duration::from_millis(1)).await;
        let open = self.ends[1].open();
        log.require(
            open == 0,
            format_args!("{open} sockets of the pools at the end"),
        );
        self.topology.close().await;
        // The servers notice, and close their side.
        sleep(SLOWEST * 2).await;
        let tasks = Handle::current().metrics().num_alive_tasks();
        log.require(
            tasks == self.tasks,
            format_args!("{} tasks before, {tasks} at the end", self.tasks),
        );
        for member in 0..set.len() {
            let open = self.network.open_streams(&set.address(member));
            log.require(open == 0, format_args!("{open} streams to m{member}"));
        }
        let data = Data::read(|name| set.documents(name));
        self.world.journal.check(&log, "at the end", &data, true);
    }
}

/// Checks that all pins, cursors, sessions and connections have been given back.
fn check_idle<B: Backend>(set: &Deployment, left: &[usize], pools: &Pools<B>, world: &World) {
    let log = &world.log;
    for (member, left) in left.iter().enumerate() {
        let server = set.server(member);
        let (transactions, cursors) = (server.open_transactions(), server.open_cursors());
        log.require(
            transactions == 0,
            format_args!("{transactions} open transactions"),
        );
        log.require(
            cursors <= *left,
            format_args!("{cursors} open cursors of m{member}, {left} of them by faults"),
        );
    }
    for status in pools.status() {
        log.require(
            status.in_use == 0 && status.waiting == 0,
            format_args!("in use at the end: {status:?}"),
        );
    }
    // Each caller has one, and one that the background ends.
    let new = world.usage.new_sessions();
    log.require(
        new <= 2 * CALLERS as usize,
        format_args!("{new} new sessions without faults"),
    );
}

/// Runs all callers in one task, which polls them in order: waiters for a change are woken in any
/// order.
fn all_callers<B: Backend>(
    seed: u64,
    world: &Arc<World>,
    pools: &Pools<B>,
) -> impl Future<Output = ()> + Send + use<B> {
    let mut all: Vec<BoxFuture<'static, ()>> = Vec::new();
    for number in 0..CALLERS {
        let caller = Caller {
            world: world.clone(),
            pools: pools.clone(),
            number,
        };
        all.push(Box::pin(caller.run(Chance::new(seed, 500 + number))));
    }
    async move {
        join_all(all).await;
    }
}
