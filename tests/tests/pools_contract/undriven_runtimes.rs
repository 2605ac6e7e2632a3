//! Callers and attempts on runtimes that are not driven, or have ended.

use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::error::{ClosedReason, ErrorKind};
use mongo_core::pools::{Backend, ServerPool};
use mongo_core::{Deadline, Error};
use mongo_testkit::{Action, Gate};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Elsewhere, LIMIT, begin, builder, driven_runtime, handshake, hold};

on_both! {
    on runtimes of their own:
    an_attempt_on_an_undriven_runtime_blocks_no_other_caller,
    a_connection_of_an_ended_runtime_serves_no_waiter,
    an_undriven_runtime_does_not_block_pools,
    an_undriven_runtime_does_not_block_pools_without_a_named_runtime,
    a_check_out_that_moves_to_a_live_runtime_gets_its_connection,
    a_caller_of_another_runtime_survives_the_end_of_the_attempts_runtime,
}

/// A server pool whose server holds back handshakes by a gate.
fn gated<B: Backend<Config: Default>>(world: &Elsewhere, options: &str) -> (ServerPool<B>, Gate) {
    let gate = Gate::new();
    let uri = format!("mongodb://{}/?{options}", world.set.address(0));
    let pool = builder::<B>(&uri).build_server_pool().expect("a pool");
    pool.ready();
    let rule = handshake().then(Action::WaitFor(gate.clone()));
    world.set.server(0).script().add(rule);
    (pool, gate)
}

fn an_attempt_on_an_undriven_runtime_blocks_no_other_caller<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(1);
    let here = driven_runtime();
    let (pool, gate) = here.block_on(async { gated::<B>(&world, "maxConnecting=1") });
    let idle = Builder::new_current_thread().enable_all().build();
    let idle = idle.expect("a runtime");
    let late = idle.block_on(async {
        timeout(Duration::from_millis(200), pool.get(Deadline::after(LIMIT))).await
    });
    assert!(late.is_err());
    gate.open();
    // The attempt continues, but nothing drives it.
    let begun = Instant::now();
    let got = here.block_on(async {
        timeout(Duration::from_secs(8), pool.get(Deadline::after(LIMIT))).await
    });
    let waited = begun.elapsed();
    let got = got.unwrap_or_else(|_| panic!("{waited:?}, {:?}", pool.status()));
    drop(got.expect("a connection"));
    drop(idle);
}

fn an_undriven_runtime_does_not_block_pools<B: Backend<Config: Default>>() {
    an_undriven_runtime_blocks_nothing::<B>(true);
}

fn an_undriven_runtime_does_not_block_pools_without_a_named_runtime<B: Backend<Config: Default>>() {
    an_undriven_runtime_blocks_nothing::<B>(false);
}

fn an_undriven_runtime_blocks_nothing<B: Backend<Config: Default>>(names_runtime: bool) {
    let world = Elsewhere::of(1);
    let here = driven_runtime();
    let mut pools = builder::<B>(&format!("{}&maxConnecting=1", world.set.uri()));
    if names_runtime {
        pools = pools.runtime(here.handle().clone());
    }
    let pools = pools.build().expect("pools");
    let held = here.block_on(pools.get()).expect("held");
    let gate = Gate::new();
    let rule = handshake().then(Action::WaitFor(gate.clone()));
    world.set.server(0).script().add(rule);
    let idle = Builder::new_current_thread().enable_all().build();
    let idle = idle.expect("a runtime");
    let late = idle.block_on(async { timeout(Duration::from_millis(200), pools.get()).await });
    assert!(late.is_err());
    gate.open();
    let got = here.block_on(async { timeout(Duration::from_secs(8), pools.get()).await });
    drop(got.expect("in time").expect("a connection"));
    drop((held, idle));
}

fn a_check_out_that_moves_to_a_live_runtime_gets_its_connection<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(1);
    let here = driven_runtime();
    let (pool, gate) = here.block_on(async { gated::<B>(&world, "") });
    let there = driven_runtime();
    let mut get = Box::pin(pool.get(Deadline::after(LIMIT)));
    there
        .block_on(async { timeout(Duration::from_millis(100), &mut get).await })
        .map(drop)
        .expect_err("no answer");
    gate.open();
    drop(there);
    let served = here.block_on(async { timeout(LIMIT, get).await });
    drop(served.expect("in time").expect("a connection"));
}

fn a_caller_of_another_runtime_survives_the_end_of_the_attempts_runtime<
    B: Backend<Config: Default>,
>() {
    let world = Elsewhere::of(1);
    let here = driven_runtime();
    let (pool, gate) = here.block_on(async { gated::<B>(&world, "maxConnecting=1") });
    let there = driven_runtime();
    let (first, second) = (pool.clone(), pool.clone());
    let first = there.spawn(async move { first.get(Deadline::after(LIMIT)).await.map(drop) });
    while pool.status().pending == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = here.spawn(async move {
        let ended = |error: &Error| {
            let kind = error.kind();
            matches!(
                kind,
                ErrorKind::ConnectionClosed(ClosedReason::RuntimeEnded)
            )
        };
        loop {
            let mut got = second.get(Deadline::after(LIMIT)).await?;
            match got.run_command("db", &doc! {"ping": 1}).await {
                // It may end between the check-out and the command.
                Err(error) if ended(&error) => {}
                outcome => return outcome.map(drop),
            }
        }
    });
    while pool.status().waiting < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    gate.open();
    drop(there);
    drop(first);
    here.block_on(second).expect("no panic").expect("served");
}

fn a_connection_of_an_ended_runtime_serves_no_waiter<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(1);
    let here = Builder::new_current_thread().enable_all().build();
    let here = here.expect("a runtime");
    let (pool, gate) = here.block_on(async { gated::<B>(&world, "maxConnecting=1") });
    let there = Builder::new_current_thread().enable_all().build();
    let there = there.expect("a runtime");
    let mut first = Box::pin(pool.get(Deadline::after(LIMIT)));
    there
        .block_on(async { timeout(Duration::from_millis(100), &mut first).await })
        .map(drop)
        .expect_err("no answer");
    let mut second = Box::pin(pool.get(Deadline::after(LIMIT)));
    here.block_on(begin(second.as_mut()));
    drop(first);
    gate.open();
    there.block_on(async { sleep(Duration::from_millis(500)).await });
    drop(there);
    let served = here.block_on(async { timeout(LIMIT, second).await });
    let mut served = served.expect("in time").expect("a connection");
    let ran = here.block_on(async { served.run_command("db", &doc! {"ping": 1}).await.map(drop) });
    ran.expect("a connection that works");
    drop((served, hold::<B>));
}
