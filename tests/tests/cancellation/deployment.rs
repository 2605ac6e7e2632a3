//! The sweeps on the pools of a deployment: check-outs and operations on credentials.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use mongo_core::auth::{AuthMechanism, Credential};
use mongo_core::net::KeyService;
use mongo_core::pools::{
    Backend, ManagerConfig, PoolStatus, PooledConnection, Pools, PoolsConfig, RecyclingMethod,
};
use mongo_core::select::Criterion;
use mongo_core::wire::Readiness;
use mongo_core::{ClientOptions, Error, ErrorKind};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::cut::{BOUND, Cut, poll_once};
use crate::memory::{Network, keys};
use crate::replies::go_on;
use crate::tally::Outcome::{self, Clean, Closed, Completed};
use crate::tally::Tally;

/// Connections in a pool, and to the server.
const SIZE: usize = 2;
/// Bytes that move at a time. The sweeps of a single pool move one byte at a time.
const PIECE: usize = 64;
/// The monitor's connection.
const MONITOR: usize = 1;
const URI: &str = "mongodb://memory/?directConnection=true&maxPoolSize=2&minPoolSize=";

/// Pools on their own network, and a handle for a credential. The cap on the server equals the size
/// of one pool, so that every credential notices a lost slot.
struct World<B: Backend> {
    network: Network,
    own: Pools<B>,
    tenant: Pools<B>,
}

impl<B: Backend<Config: Default>> World<B> {
    async fn new(sweep: &Sweep, keys: &Arc<KeyService>) -> Self {
        let network = Network::default();
        let options = ClientOptions::parse(&format!("{URI}{}", sweep.min_size));
        let config = PoolsConfig::default()
            .with_wait_timeout(BOUND)
            .with_close_timeout(BOUND)
            .with_max_connections_per_server(SIZE as u32);
        let own = Pools::builder(options.expect("a connection string"))
            .config(config)
            .manager_config(ManagerConfig::new(sweep.method))
            .connector(Arc::new(network.clone()))
            .keys(keys.clone())
            .build()
            .expect("pools");
        let tenant = own.with_credential(user("app")).expect("a handle");
        own.connect().expect("connected");
        let is_known = || {
            let known = own.topology().snapshot();
            let suitable = known.suitable(&Criterion::write(), &[]);
            suitable.is_ok_and(|servers| !servers.is_empty())
        };
        while !is_known() {
            sleep(Duration::from_millis(1)).await;
        }
        Self {
            network,
            own,
            tenant,
        }
    }

    /// Waits until the operations of cancelled callers have ended.
    async fn settle(&self) {
        sleep(Duration::from_millis(100)).await;
    }

    /// Checks that every credential can check out all connections without a wait, that each
    /// connection gets its own replies, and that those of another credential make room.
    async fn check(&self) {
        self.settle().await;
        for user_name in ["app", "other"] {
            let pools = self.own.with_credential(user(user_name)).expect("a handle");
            let before = Instant::now();
            let mut guards = Vec::new();
            for _ in 0..SIZE {
                guards.push(pools.get().await.expect("a connection"));
            }
            assert!(before.elapsed().is_zero(), "a slot was gone");
            let status = status_of(&pools, user_name);
            assert_eq!(counts(&status), (SIZE, 0, SIZE, 0, 0), "{status:?}");
            for guard in &mut guards {
                assert_eq!(guard.user(), Some(user_name));
                assert_eq!(guard.readiness(), Readiness::Idle);
                assert_eq!(go_on(guard).await, Clean);
            }
            drop(guards);
            let status = status_of(&pools, user_name);
            assert_eq!(counts(&status), (SIZE, SIZE, 0, 0, 0), "{status:?}");
            assert_eq!(self.network.open(), SIZE + MONITOR);
        }
        self.network.assert_no_faults();
        self.own.close().await;
        assert_eq!(self.network.open(), 0);
    }
}

/// Size, idle, in use, pending, waiting.
fn counts(status: &PoolStatus) -> (usize, usize, usize, usize, usize) {
    let (pending, waiting) = (status.pending, status.waiting);
    (status.size, status.idle, status.in_use, pending, waiting)
}

fn user(name: &str) -> Credential {
    Credential::new(name, "pencil")
        .with_source("admin")
        .with_mechanism(AuthMechanism::ScramSha256)
}

fn status_of<B: Backend>(pools: &Pools<B>, user: &str) -> PoolStatus {
    let mut status = pools.status().into_iter();
    let own = status.find(|pool| pool.user.as_deref() == Some(user));
    own.expect("a pool")
}

/// An operation that is cut short.
struct Sweep {
    cut: Cut,
    method: RecyclingMethod,
    min_size: usize,
}

impl Sweep {
    fn new(cut: Cut) -> Self {
        let (method, min_size) = (RecyclingMethod::Fast, 0);
        Self {
            cut,
            method,
            min_size,
        }
    }

    /// Ends `operation` after each number of polls, on pools prepared by `prepare`.
    async fn run<B: Backend<Config: Default>, T>(
        self,
        prepare: impl AsyncFn(&World<B>) -> T,
        operation: impl AsyncFn(&World<B>, T) -> Result<(), Error>,
        after: impl AsyncFn(&World<B>),
        expected: &[Outcome],
    ) {
        let keys = keys();
        let mut tally = Tally::default();
        for polls in self.cut.polls() {
            let world = World::<B>::new(&self, &keys).await;
            let prepared = prepare(&world).await;
            world.network.in_pieces(Some(PIECE));
            let before = world.network.opened() - world.network.open();
            let ended = self.cut.after(polls, operation(&world, prepared)).await;
            let is_over = matches!(ended, Some(Ok(())));
            if let Some(Err(error)) = &ended {
                assert!(error.is_timeout(), "{error}");
            }
            world.network.in_pieces(None);
            let closed = world.network.opened() - world.network.open() - before;
            // An owed reply counts as clean: the next check-out drains it.
            tally.add(match (is_over, closed) {
                (true, _) => Completed,
                (false, 0) => Clean,
                (false, 1..) => Closed,
            });
            after(&world).await;
            if is_over {
                return tally.assert(expected);
            }
        }
        panic!("the operation never ended");
    }
}

async fn nothing<B: Backend>(_: &World<B>) {}

/// Leaves an idle connection.
async fn warm<B: Backend<Config: Default>>(world: &World<B>) {
    drop(world.tenant.get().await.expect("a connection"));
    // So that it is older than the next waiter.
    sleep(Duration::from_millis(1)).await;
}

/// Other credentials have all connections, all of them idle.
async fn crowded<B: Backend<Config: Default>>(world: &World<B>) {
    let other = world.own.with_credential(user("other")).expect("a handle");
    let _held = [other.get().await, other.get().await];
}

async fn get<B: Backend>(world: &World<B>, (): ()) -> Result<(), Error> {
    world.tenant.get_with(&Criterion::write()).await.map(drop)
}

async fn check<B: Backend<Config: Default>>(world: &World<B>) {
    world.check().await;
}

/// The outcomes of a sweep over a connection attempt: the attempt outlives its caller.
const MAKING: &[Outcome] = &[Clean, Completed];

async fn get_dropped<B: Backend<Config: Default>>() {
    let sweep = Sweep::new(Cut::Drop);
    sweep.run::<B, _>(nothing, get, check, MAKING).await;
}

async fn get_timed_out<B: Backend<Config: Default>>() {
    let sweep = Sweep::new(Cut::TimeOut);
    sweep.run::<B, _>(nothing, get, check, MAKING).await;
}

async fn get_of_a_checked_connection_dropped<B: Backend<Config: Default>>() {
    let sweep = Sweep {
        method: RecyclingMethod::Verified,
        ..Sweep::new(Cut::Drop)
    };
    sweep
        .run::<B, _>(warm, get, check, &[Clean, Closed, Completed])
        .await;
}

async fn get_on_a_full_server_dropped<B: Backend<Config: Default>>() {
    let sweep = Sweep::new(Cut::Drop);
    sweep
        .run::<B, _>(crowded, get, check, &[Clean, Closed, Completed])
        .await;
}

async fn get_with_a_new_credential_dropped<B: Backend<Config: Default>>() {
    let operation = async |world: &World<B>, (): ()| {
        let tenant = world.own.with_credential(user("new"))?;
        tenant.get().await.map(drop)
    };
    let sweep = Sweep::new(Cut::Drop);
    sweep.run::<B, _>(nothing, operation, check, MAKING).await;
}

async fn verify<B: Backend<Config: Default>>(world: &World<B>, (): ()) -> Result<(), Error> {
    world.tenant.verify().await
}

async fn verify_dropped<B: Backend<Config: Default>>() {
    let sweep = Sweep::new(Cut::Drop);
    sweep.run::<B, _>(nothing, verify, check, MAKING).await;
}

async fn verify_anew_dropped<B: Backend<Config: Default>>() {
    let sweep = Sweep::new(Cut::Drop);
    sweep
        .run::<B, _>(warm, verify, check, &[Clean, Closed, Completed])
        .await;
}

async fn verify_anew_timed_out<B: Backend<Config: Default>>() {
    let sweep = Sweep::new(Cut::TimeOut);
    sweep
        .run::<B, _>(warm, verify, check, &[Clean, Closed, Completed])
        .await;
}

async fn warm_up<B: Backend<Config: Default>>(world: &World<B>, (): ()) -> Result<(), Error> {
    world.tenant.warm_up().await
}

async fn warm_up_dropped<B: Backend<Config: Default>>() {
    let sweep = Sweep {
        min_size: SIZE,
        ..Sweep::new(Cut::Drop)
    };
    sweep.run::<B, _>(nothing, warm_up, check, MAKING).await;
}

async fn warm_up_timed_out<B: Backend<Config: Default>>() {
    let sweep = Sweep {
        min_size: SIZE,
        ..Sweep::new(Cut::TimeOut)
    };
    sweep.run::<B, _>(nothing, warm_up, check, MAKING).await;
}

/// A connection in use, beside an idle one.
async fn used<B: Backend<Config: Default>>(world: &World<B>) -> PooledConnection<B> {
    let (used, _idle) = (world.tenant.get().await, world.tenant.get().await);
    used.expect("a connection")
}

async fn rotate_dropped<B: Backend<Config: Default>>() {
    let operation = async |world: &World<B>, mut used: PooledConnection<B>| {
        world.tenant.rotate(user("new"))?;
        let new = world.tenant.get().await?;
        assert_eq!(new.user(), Some("new"));
        assert_eq!(go_on(&mut used).await, Clean);
        Ok(())
    };
    let sweep = Sweep::new(Cut::Drop);
    sweep
        .run::<B, _>(used, operation, check, &[Clean, Closed, Completed])
        .await;
}

/// Completes once the connection in use is returned, after a few polls.
async fn draining<B: Backend>(ending: impl Future<Output = ()>, used: PooledConnection<B>) {
    let mut ending = pin!(ending);
    for _ in 0..4 {
        assert!(poll_once(ending.as_mut()).await.is_pending());
        yield_now().await;
    }
    drop(used);
    ending.await;
}

async fn logout_dropped<B: Backend<Config: Default>>() {
    let operation = async |world: &World<B>, used: PooledConnection<B>| {
        draining(world.tenant.logout(), used).await;
        Ok(())
    };
    let after = async |world: &World<B>| {
        world.settle().await;
        // The operation either has not begun, or is done.
        match world.tenant.get().await {
            Ok(connection) => drop(connection),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::PoolClosed), "{error}");
                assert_eq!(world.own.status(), []);
                assert_eq!(world.network.open(), MONITOR);
            }
        }
        world.check().await;
    };
    let sweep = Sweep::new(Cut::Drop);
    sweep
        .run::<B, _>(used, operation, after, &[Clean, Closed, Completed])
        .await;
}

async fn close_dropped<B: Backend<Config: Default>>() {
    let operation = async |world: &World<B>, used: PooledConnection<B>| {
        draining(world.own.close(), used).await;
        Ok(())
    };
    let after = async |world: &World<B>| {
        world.settle().await;
        if !world.own.is_closed() {
            return world.check().await;
        }
        assert_eq!(world.own.status(), []);
        // The monitors end with the topology, which closes last.
        assert!(world.network.open() <= MONITOR);
        let refused = world.tenant.get().await.expect_err("closed");
        assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
        world.own.close().await;
        assert_eq!(world.network.open(), 0);
    };
    let sweep = Sweep::new(Cut::Drop);
    sweep
        .run::<B, _>(used, operation, after, &[Clean, Closed, Completed])
        .await;
}

on_both!(
    run by crate::cut::block_on:
    get_dropped,
    get_timed_out,
    get_of_a_checked_connection_dropped,
    get_on_a_full_server_dropped,
    get_with_a_new_credential_dropped,
    verify_dropped,
    verify_anew_dropped,
    verify_anew_timed_out,
    warm_up_dropped,
    warm_up_timed_out,
    rotate_dropped,
    logout_dropped,
    close_dropped,
);
