use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::event::SdamEvent;
use mongo_core::net::{SelectedServer, Topology};
use mongo_core::sdam::TopologyDescription;
use mongo_core::select::{Criterion, ReadPreference, ReadPreferenceMode};
use mongo_core::{ClientOptions, Error};
use mongo_testkit::{Action, Deployment, Matcher, SimNetwork};

#[path = "../common/over_sim.rs"]
mod over_sim;
pub(crate) use over_sim::OverSim;

/// The limit for waits in tests.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A connected topology whose events are recorded.
pub(crate) struct Watched {
    pub(crate) topology: Topology,
    events: Arc<Mutex<Vec<SdamEvent>>>,
}

impl Watched {
    pub(crate) fn connect(uri: &str) -> Self {
        Self::build(uri, None)
    }

    pub(crate) fn connect_over(uri: &str, network: &SimNetwork) -> Self {
        Self::build(uri, Some(network))
    }

    fn build(uri: &str, network: Option<&SimNetwork>) -> Self {
        let options = ClientOptions::parse(uri).expect("a connection string");
        let events = Arc::new(Mutex::new(Vec::new()));
        let kept = events.clone();
        let mut builder = Topology::builder(options)
            .event_handler(move |event| kept.lock().expect("no panic").push(event.clone()));
        if let Some(network) = network {
            builder = builder.connector(Arc::new(OverSim(network.clone())));
        }
        let topology = builder.build().expect("a topology");
        topology.connect().expect("connected");
        Self { topology, events }
    }

    pub(crate) fn events(&self) -> Vec<SdamEvent> {
        self.events.lock().expect("no panic").clone()
    }

    pub(crate) async fn writable(&self) -> Result<SelectedServer, Error> {
        self.topology
            .select_by(LIMIT, &Criterion::write(), &[])
            .await
    }

    /// Waits until the topology is as wanted.
    pub(crate) async fn wait_until(
        &self,
        what: &str,
        wanted: impl Fn(&TopologyDescription) -> bool,
    ) {
        let mut changes = self.topology.subscribe();
        let waited = tokio::time::timeout(LIMIT, changes.wait_for(|known| wanted(known))).await;
        if waited.is_err() {
            panic!("{what}: not within {LIMIT:?}: {:#?}", self.topology);
        }
    }
}

/// Reads from secondaries.
pub(crate) fn secondary() -> Criterion {
    let preference = ReadPreference::new(ReadPreferenceMode::Secondary);
    Criterion::read(preference).expect("a criterion")
}

/// The number of members of a [`crowd`].
pub(crate) const CROWD: usize = 30;

/// A set whose replies to hello are long and arrive at the same time.
pub(crate) async fn crowd(network: &SimNetwork) -> Deployment {
    network.set_latency(Duration::from_millis(1), Duration::from_millis(1));
    let set = Deployment::replica_set("rs").members(CROWD);
    let set = set.network(network).start().await;
    for member in 0..CROWD {
        let longer = Action::Merge(doc! { "filling": "x".repeat(5000) });
        let script = set.server(member).script();
        script.add(Matcher::hello().then(longer));
    }
    set
}

/// Counts the replies that are handled before another task has a turn.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<TurnsInner>);

#[derive(Default)]
struct TurnsInner {
    replies: AtomicUsize,
    in_turn: AtomicUsize,
    most: AtomicUsize,
}

impl Turns {
    pub(crate) fn handler(&self) -> impl Fn(&SdamEvent) + Send + Sync + 'static {
        let turns = self.0.clone();
        move |event| {
            if !matches!(event, SdamEvent::ServerHeartbeatSucceeded(_)) {
                return;
            }
            turns.replies.fetch_add(1, Ordering::Relaxed);
            if turns.in_turn.fetch_add(1, Ordering::Relaxed) == 0 {
                let turns = turns.clone();
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    let replies = turns.in_turn.swap(0, Ordering::Relaxed);
                    turns.most.fetch_max(replies, Ordering::Relaxed);
                });
            }
        }
    }

    pub(crate) fn replies(&self) -> usize {
        self.0.replies.load(Ordering::Relaxed)
    }

    /// The next reply may be handled between the start of a turn and its end.
    pub(crate) fn assert_one_reply_in_each(&self) {
        let most = self.0.most.load(Ordering::Relaxed);
        assert!((1..=2).contains(&most), "{most} replies in one turn");
    }
}
