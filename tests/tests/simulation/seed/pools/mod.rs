//! Pools over the deployment of a seed: many callers, few connections and several credentials.

mod callers;
mod host;
mod ledger;
mod plan;
mod seats;
mod shocks;
mod watch;
mod world;

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use mongo_core::ClientOptions;
use mongo_core::bson::doc;
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
use super::{Failure, Outcome, Plan, deployment, runtime, simulate};
use callers::Caller;
pub(super) use callers::cut_short;
use host::Host;
use ledger::Ledger;
use plan::{End, PoolPlan};
use seats::{KEYS, KNOWN, Seat};
use shocks::{Runtimes, Shaky, Shocks};
use watch::Watch;
use world::{Phase, World, no_write_to_others};

/// The duration of faults, by the simulated clock.
pub(crate) const POOL_TROUBLE: Duration = Duration::from_secs(15);

/// The duration without faults, in which all callers must be served.
const CALM: Duration = Duration::from_secs(2);

/// The longest wait during that time: a pause after failures, and other callers.
const CALM_LIMIT: Duration = Duration::from_secs(5);

const CALLERS: u64 = 8;

/// Runs a seed of pools: even ones on deadpool, odd ones on bb8. It replays exactly.
///
/// # Errors
/// The violated invariant, with the trace of a second run.
pub(crate) fn run_pools(seed: u64) -> Result<Outcome, Failure> {
    LazyLock::force(&WARM);
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

/// Derives all keys once, before the first seed, so that runs do not differ.
static WARM: LazyLock<()> = LazyLock::new(|| {
    runtime().block_on(async {
        let network = SimNetwork::new(0);
        let mut set = Deployment::replica_set("rs").network(&network).members(1);
        for user in &*KNOWN {
            set = set.user(user.clone());
        }
        let set = set.start().await;
        let ends = Ends::default();
        let pools: Pools<mongo_deadpool::Pool> = Pools::builder(options(&set.uri()))
            .connector(Arc::new(Wire { network, ends }))
            .keys(KEYS.clone())
            .build()
            .expect("pools");
        for seat in Seat::all(&pools) {
            let sitting = seat.look();
            let verified = sitting.pools.verify().await.is_ok();
            assert_eq!(verified, sitting.is_known());
            if seat.rotate().is_ok() {
                seat.look().pools.verify().await.expect("known");
            }
        }
        pools.close().await;
    });
});

fn options(uri: &str) -> ClientOptions {
    let uri = uri.replacen("://", "://alice:secret@", 1);
    ClientOptions::parse(&uri).expect("a connection string")
}

struct Run<B: Backend> {
    plan: Plan,
    pool_plan: PoolPlan,
    log: Log,
    faults: Arc<Faults>,
    network: SimNetwork,
    pools: Pools<B>,
    world: Arc<World<B>>,
    chance: Chance,
    runtimes: Runtimes,
    ends: [Ends; 2],
    /// The number of tasks of the servers alone.
    tasks: usize,
    callers: JoinHandle<()>,
    watch: JoinHandle<()>,
}

impl<B: Backend<Config: Default>> Run<B> {
    async fn start(seed: u64, log: Log) -> Self {
        let mut chance = Chance::new(seed, 2);
        let mut runtimes = Runtimes::new();
        let mut plan = Plan::new(&mut chance);
        // To recover soon after the faults end.
        plan.heartbeat_frequency = plan.heartbeat_frequency.min(Duration::from_secs(2));
        plan.connect_timeout = Duration::from_secs(1);
        let pool_plan = PoolPlan::new(&mut chance);
        let network = SimNetwork::new(seed);
        let set = Arc::new(deployment(&plan, &network, &KNOWN, &mut chance).await);
        // The servers' tasks have begun, and no client has connected.
        sleep(Duration::from_millis(1)).await;
        let tasks = Handle::current().metrics().num_alive_tasks();
        let ends = [Ends::default(), Ends::default()];
        let shocks = Shocks::new(Chance::new(seed, 400));
        let wire = |ends: &Ends| {
            let (network, ends) = (network.clone(), ends.clone());
            Arc::new(Shaky {
                wire: Wire { network, ends },
                shocks: shocks.clone(),
            })
        };
        let options = options(&(plan.uri(&set) + &pool_plan.options()));
        let topology = Topology::builder(options.clone())
            .connector(wire(&ends[0]))
            .random_seed(seed)
            .build()
            .expect("a topology");
        let ledger = Ledger::new(log.clone(), pool_plan.sizes, ends[1].clone());
        let mut events = no_write_to_others(&topology, &log, &shocks);
        if pool_plan.is_watched {
            let (ledger, shocks) = (ledger.clone(), shocks.clone());
            events = events.on_cmap(move |event| {
                ledger.see(event);
                shocks.may_panic(30);
            });
        }
        let pools: Pools<B> = Pools::builder(options)
            .connector(wire(&ends[1]))
            .keys(KEYS.clone())
            .config(pool_plan.config())
            .manager_config(pool_plan.manager())
            .event_handlers(events)
            .topology(topology.clone())
            .build()
            .expect("pools");
        let world = Arc::new(World {
            log: log.clone(),
            topology,
            seats: Seat::all(&pools),
            ledger: pool_plan.is_watched.then_some(ledger),
            shocks,
            heartbeat_frequency: plan.heartbeat_frequency,
            phase: AtomicU8::new(Phase::Trouble as u8),
            number: AtomicI64::new(1),
            asked: AtomicU64::new(0),
            forbidden: Mutex::default(),
        });
        let faults = Faults::new(set, network.clone(), log.clone(), plan.versions);
        if chance.once_in(3) {
            // After the time origin of its clock.
            sleep(Duration::from_secs(1)).await;
            runtimes.end_one(&world, &log, &mut chance);
        }
        let watch = Watch::new(&world, &pools, pool_plan.sizes);
        Self {
            callers: tokio::spawn(all_callers(seed, &world, &pools)),
            watch: tokio::spawn(watch.run(Chance::new(seed, 300))),
            plan,
            pool_plan,
            log,
            faults: Arc::new(faults),
            network,
            pools,
            world,
            chance,
            runtimes,
            ends,
            tasks,
        }
    }

    async fn go(mut self) -> Outcome {
        let mut faults = 0;
        let end = Instant::now() + POOL_TROUBLE;
        while Instant::now() < end && !self.log.is_broken() {
            let done = match self.chance.below(12) {
                0..=2 => self.faults.spoil(&mut self.chance).await,
                3 | 4 if Instant::now() > end - POOL_TROUBLE + Duration::from_secs(1) => self
                    .runtimes
                    .end_one(&self.world, &self.log, &mut self.chance),
                _ => self.faults.inject(&mut self.chance).await,
            };
            faults += u64::from(done);
            let pause = match self.chance.once_in(3) {
                true => self.chance.millis(0, 20),
                false => self.chance.millis(20, 1500),
            };
            sleep(pause).await;
        }
        self.world.shocks.end();
        faults += self.world.shocks.panics() as u64;
        if !self.log.is_broken() {
            self.faults.heal(&mut self.chance).await;
            sleep(self.plan.recovery()).await;
            self.world.enter(Phase::Calm);
            sleep(CALM).await;
        }
        let asked = self.world.asked.load(Ordering::Relaxed);
        let connections = self.ends.iter().map(Ends::opened).sum();
        self.end().await;
        Outcome {
            faults,
            selections: asked,
            connections,
            ..Outcome::default()
        }
    }

    /// Checks that nothing is left over.
    async fn end(self) {
        self.world.enter(Phase::Over);
        if self.pool_plan.end == End::Sudden {
            self.pools.close().await;
        }
        let ended = timeout(Duration::from_secs(20), async {
            (self.callers.await, self.watch.await)
        });
        let ended = ended
            .await
            .is_ok_and(|(callers, watch)| callers.is_ok() && watch.is_ok());
        self.log.require(ended, format_args!("callers hang"));
        match self.pool_plan.end {
            End::Calm => self.pools.close().await,
            End::Sudden | End::Dropped => {}
        }
        let remains = Remains {
            topology: self.world.topology.clone(),
            ledger: self.world.ledger.clone(),
            forbidden: self.world.forbidden(),
            log: self.log,
            faults: self.faults,
            network: self.network,
            tasks: self.tasks,
        };
        drop((self.pools, self.world));
        if self.pool_plan.end == End::Dropped {
            sleep(Duration::from_millis(1)).await;
        }
        let open = self.ends[1].open();
        remains.log.require(
            open == 0,
            format_args!("{open} sockets of the pools at the end"),
        );
        remains.check().await;
    }
}

/// The parts that remain after the pools have ended.
struct Remains {
    topology: Topology,
    ledger: Option<Arc<Ledger>>,
    forbidden: Vec<i64>,
    log: Log,
    faults: Arc<Faults>,
    network: SimNetwork,
    tasks: usize,
}

impl Remains {
    async fn check(&self) {
        if let Some(ledger) = &self.ledger {
            ledger.check_end();
        }
        self.topology.close().await;
        // The servers notice, and close their side.
        sleep(SLOWEST * 2).await;
        let tasks = Handle::current().metrics().num_alive_tasks();
        self.log.require(
            tasks == self.tasks,
            format_args!("{} tasks before, {tasks} at the end", self.tasks),
        );
        for member in 0..self.faults.set.len() {
            let open = self.network.open_streams(&self.faults.set.address(member));
            self.log
                .require(open == 0, format_args!("{open} streams to m{member}"));
            self.check_writes(member);
        }
    }

    fn check_writes(&self, member: usize) {
        let inserted = self.faults.set.server(member).look(|seen| {
            let number = |command: &mongo_core::bson::Document| {
                let documents = command.get_array("documents").ok()?;
                documents.first()?.as_document()?.get_i64("_id").ok()
            };
            let inserts = seen.commands("insert");
            let numbers = inserts.filter_map(|seen| number(&seen.command));
            numbers.collect::<Vec<_>>()
        });
        for number in inserted {
            self.log.require(
                !self.forbidden.contains(&number),
                format_args!("m{member}, known to be no primary, got write {number}"),
            );
        }
    }
}

/// Runs all callers in one task, which polls them in order: waiters for a change are woken in any
/// order.
fn all_callers<B: Backend>(
    seed: u64,
    world: &Arc<World<B>>,
    pools: &Pools<B>,
) -> impl Future<Output = ()> + Send + use<B> {
    let mut all: Vec<BoxFuture<'static, ()>> = Vec::new();
    for number in 0..CALLERS {
        let world = world.clone();
        all.push(Box::pin(async move {
            Caller { world }.run(Chance::new(seed, 100 + number)).await;
        }));
    }
    let host = Host::new(world, pools);
    all.push(Box::pin(host.run(Chance::new(seed, 200))));
    async move {
        join_all(all).await;
    }
}

impl Faults {
    /// Injects a fault that concerns only connections of pools.
    async fn spoil(&self, chance: &mut Chance) -> bool {
        let member = chance.pick(&(0..self.set.len()).collect::<Vec<_>>());
        if chance.once_in(6) {
            self.set.server(member).close_connections().await;
            self.log
                .write(format_args!("connections to m{member} are closed"));
            return true;
        }
        let commands = match chance.once_in(2) {
            true => vec!["saslStart", "saslContinue"],
            false => vec!["echo", "insert", "connectionStatus", "ping"],
        };
        let block = i64::try_from(chance.millis(1, 2000).as_millis()).unwrap_or_default();
        let mut data = match chance.below(4) {
            0 => doc! {"closeConnection": true},
            1 => doc! {"blockConnection": true, "blockTimeMS": block},
            _ if commands.len() == 2 => doc! {"errorCode": chance.pick(&[18, 91, 11600])},
            _ => {
                let codes = [10107, 13435, 11600, 11602, 91, 189, 6, 391, 462];
                doc! {"errorCode": chance.pick(&codes)}
            }
        };
        self.log
            .write(format_args!("m{member} fails {commands:?}: {data}"));
        data.insert("failCommands", commands);
        let times = i32::try_from(1 + chance.below(6)).unwrap_or(1);
        self.set.fail_commands(member, doc! {"times": times}, data);
        true
    }
}
