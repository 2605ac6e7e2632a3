use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::event::SdamEvent;
use mongo_core::net::{SelectedServer, Topology};
use mongo_core::sdam::TopologyDescription;
use mongo_core::select::{Criterion, ReadPreference, ReadPreferenceMode};
use mongo_core::{ClientOptions, Error};
use mongo_testkit::SimNetwork;

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
