//! The environment of a case: a server, the transport and the clock.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use mongo_core::net::{Connector, SocketConnector};
use mongo_core::uri::ClientOptions;
use mongo_testkit::{Deployment, SimNetwork};
use serde_json::Value;

use crate::Outcome;
use crate::over_sim::OverSim;

/// The factor for the times of a case on the real clock: a busy machine may take longer for a step
/// of a case than the shortest time in it, of 10 ms.
const STRETCH: u32 = 4;

/// The times of handshakes that waiters wait for. Stretched, they would exceed the grace period of
/// 1 s after which the pool replaces an attempt.
const GRACE: std::ops::Range<u64> = 250..1000;

/// The environment of a round of a case on the real clock. A case that can't be stretched has the
/// paused one, with the round as its seed.
pub(super) fn of_round(case: &Value, round: u32) -> Scene {
    let block = case["failPoint"]["data"]["blockTimeMS"].as_u64();
    match block.is_some_and(|millis| GRACE.contains(&millis)) {
        true => Scene::Memory { seed: round.into() },
        false => Scene::Loopback { round },
    }
}

/// The environment of a case.
pub(super) enum Scene {
    /// A network in memory, a paused clock and one thread: deterministic for a seed.
    Memory { seed: u64 },
    /// Loopback, the real clock and several threads.
    Loopback { round: u32 },
}

impl Scene {
    /// Runs a case to its end, in its own runtime.
    pub(super) fn run<F: Future<Output = Outcome>>(self, play: impl FnOnce(Self) -> F) -> Outcome {
        let mut builder = match self {
            Self::Memory { .. } => tokio::runtime::Builder::new_current_thread(),
            Self::Loopback { .. } => tokio::runtime::Builder::new_multi_thread(),
        };
        if let Self::Memory { .. } = self {
            builder.start_paused(true);
        }
        let runtime = builder.worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(play(self))
    }

    /// The factor for the times of a case.
    pub(super) fn stretch(&self) -> u32 {
        match self {
            Self::Memory { .. } => 1,
            Self::Loopback { .. } => STRETCH,
        }
    }

    /// Starts the server, and sets a case's fail point.
    pub(super) async fn set_up(&self, fail_point: Option<&Value>) -> Result<Stage, String> {
        let network = match self {
            Self::Memory { seed } => Some(SimNetwork::new(*seed)),
            Self::Loopback { .. } => None,
        };
        let mut server = Deployment::standalones(1);
        if let Some(network) = &network {
            server = server.network(network);
        }
        let server = server.start().await;
        if let Some(fail_point) = fail_point {
            let document = bson::serialize_to_document(fail_point);
            let mut document = document.map_err(|error| error.to_string())?;
            let mode = document
                .remove("mode")
                .ok_or("a fail point without a mode")?;
            let mut data = document.get_document("data").cloned().unwrap_or_default();
            if let Ok(time) = data.get_i64("blockTimeMS") {
                data.insert("blockTimeMS", time * i64::from(self.stretch()));
            }
            server.fail_commands(0, mode, data);
        }
        Ok(Stage { server, network })
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { seed } => write!(f, "seed {seed}"),
            Self::Loopback { round } => write!(f, "round {round}"),
        }
    }
}

/// A server, and the transport to it.
pub(super) struct Stage {
    server: Deployment,
    network: Option<SimNetwork>,
}

impl Stage {
    pub(super) fn options(&self) -> Result<ClientOptions, String> {
        ClientOptions::parse(&self.server.uri()).map_err(|error| error.to_string())
    }

    pub(super) fn connector(&self) -> Arc<dyn Connector> {
        match &self.network {
            Some(network) => Arc::new(OverSim(network.clone())),
            None => Arc::new(SocketConnector::default()),
        }
    }
}
