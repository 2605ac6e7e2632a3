//! Sees each event of the pools, tracks their connections, and checks the invariants.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mongo_core::event::CmapEvent;
use mongo_core::pools::PoolState;
use mongo_core::{Connection, ServerAddress};

use super::super::log::Log;
use super::super::wire::Ends;
use super::plan::Sizes;

/// A pool, by its server and its user. A closed pool may have a successor of the same name while
/// its connections are still in use.
type Name = (ServerAddress, Arc<str>);

pub(super) struct Ledger {
    log: Log,
    sizes: Sizes,
    ends: Ends,
    /// The number of running verifications. Each may make a connection that belongs to no pool.
    pub(super) verifying: AtomicUsize,
    /// The number of running warm-ups. Each may check a connection of each pool.
    pub(super) warming: AtomicUsize,
    accounts: Mutex<BTreeMap<Name, Account>>,
}

#[derive(Default)]
struct Account {
    /// Check-outs in progress.
    asked: usize,
    /// Oldest first.
    pools: Vec<Pool>,
}

struct Pool {
    state: PoolState,
    clears: u64,
    last_id: u64,
    connections: BTreeMap<u64, Entry>,
}

struct Entry {
    server_id: Option<i64>,
    /// How often its pool had been cleared when its attempt began.
    clears: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pending,
    Idle,
    InUse,
    Detached,
}

/// The state of a server's newest pool.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    pub(super) asked: usize,
    pub(super) size: usize,
    pub(super) pending: usize,
    pub(super) in_use: usize,
}

impl Ledger {
    pub(super) fn new(log: Log, sizes: Sizes, ends: Ends) -> Arc<Self> {
        Arc::new(Self {
            log,
            sizes,
            ends,
            verifying: AtomicUsize::new(0),
            warming: AtomicUsize::new(0),
            accounts: Mutex::default(),
        })
    }

    pub(super) fn see(&self, event: &CmapEvent) {
        let user = event.user().cloned().unwrap_or_else(|| "".into());
        let name = (event.address().clone(), user);
        let accounts = &mut *self.lock();
        let account = accounts.entry(name.clone()).or_default();
        self.write(&name, event);
        let held = match event {
            CmapEvent::ConnectionCheckOutStarted(_) => {
                account.asked += 1;
                Ok(())
            }
            CmapEvent::ConnectionCheckOutFailed(_) => account.answered(),
            CmapEvent::PoolCreated(_)
            | CmapEvent::PoolReady(_)
            | CmapEvent::PoolCleared(_)
            | CmapEvent::PoolClosed(_) => account.turn(event),
            CmapEvent::ConnectionCreated(event) => {
                account.create(event.driver_connection_id, &self.sizes)
            }
            CmapEvent::ConnectionReady(event) => {
                account.made(event.driver_connection_id, event.server_connection_id)
            }
            CmapEvent::ConnectionCheckedOut(event) => {
                let out = account.check_out(event.driver_connection_id, event.server_connection_id);
                account.answered().and(out)
            }
            CmapEvent::ConnectionCheckedIn(event) => {
                account.check_in(event.driver_connection_id, event.server_connection_id)
            }
            CmapEvent::ConnectionClosed(event) => {
                account.close(event.driver_connection_id, event.server_connection_id)
            }
            _ => Err("an event of no known kind"),
        };
        let held = held.and_then(|()| self.check_cap(accounts, &name.0));
        if let Err(what) = held {
            self.log
                .violation(format_args!("{} {}: {what}, by {event:?}", name.0, name.1));
        }
    }

    fn write(&self, (address, user): &Name, event: &CmapEvent) {
        let kind = match event {
            CmapEvent::PoolCreated(_) => "pool created",
            CmapEvent::PoolReady(_) => "pool ready",
            CmapEvent::PoolCleared(_) => "pool cleared",
            CmapEvent::PoolClosed(_) => "pool closed",
            CmapEvent::ConnectionCreated(_) => "created",
            CmapEvent::ConnectionReady(_) => "ready",
            CmapEvent::ConnectionClosed(_) => "closed",
            CmapEvent::ConnectionCheckOutStarted(_) => "asked",
            CmapEvent::ConnectionCheckOutFailed(_) => "failed",
            CmapEvent::ConnectionCheckedOut(_) => "out",
            CmapEvent::ConnectionCheckedIn(_) => "in",
            _ => "?",
        };
        let id = event.driver_connection_id().unwrap_or_default();
        self.log
            .write(format_args!("{address} {user}: {kind} {id}"));
    }

    /// Checks the cap on the connections to one server, across all credentials, by events and by
    /// sockets.
    fn check_cap(
        &self,
        accounts: &BTreeMap<Name, Account>,
        address: &ServerAddress,
    ) -> Result<(), &'static str> {
        let Some(cap) = self.sizes.cap else {
            return Ok(());
        };
        let own = accounts.iter().filter(|((server, _), _)| server == address);
        let pools = own.flat_map(|(_, account)| &account.pools);
        let total: usize = pools.map(|pool| pool.connections.len()).sum();
        if total > cap {
            return Err("more connections to the server than the cap");
        }
        let verifying = self.verifying.load(Ordering::Relaxed);
        match self.ends.open_to(address) <= cap + verifying {
            true => Ok(()),
            false => Err("more sockets to the server than the cap"),
        }
    }

    /// Records that a guard's connection was detached from its pool. Its only event is the
    /// check-in.
    pub(super) fn detached(&self, connection: &Connection) {
        let user = connection.user().unwrap_or_default().into();
        let name = (connection.server().clone(), user);
        let server_id = connection.description().connection_id;
        let mut accounts = self.lock();
        let account = accounts.entry(name).or_default();
        match account.find(connection.id(), server_id) {
            Some((_, entry)) if entry.stage == Stage::Idle => entry.stage = Stage::Detached,
            _ => self.log.violation(format_args!(
                "{connection:?} was detached and not checked in"
            )),
        }
    }

    /// The newest pool of a server and a user.
    pub(super) fn standing(&self, address: &ServerAddress, user: &Arc<str>) -> Standing {
        let accounts = self.lock();
        let account = accounts.get(&(address.clone(), user.clone()));
        let pool = account.and_then(|account| account.pools.last());
        let of = |stage| pool.map_or(0, |pool| pool.count(|own| own == stage));
        Standing {
            asked: account.map_or(0, |account| account.asked),
            size: pool.map_or(0, |pool| pool.count(|own| own != Stage::Detached)),
            pending: of(Stage::Pending),
            in_use: of(Stage::InUse),
        }
    }

    /// All connections to a server.
    pub(super) fn total(&self, address: &ServerAddress) -> usize {
        let accounts = self.lock();
        let own = accounts.iter().filter(|((server, _), _)| server == address);
        let pools = own.flat_map(|(_, account)| &account.pools);
        pools.map(|pool| pool.connections.len()).sum()
    }

    /// Checks that everything has ended.
    pub(super) fn check_end(&self) {
        for ((address, user), account) in &*self.lock() {
            let left: usize = account
                .pools
                .iter()
                .map(|pool| pool.connections.len())
                .sum();
            let open = account
                .pools
                .iter()
                .any(|pool| pool.state != PoolState::Closed);
            let asked = account.asked;
            self.log.require(
                left == 0 && !open && asked == 0,
                format_args!(
                    "{address} {user}: {left} connections at the end, {asked} asked, {open}"
                ),
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn answered(&mut self) -> Result<(), &'static str> {
        let asked = self.asked.checked_sub(1);
        asked
            .map(|asked| self.asked = asked)
            .ok_or("no check-out has begun")
    }

    fn turn(&mut self, event: &CmapEvent) -> Result<(), &'static str> {
        let newest = self.pools.last_mut();
        if let CmapEvent::PoolCreated(_) = event {
            if newest.is_some_and(|pool| pool.state != PoolState::Closed) {
                return Err("there is such a pool already");
            }
            self.pools.retain(|pool| !pool.connections.is_empty());
            self.pools.push(Pool {
                state: PoolState::Paused,
                clears: 0,
                last_id: 0,
                connections: BTreeMap::new(),
            });
            return Ok(());
        }
        let pool = newest.ok_or("there is no such pool")?;
        pool.state = match (event, pool.state) {
            (CmapEvent::PoolReady(_), PoolState::Paused) => PoolState::Ready,
            (CmapEvent::PoolCleared(_), PoolState::Ready) => PoolState::Paused,
            (CmapEvent::PoolClosed(_), PoolState::Paused | PoolState::Ready) => PoolState::Closed,
            _ => return Err("the pool is not in the state for it"),
        };
        pool.clears += u64::from(matches!(event, CmapEvent::PoolCleared(_)));
        Ok(())
    }

    fn create(&mut self, id: u64, sizes: &Sizes) -> Result<(), &'static str> {
        let pool = self.pools.last_mut().ok_or("there is no such pool")?;
        if pool.state != PoolState::Ready {
            return Err("the pool is not ready");
        }
        if id <= pool.last_id {
            return Err("the number is not new");
        }
        pool.last_id = id;
        let entry = Entry {
            server_id: None,
            clears: pool.clears,
            stage: Stage::Pending,
        };
        pool.connections.insert(id, entry);
        if pool.count(|stage| stage != Stage::Detached) > sizes.max {
            return Err("more connections than maxPoolSize");
        }
        if pool.count(|stage| stage == Stage::Pending) > sizes.max_connecting {
            return Err("more attempts than maxConnecting");
        }
        Ok(())
    }

    fn made(&mut self, id: u64, server_id: Option<i64>) -> Result<(), &'static str> {
        let (_, entry) = self.find(id, None).ok_or("no attempt is making it")?;
        if entry.stage != Stage::Pending {
            return Err("it was ready already");
        }
        entry.stage = Stage::Idle;
        entry.server_id = server_id;
        Ok(())
    }

    fn check_out(&mut self, id: u64, server_id: Option<i64>) -> Result<(), &'static str> {
        let (pool, entry) = self
            .find(id, server_id)
            .ok_or("there is no such connection")?;
        if entry.stage != Stage::Idle {
            return Err("it is not idle");
        }
        entry.stage = Stage::InUse;
        match pool {
            (PoolState::Ready, clears) if clears == entry.clears => Ok(()),
            (PoolState::Ready, _) => Err("it is of a generation that was cleared"),
            (PoolState::Paused, _) => Err("the pool is paused"),
            _ => Err("the pool is closed"),
        }
    }

    fn check_in(&mut self, id: u64, server_id: Option<i64>) -> Result<(), &'static str> {
        let (_, entry) = self
            .find(id, server_id)
            .ok_or("there is no such connection")?;
        if entry.stage != Stage::InUse {
            return Err("it was not in use");
        }
        entry.stage = Stage::Idle;
        Ok(())
    }

    fn close(&mut self, id: u64, server_id: Option<i64>) -> Result<(), &'static str> {
        let (_, entry) = self
            .find(id, server_id)
            .ok_or("there is no such connection")?;
        let was_in_use = entry.stage == Stage::InUse;
        for pool in &mut self.pools {
            let is_it = |entry: &mut Entry| entry.server_id == server_id;
            if pool.connections.get_mut(&id).is_some_and(is_it) {
                pool.connections.remove(&id);
                break;
            }
        }
        match was_in_use {
            true => Err("it was closed while it was in use"),
            false => Ok(()),
        }
    }

    /// A connection, with the state of its pool and how often that was cleared.
    fn find(&mut self, id: u64, server_id: Option<i64>) -> Option<((PoolState, u64), &mut Entry)> {
        self.pools.iter_mut().find_map(|pool| {
            let standing = (pool.state, pool.clears);
            let entry = pool.connections.get_mut(&id);
            let entry = entry.filter(|entry| entry.server_id == server_id);
            entry.map(|entry| (standing, entry))
        })
    }
}

impl Pool {
    fn count(&self, which: impl Fn(Stage) -> bool) -> usize {
        let stages = self.connections.values().map(|entry| entry.stage);
        stages.filter(|stage| which(*stage)).count()
    }
}
