//! Clients that select servers all the time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mongo_core::bson::{RawDocumentBuf, doc};
use mongo_core::error::{CommandError, ErrorKind};
use mongo_core::net::{SelectedServer, Topology};
use mongo_core::sdam::{ApplicationError, ErrorPhase, TopologyVersion};
use mongo_core::{Error, ServerAddress};
use mongo_testkit::Standing;
use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::faults::Faults;
use super::log::Log;
use super::observer::Observer;
use super::rules::Want;
use super::wire::member_at;

/// The granularity of timers is a millisecond.
const TICK: Duration = Duration::from_millis(2);

pub(super) struct Client {
    pub(super) topology: Topology,
    pub(super) faults: Arc<Faults>,
    pub(super) observer: Arc<Observer>,
    pub(super) log: Log,
    pub(super) heartbeat_frequency: Duration,
    pub(super) is_over: Arc<AtomicBool>,
    pub(super) selections: Arc<AtomicU64>,
}

impl Client {
    /// Selects until the run is over or the topology is closed.
    pub(super) async fn run(&self, mut chance: Chance) {
        while !self.is_over.load(Ordering::Relaxed) {
            let known: Vec<ServerAddress> = {
                let known = self.topology.description();
                let servers = known.servers().iter();
                servers.map(|server| server.address.clone()).collect()
            };
            let want = Want::any(&mut chance, &known);
            let limit = chance.pick(&[1, 20, 400, 3000, 15_000]);
            if !self
                .select(&want, Duration::from_millis(limit), &mut chance)
                .await
            {
                return;
            }
            sleep(chance.millis(1, 800)).await;
        }
    }

    async fn select(&self, want: &Want, limit: Duration, chance: &mut Chance) -> bool {
        let start = Instant::now();
        let criterion = want.criterion();
        let selecting = self
            .topology
            .select_by(limit, &criterion, &want.deprioritized);
        let outcome = selecting.await;
        // No other task has run since: the outcome is from this snapshot.
        let took = start.elapsed();
        self.selections.fetch_add(1, Ordering::Relaxed);
        self.log.write(format_args!(
            "selected: {} in {took:?} of {limit:?}",
            outcome.is_ok()
        ));
        self.log.require(
            took <= limit + TICK,
            format_args!("{criterion} took {took:?} of {limit:?}"),
        );
        match outcome {
            Ok(selected) => {
                self.check(want, &selected);
                if want.is_write() {
                    self.check_promptness(start);
                    self.operate(&selected, chance).await;
                }
                true
            }
            Err(error) => self.check_error(want, &error),
        }
    }

    fn check(&self, want: &Want, selected: &SelectedServer) {
        let snapshot = self.topology.snapshot();
        let known = snapshot.topology();
        self.observer.check(known);
        let allowed = want.allowed(known, self.heartbeat_frequency);
        let address = selected.address();
        self.log.require(
            allowed.contains(address),
            format_args!("{address} was selected, which is not in {allowed:?}: {want:?} {known:?}"),
        );
        let own = known.server(address);
        self.log.require(
            own.is_some_and(|own| Arc::ptr_eq(own, selected.entry().description())),
            format_args!("{address} was selected, but is not in the snapshot"),
        );
    }

    /// Checks that a waiting selection was served as soon as a server was available.
    fn check_promptness(&self, start: Instant) {
        let since = self.observer.primary_since();
        let waited = since.map(|since| since.max(start).elapsed());
        self.log.require(
            waited.is_some_and(|waited| waited <= TICK),
            format_args!("a primary was there for {waited:?} before it was selected"),
        );
    }

    fn check_error(&self, want: &Want, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::TopologyClosed => {
                self.log
                    .require(self.observer.is_closed(), format_args!("{error}"));
                return false;
            }
            ErrorKind::ServerSelection(_) => {}
            _ => self.log.violation(format_args!("{error}")),
        }
        let known = self.topology.description();
        let allowed = want.allowed(&known, self.heartbeat_frequency);
        self.log.require(
            allowed.is_empty(),
            format_args!("{allowed:?} are suitable for {want:?}, but: {error}"),
        );
        true
    }

    /// Reports the error that a command on the server would give, now or later.
    async fn operate(&self, selected: &SelectedServer, chance: &mut Chance) {
        let address = selected.address();
        let Some(member) = member_at(address) else {
            return self.log.violation(format_args!("{address} is unknown"));
        };
        sleep(Duration::from_millis(1)).await;
        let (standing, version) = self.faults.set.look_at_set(|set| {
            let process = set.process(member);
            let version = TopologyVersion {
                process_id: process.id,
                counter: process.counter,
            };
            (set.standing(member), version)
        });
        let trouble = self.faults.trouble(member);
        let (error, reported) = if trouble.is_down {
            let broken = io::Error::from(io::ErrorKind::ConnectionReset);
            (ErrorKind::Network(Arc::new(broken)).into(), None)
        } else if trouble.is_cut || trouble.is_frozen || standing == Standing::Primary {
            return;
        } else {
            (not_primary(version), Some(version))
        };
        if chance.once_in(2) {
            sleep(chance.millis(1, 2500)).await;
        }
        let before = self.topology.description();
        self.topology.handle_error(ApplicationError::new(
            address.clone(),
            error,
            ErrorPhase::Completed,
        ));
        let known = before.server(address).and_then(|own| own.topology_version);
        if let (Some(known), Some(reported)) = (known, reported)
            && known.process_id == reported.process_id
            && known.counter >= reported.counter
        {
            self.log.require(
                Arc::ptr_eq(&before, &self.topology.description()),
                format_args!("{address}: {reported:?} is no news after {known:?}"),
            );
        }
        self.log
            .write(format_args!("{address}: an error is reported"));
    }
}

/// The error of a server that is not primary for a write.
pub(super) fn not_primary(version: TopologyVersion) -> Error {
    let own = doc! {"processId": version.process_id, "counter": version.counter};
    let reply = doc! {"ok": 0, "code": 10107, "errmsg": "not primary", "topologyVersion": own};
    let reply = RawDocumentBuf::try_from(&reply).expect("a document");
    Error::from(CommandError::new(
        10107,
        "NotWritablePrimary",
        "not primary",
        reply,
    ))
}
