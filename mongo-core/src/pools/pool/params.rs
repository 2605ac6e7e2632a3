//! The parameters of a pool.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::connections::ConnectionSet;
use super::counters::Counters;
use super::shared_queue::SharedQueue;
use super::wait_queue::{Limits, PoolState};
use super::{PoolInner, Wake};
use crate::ServerAddress;
use crate::error::Wait;
use crate::event::EventHandlers;
use crate::handshake::ServerApi;
use crate::net::{
    Authenticator, Compression, Establisher, Generations, Metadata, OnConnect, TopologyShared,
    Transport,
};
use crate::operation::ClientContext;
use crate::pools::config::RecyclingMethod;
use crate::pools::server_cap::ServerCap;

/// The configuration that all pools of a client share.
#[derive(Clone)]
pub(in crate::pools) struct FactoryConfig {
    pub(in crate::pools) transport: Transport,
    pub(in crate::pools) metadata: Metadata,
    pub(in crate::pools) server_api: Option<ServerApi>,
    pub(in crate::pools) connect_timeout: Option<Duration>,
    pub(in crate::pools) command_timeout: Option<Duration>,
    pub(in crate::pools) drain_timeout: Duration,
    pub(in crate::pools) retries_writes: bool,
    pub(in crate::pools) recycling_method: RecyclingMethod,
    pub(in crate::pools) max_idle_time: Option<Duration>,
    pub(in crate::pools) max_lifetime: Option<Duration>,
    /// Whether the idle time of connections is compared with any bound.
    pub(in crate::pools) times_idleness: Arc<AtomicBool>,
    pub(in crate::pools) replica_set: Option<Arc<str>>,
    pub(in crate::pools) compression: Compression,
    pub(in crate::pools) events: EventHandlers,
    pub(in crate::pools) on_connect: Option<OnConnect>,
    /// The operations of pools that have no tenant.
    pub(in crate::pools) client: Arc<ClientContext>,
}

/// The parameters of a single pool.
pub(in crate::pools) struct PoolParams {
    pub(in crate::pools) server: ServerAddress,
    pub(in crate::pools) authenticator: Arc<Authenticator>,
    /// Whether the server is a load balancer.
    pub(in crate::pools) load_balanced: bool,
    pub(in crate::pools) state: PoolState,
    pub(in crate::pools) limits: Limits,
    pub(in crate::pools) cap: Option<Arc<ServerCap>>,
    pub(in crate::pools) takes_writes: Arc<AtomicBool>,
    pub(in crate::pools) topology: Option<Arc<TopologyShared>>,
    /// The operations of the pool's tenant, if it has one.
    pub(in crate::pools) client: Option<Arc<ClientContext>>,
    pub(in crate::pools) wake: Option<Wake>,
    /// The runtime of attempts, if the application named one.
    pub(in crate::pools) runtime: Option<Handle>,
}

impl PoolParams {
    /// The parameters of a pool without a registry, whose size its backend limits.
    pub(in crate::pools) fn alone(
        server: ServerAddress,
        authenticator: Authenticator,
        load_balanced: bool,
    ) -> Self {
        Self {
            server,
            authenticator: Arc::new(authenticator),
            load_balanced,
            state: PoolState::Ready,
            limits: Limits::default(),
            cap: None,
            takes_writes: Arc::new(AtomicBool::new(true)),
            topology: None,
            client: None,
            wake: None,
            runtime: None,
        }
    }
}

impl FactoryConfig {
    /// Builds the state of one pool.
    pub(in crate::pools) fn shared(&self, params: PoolParams) -> Arc<PoolInner> {
        Arc::new_cyclic(|this: &Weak<PoolInner>| PoolInner {
            establisher: Establisher {
                transport: self.transport.clone(),
                authenticator: params.authenticator,
                server: params.server,
                metadata: self.metadata.clone(),
                server_api: self.server_api,
                connect_timeout: self.connect_timeout,
                command_timeout: self.command_timeout,
                drain_timeout: self.drain_timeout,
                retries_writes: self.retries_writes,
                times_idleness: self.times_idleness.clone(),
                load_balanced: params.load_balanced,
                replica_set: self.replica_set.clone(),
                compression: self.compression.clone(),
                events: self.events.clone(),
                on_connect: self.on_connect.clone(),
                generations: Generations::default(),
                phase: Mutex::new(Wait::Connect),
            },
            recycling_method: self.recycling_method,
            max_idle_time: self.max_idle_time,
            max_lifetime: self.max_lifetime,
            next_id: AtomicU64::new(1),
            last_failure: Mutex::default(),
            cleared_for: Mutex::default(),
            queue: SharedQueue::new(params.state, params.limits),
            idle_source: OnceLock::new(),
            runtime: params.runtime,
            tasks: Arc::default(),
            cap: params.cap.map(|cap| cap.join(this.clone())),
            takes_writes: params.takes_writes,
            // Nothing would make a pool ready again that began ready.
            clears_itself: params.topology.is_none() && params.state == PoolState::Paused,
            topology: params.topology,
            client: params.client.unwrap_or_else(|| self.client.clone()),
            links: ConnectionSet::default(),
            counters: Counters::default(),
            is_announced: AtomicBool::new(false),
            is_settled: AtomicBool::new(false),
            recheck: Notify::new(),
            reaper: OnceLock::new(),
            wake: params.wake,
            this: this.clone(),
        })
    }

    pub(in crate::pools) fn has_idle_bounds(&self) -> bool {
        self.max_idle_time.is_some() || self.max_lifetime.is_some()
    }
}
