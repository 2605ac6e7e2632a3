//! Everything at once: elections, kills, partitions, cancelled callers, panicking handlers and
//! ending runtimes. No reply may be wrong, no caller may be stuck, and nothing may be left over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mongo_core::bson::{Document, doc};
use mongo_core::event::EventHandlers;
use mongo_core::pools::{Backend, PooledConnection, Pools, PoolsConfig};
use mongo_core::select::{ReadPreference, ReadPreferenceMode};
use mongo_core::{ClientOptions, Error};
use mongo_testkit::Deployment;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const MEMBERS: usize = 3;
const CALLERS: u64 = 24;
const DOCUMENTS: i64 = 500;
/// The time after which a caller counts as stuck: `waitQueueTimeoutMS` and a command's timeout are
/// shorter.
const STUCK: Duration = Duration::from_secs(20);

/// The report of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) served: u64,
    pub(crate) cut: u64,
    pub(crate) failed: BTreeMap<String, u64>,
    /// Replies to other requests.
    pub(crate) wrong: u64,
    /// Callers that did not complete.
    pub(crate) stuck: u64,
    pub(crate) panics: u64,
    pub(crate) runtimes: u64,
    pub(crate) created: u64,
    /// Slots, tasks and sockets left over at the end.
    pub(crate) left: Vec<String>,
    pub(crate) took: Duration,
}

struct World<B: Backend> {
    pools: Pools<B>,
    wanted: u64,
    begun: AtomicU64,
    chance: AtomicU64,
    panics: Arc<AtomicU64>,
    is_over: AtomicBool,
}

impl<B: Backend> World<B> {
    /// SplitMix64 over a counter.
    fn random(&self) -> u64 {
        let mut word = self
            .chance
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn is_done(&self) -> bool {
        self.begun.fetch_add(1, Ordering::Relaxed) >= self.wanted
    }

    async fn connection(&self, random: u64) -> Result<PooledConnection<B>, Error> {
        match random.is_multiple_of(3) {
            true => self.pools.get().await,
            false => {
                let mode = ReadPreferenceMode::SecondaryPreferred;
                self.pools.read(ReadPreference::new(mode)).await
            }
        }
    }

    /// Whether the reply belongs to this request.
    async fn find(&self) -> Result<bool, Error> {
        let random = self.random();
        let mut connection = self.connection(random).await?;
        let mut is_right = true;
        for step in 0..1 + random % 3 {
            let id = (random.wrapping_mul(step + 7) % DOCUMENTS as u64) as i64;
            let find = doc! {
                "find": "numbers", "filter": { "_id": id },
                "$readPreference": { "mode": "secondaryPreferred" },
            };
            let reply = connection
                .run_command_by(Duration::from_secs(2), "db", &find)
                .await?;
            let reply: Document = reply.deserialize()?;
            let batch = reply
                .get_document("cursor")
                .and_then(|own| own.get_array("firstBatch"));
            let first = batch
                .ok()
                .and_then(|batch| batch.first()?.as_document()?.get_i64("_id").ok());
            is_right &= first == Some(id);
        }
        Ok(is_right)
    }

    /// Checks out until there have been enough check-outs.
    async fn call(&self, report: &mut Report) {
        while !self.is_done() {
            let cut = Duration::from_micros(self.random() % 3_000);
            let is_cut = self.random().is_multiple_of(8);
            let bound = if is_cut { cut } else { STUCK };
            match timeout(bound, self.find()).await {
                Ok(Ok(true)) => report.served += 1,
                Ok(Ok(false)) => report.wrong += 1,
                Ok(Err(error)) => *report.failed.entry(kind(&error)).or_default() += 1,
                Err(_) if is_cut => report.cut += 1,
                Err(_) => report.stuck += 1,
            }
        }
    }

    /// Runs a few check-outs on each of several short-lived runtimes. Some guards outlive theirs.
    fn short_lived_runtimes(&self, report: &mut Report) {
        let mut held = None;
        while !self.is_done() {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(async {
                for _ in 0..10 {
                    match timeout(STUCK, self.find()).await {
                        Ok(Ok(true)) => report.served += 1,
                        Ok(Ok(false)) => report.wrong += 1,
                        Ok(Err(error)) => *report.failed.entry(kind(&error)).or_default() += 1,
                        Err(_) => report.stuck += 1,
                    }
                }
                held = timeout(STUCK, self.connection(0))
                    .await
                    .ok()
                    .and_then(Result::ok);
            });
            drop(runtime);
            report.runtimes += 1;
        }
    }

    async fn trouble(&self, set: &Deployment) {
        while !self.is_over.load(Ordering::Relaxed) {
            let random = self.random();
            let member = (random >> 8) as usize % MEMBERS;
            match random % 5 {
                0 | 1 => set.elect(member),
                2 => {
                    set.kill(member).await;
                    set.elect((member + 1) % MEMBERS);
                    sleep(Duration::from_millis(30)).await;
                    set.restart(member).await;
                }
                3 => {
                    set.server(member).partition().await;
                    set.elect((member + 1) % MEMBERS);
                    sleep(Duration::from_millis(50)).await;
                    set.server(member).heal().await;
                }
                _ => {
                    if let Some(primary) = set.primary() {
                        set.step_down(primary);
                        sleep(Duration::from_millis(20)).await;
                        set.elect(primary);
                    }
                }
            }
            sleep(Duration::from_millis(40 + random % 100)).await;
        }
        for member in 0..MEMBERS {
            set.server(member).heal().await;
        }
        set.elect(0);
    }
}

fn kind(error: &Error) -> String {
    let kind = format!("{:?}", error.kind());
    let end = kind.find(['(', ' ', '{']).unwrap_or(kind.len());
    kind[..end].to_owned()
}

/// A handler that panics now and then, like an application's.
fn handlers(panics: &Arc<AtomicU64>, calls: u64) -> impl Fn() + Send + Sync + 'static {
    let (panics, count) = (panics.clone(), AtomicU64::new(0));
    move || {
        if count.fetch_add(1, Ordering::Relaxed) % calls == calls - 1 {
            panics.fetch_add(1, Ordering::Relaxed);
            panic!("on purpose");
        }
    }
}

fn build<B: Backend<Config: Default>>(set: &Deployment, home: &Handle, wanted: u64) -> World<B> {
    let uri = format!(
        "{}&maxPoolSize=8&minPoolSize=1&waitQueueTimeoutMS=10000&heartbeatFrequencyMS=500",
        set.uri()
    );
    let panics = Arc::new(AtomicU64::new(0));
    let (on_cmap, on_sdam) = (handlers(&panics, 997), handlers(&panics, 101));
    let pools = Pools::builder(ClientOptions::parse(&uri).expect("a connection string"))
        .config(PoolsConfig::default().with_max_connections_per_server(8))
        .event_handlers(EventHandlers::new().on_cmap(move |_| on_cmap()))
        .on_sdam(move |_| on_sdam())
        .runtime(home.clone())
        .build();
    World {
        pools: pools.expect("pools"),
        wanted,
        begun: AtomicU64::new(0),
        chance: AtomicU64::new(7),
        panics,
        is_over: AtomicBool::new(false),
    }
}

/// Runs the wanted number of check-outs, with faults.
pub(crate) async fn stress<B: Backend<Config: Default>>(wanted: u64) -> Report {
    let begun = Instant::now();
    let set = Deployment::replica_set("rs").members(MEMBERS).start().await;
    set.insert("db.numbers", (0..DOCUMENTS).map(|id| doc! { "_id": id }));
    let home = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let home = home.expect("a runtime");
    let world = Arc::new(build::<B>(&set, home.handle(), wanted));
    let set = Arc::new(set);
    let trouble = {
        let (world, set) = (world.clone(), set.clone());
        tokio::spawn(async move { world.trouble(&set).await })
    };
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let world = world.clone();
        callers.spawn(async move {
            let mut report = Report::default();
            world.call(&mut report).await;
            report
        });
    }
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let world = world.clone();
            std::thread::spawn(move || {
                let mut report = Report::default();
                world.short_lived_runtimes(&mut report);
                report
            })
        })
        .collect();
    let mut report = Report::default();
    for own in callers.join_all().await {
        report.add(own);
    }
    for thread in threads {
        let own = tokio::task::spawn_blocking(|| thread.join()).await;
        report.add(own.expect("no panic").expect("no panic"));
    }
    world.is_over.store(true, Ordering::Relaxed);
    trouble.await.expect("no panic");
    report.panics = world.panics.load(Ordering::Relaxed);
    finish(&world, &set, &home, &mut report).await;
    report.took = begun.elapsed();
    home.shutdown_background();
    report
}

/// Heals all faults, and checks that nothing is left once the pools are closed.
async fn finish<B: Backend>(
    world: &World<B>,
    set: &Deployment,
    home: &tokio::runtime::Runtime,
    report: &mut Report,
) {
    if let Err(error) = world.find().await {
        report
            .left
            .push(format!("no check-out afterwards: {error}"));
    }
    for pool in world.pools.status() {
        report.created += pool.created;
        if pool.in_use + pool.waiting > 0 {
            report.left.push(format!("{pool:?}"));
        }
    }
    world.pools.close().await;
    let is_empty = async {
        while (0..MEMBERS).any(|member| set.server(member).look(|seen| seen.open) > 0) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(STUCK, is_empty).await.is_err() {
        let open = (0..MEMBERS).map(|member| set.server(member).look(|seen| seen.open));
        report
            .left
            .push(format!("sockets: {:?}", open.collect::<Vec<_>>()));
    }
    let tasks = home.metrics().num_alive_tasks();
    if tasks > 0 {
        report.left.push(format!("{tasks} tasks"));
    }
}

impl Report {
    fn add(&mut self, other: Self) {
        self.served += other.served;
        self.cut += other.cut;
        self.wrong += other.wrong;
        self.stuck += other.stuck;
        self.runtimes += other.runtimes;
        for (kind, count) in other.failed {
            *self.failed.entry(kind).or_default() += count;
        }
    }
}
