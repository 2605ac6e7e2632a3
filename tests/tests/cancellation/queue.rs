//! Callers that wait for a slot and are cancelled.

use std::pin::pin;
use std::time::Duration;

use mongo_core::error::Wait;
use mongo_core::pools::{ManagerConfig, RecyclingMethod};
use tokio::time::sleep;

use crate::cut::{Cut, block_on, poll_once};
use crate::memory::{Network, PLAIN, keys};
use crate::plain_pool::Backend;
use crate::pools::{SIZE, World, assert_waited};

async fn full<B: Backend>() -> (World<B>, Vec<B::Guard>) {
    let world = World::<B>::new(PLAIN, RecyclingMethod::Fast, &keys());
    let mut guards = Vec::new();
    for _ in 0..SIZE {
        guards.push(world.get().await);
    }
    (world, guards)
}

/// A dropped waiter leaves the queue, whether or not it was already served.
async fn a_waiter_dropped<B: Backend>() {
    for polls in 0..6 {
        for release_first in [false, true] {
            let (world, mut guards) = full::<B>().await;
            {
                let mut waiter = pin!(world.pool.get());
                for _ in 0..polls {
                    assert!(poll_once(waiter.as_mut()).await.is_pending());
                }
                assert_eq!(world.pool.status().waiting, usize::from(polls > 0));
                if release_first {
                    guards.pop();
                }
            }
            assert_eq!(world.pool.status().waiting, 0);
            drop(guards);
            world.check().await;
        }
    }
}

/// The waiter behind a dropped one gets the slot instead.
async fn the_next_waiter_gets_the_slot<B: Backend>() {
    let (world, mut guards) = full::<B>().await;
    let mut next = pin!(world.pool.get());
    {
        let mut first = pin!(world.pool.get());
        assert!(poll_once(first.as_mut()).await.is_pending());
        assert!(poll_once(next.as_mut()).await.is_pending());
        guards.pop();
    }
    let got = next.await.expect("a connection");
    drop((got, guards));
    world.check().await;
}

async fn a_waiter_timed_out<B: Backend>() {
    for polls in 0..6 {
        let (world, guards) = full::<B>().await;
        let ended = Cut::TimeOut.after(polls, world.pool.get()).await;
        let error = ended.expect("over").expect_err("no slot");
        assert_waited(&error, Wait::WaitQueue);
        assert_eq!(world.pool.status().waiting, 0);
        drop(guards);
        world.check().await;
    }
}

/// bb8 continues to make a connection whose caller was dropped. It must not outlive the pool.
#[test]
fn bb8_connections_for_dropped_callers_close_with_the_pool() {
    block_on(async {
        let network = Network::default();
        let factory = network.factory(PLAIN, ManagerConfig::default(), keys());
        let builder = mongo_bb8::Pool::builder().max_size(1);
        let pool = mongo_bb8::Pool::build(builder, factory.into()).expect("a pool");
        network.mute(true);
        let ended = Cut::Drop.after(5, pool.get()).await;
        assert!(ended.is_none());
        assert_eq!(network.open(), 1, "on its way");
        pool.close();
        network.mute(false);
        sleep(Duration::from_secs(1)).await;
        assert_eq!((network.open(), pool.status().size), (0, 0));
    });
}

on_both!(
    run by crate::cut::block_on:
    a_waiter_dropped,
    the_next_waiter_gets_the_slot,
    a_waiter_timed_out,
);
