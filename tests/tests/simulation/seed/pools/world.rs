//! State that all actors on the pools share.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mongo_core::event::{CommandEvent, EventHandlers};
use mongo_core::net::Topology;
use mongo_core::pools::Backend;
use mongo_core::sdam::{SdamError, ServerType, TopologyDescription};
use mongo_core::{Connection, ServerAddress};

use super::ledger::Ledger;
use super::seats::Seat;
use super::shocks::Shocks;
use crate::seed::log::Log;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Trouble,
    Calm,
    Over,
}

/// State that all actors share.
pub(super) struct World<B: Backend> {
    pub(super) log: Log,
    pub(super) topology: Topology,
    /// Empty once the last handles are dropped.
    pub(super) seats: Vec<Seat<B>>,
    pub(super) ledger: Option<Arc<Ledger>>,
    pub(super) shocks: Arc<Shocks>,
    pub(super) heartbeat_frequency: Duration,
    pub(super) phase: AtomicU8,
    pub(super) number: AtomicI64,
    pub(super) asked: AtomicU64,
    /// The writes that must not arrive anywhere.
    pub(super) forbidden: Mutex<Vec<i64>>,
}

impl<B: Backend> World<B> {
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Trouble,
            1 => Phase::Calm,
            _ => Phase::Over,
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.log.write(format_args!("{phase:?}"));
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn known_servers(&self) -> Vec<ServerAddress> {
        let known = self.topology.description();
        let servers = known.servers().iter();
        servers.map(|server| server.address.clone()).collect()
    }

    pub(super) fn may_take_writes(&self, address: &ServerAddress) -> bool {
        may_take_writes(&self.topology.description(), address)
    }

    pub(super) fn next_number(&self) -> i64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn forbid(&self, number: i64) {
        let mut forbidden = self
            .forbidden
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        forbidden.push(number);
    }

    pub(super) fn forbidden(&self) -> Vec<i64> {
        let forbidden = self.forbidden.lock();
        forbidden.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn detached(&self, connection: &Connection) {
        if let Some(ledger) = &self.ledger {
            ledger.detached(connection);
        }
    }
}

/// Whether a former primary may still be primary, as far as is known: it may if there is no other
/// one and it is only unreachable.
fn may_take_writes(known: &TopologyDescription, address: &ServerAddress) -> bool {
    let Some(server) = known.server(address) else {
        return false;
    };
    match &server.error {
        _ if server.server_type == ServerType::RsPrimary => true,
        Some(SdamError::Failed(error)) => {
            server.server_type == ServerType::Unknown
                && known.primary().is_none()
                && error.command().is_none()
        }
        Some(_) | None => false,
    }
}

/// A handler that checks that no write begins on a server that is known not to be primary.
pub(super) fn no_write_to_others(
    topology: &Topology,
    log: &Log,
    shocks: &Arc<Shocks>,
) -> EventHandlers {
    let (topology, log, shocks) = (topology.clone(), log.clone(), shocks.clone());
    EventHandlers::new().on_command(move |event| {
        if let CommandEvent::Started(event) = event
            && &*event.command_name == "insert"
        {
            let known = topology.description();
            let server = known.server(&event.address);
            log.require(
                may_take_writes(&known, &event.address),
                format_args!("a write is sent to {}, {server:?}", event.address),
            );
        }
        shocks.may_panic(100);
    })
}
