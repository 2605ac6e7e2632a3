//! The sweeps on both pools.

use std::any::TypeId;
use std::marker::PhantomData;
use std::sync::Arc;

use bson::rawdoc;
use mongo_core::error::Wait;
use mongo_core::net::KeyService;
use mongo_core::pools::{ManagerConfig, RecyclingMethod};
use mongo_core::wire::{MsgFlags, Readiness};
use mongo_core::{Connection, Deadline, Error, ErrorKind};
use tokio::time::Instant;

use crate::cut::{BOUND, Cut};
use crate::memory::{Network, PLAIN, SCRAM, keys};
use crate::plain_pool::{Backend, Parts, Status};
use crate::replies::{echo, go_on, message, payload, run, run_in_time};
use crate::tally::Outcome::{self, Clean, Closed, Completed, Drained};
use crate::tally::Tally;

/// Connections in a pool.
pub(crate) const SIZE: usize = 2;

/// A pool on its own network.
pub(crate) struct World<B> {
    pub(crate) network: Network,
    pub(crate) pool: B,
}

impl<B: Backend> World<B> {
    pub(crate) fn new(uri: &str, method: RecyclingMethod, keys: &Arc<KeyService>) -> Self {
        let network = Network::default();
        let mut config = ManagerConfig::new(method);
        config.command_timeout = Some(BOUND);
        config.drain_timeout = Some(BOUND);
        let factory = network.factory(uri, config, keys.clone());
        let pool = B::build(Parts {
            factory,
            max_size: SIZE as u32,
            wait: BOUND,
        });
        Self { network, pool }
    }

    pub(crate) async fn get(&self) -> B::Guard {
        self.pool.get().await.expect("a connection")
    }

    /// Checks that the pool has all its slots and gives out as many connections without a wait, and
    /// that each connection gets its own replies.
    pub(crate) async fn check(&self) {
        let before = Instant::now();
        let mut guards = Vec::new();
        for _ in 0..SIZE {
            guards.push(self.get().await);
        }
        assert_eq!(before.elapsed().as_nanos(), 0, "a slot was gone");
        let full = Status {
            size: SIZE,
            available: 0,
            waiting: 0,
        };
        assert_eq!(self.pool.status(), full);
        let refused = self.pool.try_get().await.expect_err("a slot too many");
        assert_waited(&refused, Wait::WaitQueue);
        for guard in &mut guards {
            assert_eq!(guard.readiness(), Readiness::Idle);
            assert_eq!(go_on(guard).await, Clean);
        }
        drop(guards);
        let idle = Status {
            available: SIZE,
            ..full
        };
        assert_eq!(self.pool.status(), idle);
        assert_eq!(self.network.open(), SIZE);
        self.network.assert_no_faults();
    }
}

pub(crate) fn assert_waited(error: &Error, expected: Wait) {
    match error.kind() {
        ErrorKind::Timeout { wait, .. } => assert_eq!(*wait, expected, "{error}"),
        _ => panic!("{error}"),
    }
}

/// One kind of check-out that is cut short.
struct CheckOut<B> {
    cut: Cut,
    uri: &'static str,
    method: RecyclingMethod,
    backend: PhantomData<B>,
}

impl<B: Backend> CheckOut<B> {
    fn new(cut: Cut, uri: &'static str, method: RecyclingMethod) -> Self {
        Self {
            cut,
            uri,
            method,
            backend: PhantomData,
        }
    }

    /// Ends `get` after each number of polls, on a pool prepared by `prepare`.
    async fn sweep(self, prepare: impl AsyncFn(&World<B>), expected: &[Outcome]) {
        let keys = keys();
        let mut tally = Tally::default();
        for polls in self.cut.polls() {
            let world = World::<B>::new(self.uri, self.method, &keys);
            prepare(&world).await;
            let kept = world.network.open();
            world.network.bytewise(true);
            let ended = self.cut.after(polls, world.pool.get()).await;
            let completed = matches!(ended, Some(Ok(_)));
            if let Some(Err(error)) = &ended {
                assert!(error.is_timeout(), "{error}");
            }
            drop(ended);
            world.network.bytewise(false);
            let closed = world.network.opened() - world.network.open();
            tally.add(match (completed, closed, world.network.unread()) {
                (true, ..) => Completed,
                (false, 1.., _) => Closed,
                (false, 0, 1..) if kept > 0 => Drained,
                (false, 0, _) => Clean,
            });
            world.check().await;
            if completed {
                return tally.assert(expected);
            }
        }
        panic!("the check-out never ended");
    }
}

/// Ends `operation` on a checked-out connection after each number of polls, `times` in a row.
async fn sweep_guard<B: Backend>(
    cut: Cut,
    times: usize,
    operation: impl AsyncFn(&mut Connection) -> Result<(), Error>,
    expected: &[Outcome],
) {
    let keys = keys();
    let mut tally = Tally::default();
    for polls in cut.polls() {
        let world = World::<B>::new(PLAIN, RecyclingMethod::Fast, &keys);
        let mut guard = world.get().await;
        let id = guard.id();
        let mut completed = true;
        for _ in 0..times {
            world.network.bytewise(true);
            let ended = cut.after(polls, operation(&mut guard)).await;
            world.network.bytewise(false);
            completed &= matches!(ended, Some(Ok(())));
        }
        let readiness = guard.readiness();
        drop(guard);
        let outcome = match readiness {
            Readiness::Idle => Clean,
            Readiness::Owed => Drained,
            Readiness::Closed(_) => Closed,
        };
        // An unusable connection frees its slot at once. A usable one is returned.
        let left = usize::from(outcome != Closed);
        assert_eq!(world.network.open(), left);
        assert_eq!(world.pool.status().size, left);
        let guard = world.get().await;
        assert_eq!(guard.id() == id, outcome != Closed);
        drop(guard);
        tally.add(if completed { Completed } else { outcome });
        world.check().await;
        if completed {
            return tally.assert(expected);
        }
    }
    panic!("the operation never ended");
}

/// Whether a connection being checked outlives a dropped check-out.
fn outlives<B: Backend>() -> bool {
    TypeId::of::<B>() == TypeId::of::<mongo_bb8::Pool>()
}

async fn nothing<B>(_: &World<B>) {}

/// Leaves an idle connection.
async fn warm<B: Backend>(world: &World<B>) {
    drop(world.get().await);
}

/// Leaves an idle connection that owes a reply.
async fn owe<B: Backend>(world: &World<B>) {
    let mut guard = world.get().await;
    world.network.mute(true);
    let ended = Cut::Drop.after(1, run(&mut guard)).await;
    assert!(ended.is_none());
    assert_eq!(guard.readiness(), Readiness::Owed);
    drop(guard);
    world.network.mute(false);
    assert_eq!((world.network.open(), world.pool.status().size), (1, 1));
}

/// The attempt outlives the check-out.
async fn establish_dropped<B: Backend>() {
    let check_out = CheckOut::<B>::new(Cut::Drop, SCRAM, RecyclingMethod::Fast);
    check_out.sweep(nothing, &[Clean, Completed]).await;
}

async fn establish_timed_out<B: Backend>() {
    let check_out = CheckOut::<B>::new(Cut::TimeOut, SCRAM, RecyclingMethod::Fast);
    check_out.sweep(nothing, &[Clean, Completed]).await;
}

async fn verified_dropped<B: Backend>() {
    let check_out = CheckOut::<B>::new(Cut::Drop, PLAIN, RecyclingMethod::Verified);
    // deadpool drops the connection that it was checking; bb8 puts it back if possible.
    let expected: &[_] = match outlives::<B>() {
        true => &[Clean, Drained, Closed, Completed],
        false => &[Clean, Closed, Completed],
    };
    check_out.sweep(warm, expected).await;
}

async fn verified_timed_out<B: Backend>() {
    let check_out = CheckOut::<B>::new(Cut::TimeOut, PLAIN, RecyclingMethod::Verified);
    check_out.sweep(warm, &[Closed, Completed]).await;
}

async fn draining_dropped<B: Backend>() {
    let check_out = CheckOut::<B>::new(Cut::Drop, PLAIN, RecyclingMethod::Fast);
    let expected: &[_] = match outlives::<B>() {
        true => &[Drained, Completed],
        false => &[Drained, Closed, Completed],
    };
    check_out.sweep(owe, expected).await;
}

async fn draining_timed_out<B: Backend>() {
    let check_out = CheckOut::<B>::new(Cut::TimeOut, PLAIN, RecyclingMethod::Fast);
    check_out.sweep(owe, &[Closed, Completed]).await;
}

async fn run_command_dropped<B: Backend>() {
    let expected = [Clean, Drained, Closed, Completed];
    sweep_guard::<B>(Cut::Drop, 1, run, &expected).await;
}

async fn run_command_dropped_twice<B: Backend>() {
    let expected = [Clean, Drained, Closed, Completed];
    sweep_guard::<B>(Cut::Drop, 2, run, &expected).await;
}

async fn run_command_timed_out<B: Backend>() {
    let expected = [Drained, Closed, Completed];
    sweep_guard::<B>(Cut::TimeOut, 1, run, &expected).await;
}

async fn run_command_by_dropped<B: Backend>() {
    let expected = [Clean, Drained, Closed, Completed];
    sweep_guard::<B>(Cut::Drop, 1, run_in_time, &expected).await;
}

async fn run_command_by_timed_out<B: Backend>() {
    let expected = [Drained, Closed, Completed];
    sweep_guard::<B>(Cut::TimeOut, 1, run_in_time, &expected).await;
}

/// Sends a raw message, whose reply may be received or not.
async fn send(connection: &mut Connection) -> Result<(), Error> {
    let message = message(1, MsgFlags::NONE, &echo(&payload()));
    connection.send(&message, Deadline::never()).await
}

async fn send_dropped<B: Backend>() {
    sweep_guard::<B>(Cut::Drop, 1, send, &[Clean, Closed, Completed]).await;
}

async fn receive_dropped<B: Backend>() {
    let operation = async |connection: &mut Connection| {
        send(connection).await?;
        connection.receive(Deadline::never()).await.map(drop)
    };
    let expected = [Clean, Drained, Closed, Completed];
    sweep_guard::<B>(Cut::Drop, 1, operation, &expected).await;
}

/// A stream that was abandoned before its first reply looks like any owed reply at check-in.
async fn an_abandoned_stream_is_not_handed_out<B: Backend>() {
    let world = World::<B>::new(PLAIN, RecyclingMethod::Fast, &keys());
    let mut guard = world.get().await;
    let id = guard.id();
    let command = rawdoc! { "stream": ["a", "b"] };
    let message = message(1, MsgFlags::EXHAUST_ALLOWED, &command);
    guard.send(&message, BOUND).await.expect("sent");
    drop(guard);
    let guard = world.get().await;
    assert_eq!(guard.readiness(), Readiness::Idle);
    assert_ne!(guard.id(), id);
    drop(guard);
    world.check().await;
}

on_both!(
    run by crate::cut::block_on:
    an_abandoned_stream_is_not_handed_out,
    establish_dropped,
    establish_timed_out,
    verified_dropped,
    verified_timed_out,
    draining_dropped,
    draining_timed_out,
    run_command_dropped,
    run_command_dropped_twice,
    run_command_timed_out,
    run_command_by_dropped,
    run_command_by_timed_out,
    send_dropped,
    receive_dropped,
);
