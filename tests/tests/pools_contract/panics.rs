//! Callbacks of the application that panic. A panic fails only the call in which it happens.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use mongo_core::bson::doc;
use mongo_core::event::{EventHandlers, SdamEvent};
use mongo_core::pools::{Backend, Pools, PoolsBuilder};
use mongo_core::select::Criterion;
use tokio::time::sleep;

use crate::support::{Kept, Sim, eventually, ping, status_of};

pub(crate) const OPTIONS: &str = "maxPoolSize=1&heartbeatFrequencyMS=500&waitQueueTimeoutMS=5000";

on_both! {
    on a paused clock:
    a_pool_event_handler_that_panics_loses_only_its_own_events,
    a_topology_event_handler_that_panics_loses_only_its_own_events,
    a_command_event_handler_that_panics_loses_only_its_own_events,
    a_metrics_recorder_that_panics_is_ignored,
}

/// Panics once each time it is armed.
#[derive(Clone, Default)]
pub(crate) struct Fuse(Arc<AtomicBool>);

impl Fuse {
    pub(crate) fn armed() -> Self {
        let fuse = Self::default();
        fuse.arm();
        fuse
    }

    pub(crate) fn arm(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn burn(&self) {
        if self.0.swap(false, Ordering::SeqCst) {
            panic!("on purpose");
        }
    }
}

/// The kinds of events at which a handler has panicked, once each.
#[derive(Clone, Default)]
struct Panicked(Arc<Mutex<BTreeSet<String>>>);

impl Panicked {
    fn panic_at_first(&self, event: &impl std::fmt::Debug) {
        let shown = format!("{event:?}");
        let name = shown.split('(').next().unwrap_or_default().to_owned();
        let is_first = self.0.lock().expect("no panic").insert(name);
        if is_first {
            panic!("on purpose");
        }
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().expect("no panic").iter().cloned().collect()
    }
}

/// Counts succeeded heartbeats.
#[derive(Clone, Default)]
pub(crate) struct Heartbeats(Arc<Mutex<usize>>);

impl Heartbeats {
    pub(crate) fn watch<B: Backend>(&self, builder: PoolsBuilder<B>) -> PoolsBuilder<B> {
        let own = self.clone();
        builder.on_sdam(move |event| {
            if let SdamEvent::ServerHeartbeatSucceeded(_) = event {
                *own.0.lock().expect("no panic") += 1;
            }
        })
    }

    pub(crate) fn count(&self) -> usize {
        *self.0.lock().expect("no panic")
    }
}

/// Triggers every event of pools, and checks that everything works.
pub(crate) async fn exercise<B: Backend>(pools: Pools<B>, sim: &Sim, heartbeats: &Heartbeats) {
    ping(&pools).await.expect("a ping");
    let held = pools.get().await.expect("a connection");
    let short = Duration::from_millis(100);
    let full = pools.get_by(short, &Criterion::write(), &[]).await;
    assert!(full.expect_err("one is the maximum").is_timeout());
    drop(held);
    let mut closed = pools.get().await.expect("a connection");
    let unknown = closed.run_command("db", &doc! {"noSuchCommand": 1}).await;
    assert!(unknown.expect_err("an error reply").command().is_some());
    closed.close();
    drop(closed);
    assert_eq!(status_of(&pools).size, 0);
    ping(&pools).await.expect("another connection");
    let before = heartbeats.count();
    sleep(Duration::from_secs(5)).await;
    assert!(heartbeats.count() >= before + 5, "heartbeats go on");

    sim.set.kill(0).await;
    sleep(Duration::from_secs(2)).await;
    sim.set.restart(0).await;
    sim.set.elect(0);
    ping(&pools).await.expect("the restarted server is found");
    let status = status_of(&pools);
    let busy = (status.in_use, status.pending, status.waiting);
    assert_eq!(
        (busy, status.size, status.idle),
        ((0, 0, 0), 1, 1),
        "{status:?}"
    );
    pools.close().await;
    let address = sim.set.address(0);
    eventually("all sockets are closed", || {
        sim.network.open_streams(&address) == 0
    })
    .await;
}

/// Builds pools over a new set, and exercises them.
async fn exercised<B: Backend<Config: Default>>(
    further: impl FnOnce(PoolsBuilder<B>) -> PoolsBuilder<B>,
) {
    let (sim, heartbeats) = (Sim::of(1).await, Heartbeats::default());
    let builder = heartbeats.watch(further(sim.builder::<B>(OPTIONS)));
    exercise(builder.build().expect("pools"), &sim, &heartbeats).await;
}

async fn a_pool_event_handler_that_panics_loses_only_its_own_events<B: Backend<Config: Default>>() {
    let (panicked, kept) = (Panicked::default(), Kept::default());
    let (first, second) = (panicked.clone(), kept.clone());
    exercised::<B>(|builder| {
        let handlers = EventHandlers::new().on_cmap(move |event| first.panic_at_first(event));
        builder.event_handlers(handlers.on_cmap(move |event| second.keep(event)))
    })
    .await;
    let all = [
        "ConnectionCheckOutFailed",
        "ConnectionCheckOutStarted",
        "ConnectionCheckedIn",
        "ConnectionCheckedOut",
        "ConnectionClosed",
        "ConnectionCreated",
        "ConnectionReady",
        "PoolCleared",
        "PoolClosed",
        "PoolCreated",
        "PoolReady",
    ];
    assert_eq!(panicked.names(), all);
    assert_eq!(all.map(|name| kept.count(name) > 0), [true; 11]);
    let counts = |pair: [&str; 2]| pair.map(|name| kept.count(name));
    let [created, closed] = counts(["ConnectionCreated", "ConnectionClosed"]);
    assert_eq!(created, closed);
    let [out, back] = counts(["ConnectionCheckedOut", "ConnectionCheckedIn"]);
    assert_eq!(out, back);
}

async fn a_topology_event_handler_that_panics_loses_only_its_own_events<
    B: Backend<Config: Default>,
>() {
    let (panicked, names) = (Panicked::default(), Panicked::default());
    let (first, second) = (panicked.clone(), names.clone());
    exercised::<B>(|builder| {
        let builder = builder.on_sdam(move |event| first.panic_at_first(event));
        builder.on_sdam(move |event| {
            let shown = format!("{event:?}");
            let name = shown.split('(').next().unwrap_or_default().to_owned();
            second.0.lock().expect("no panic").insert(name);
        })
    })
    .await;
    assert_eq!(panicked.names(), names.names());
    assert_eq!(panicked.names().len(), 9, "{:?}", panicked.names());
}

async fn a_command_event_handler_that_panics_loses_only_its_own_events<
    B: Backend<Config: Default>,
>() {
    let (panicked, names) = (Panicked::default(), Arc::new(Mutex::new(0)));
    let (first, second) = (panicked.clone(), names.clone());
    exercised::<B>(|builder| {
        let handlers = EventHandlers::new().on_command(move |event| first.panic_at_first(event));
        let count = move |_: &_| *second.lock().expect("no panic") += 1;
        builder.event_handlers(handlers.on_command(count))
    })
    .await;
    assert_eq!(panicked.names(), ["Failed", "Started", "Succeeded"]);
    // Three pings and an unknown command.
    assert_eq!(*names.lock().expect("no panic"), 8);
}

struct PanickingRecorder;

impl Recorder for PanickingRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        panic!("on purpose");
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        panic!("on purpose");
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        panic!("on purpose");
    }
}

async fn a_metrics_recorder_that_panics_is_ignored<B: Backend<Config: Default>>() {
    // This thread runs the whole runtime.
    let _recorder = metrics::set_default_local_recorder(&PanickingRecorder);
    exercised::<B>(|builder| builder.event_handlers(EventHandlers::new().with_metrics())).await;
}
