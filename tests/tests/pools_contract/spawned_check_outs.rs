//! Check-outs within an application's nested futures, which must compile, and on runtimes that end
//! before the pools.

use mongo_core::ErrorKind;
use mongo_core::pools::Backend;
use mongo_testkit::Deployment;

use crate::support::{ping, pools};

on_both! {
    pools_outlive_the_runtimes_that_use_them,
}

async fn pools_outlive_the_runtimes_that_use_them<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let pools = pools::<B>(&set.uri());
    pools.connect().expect("within tokio");
    let theirs = pools.clone();
    let worker = tokio::task::spawn_blocking(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        runtime.block_on(ping(&theirs)).expect("a pong");
    });
    worker.await.expect("no panic");
    // The connections of the ended runtime are no failure.
    pools.close().await;
    set.shutdown().await;
}

async fn spawned<F: Future<Output: Send> + Send + 'static>(task: F) -> F::Output {
    tokio::spawn(task).await.expect("no panic")
}

/// For concrete types instead of `B: Backend`: only then does the compiler see the type of the
/// future.
macro_rules! spawns {
    ($name:ident, $backend:ident) => {
        #[tokio::test]
        async fn $name() {
            let pools = $backend::Pools::new("mongodb://127.0.0.1:1").expect("pools");
            pools.close().await;
            let outcome = spawned(async move {
                let handler = async move { pools.get().await };
                let service = async move { Box::pin(handler).await };
                let layer =
                    async move { tokio::time::timeout(crate::support::LIMIT, service).await };
                async move { Box::pin(layer).await }.await
            });
            let outcome = outcome.await.expect("in time");
            let error = outcome.expect_err("they are closed");
            assert!(matches!(error.kind(), ErrorKind::PoolClosed), "{error}");
        }
    };
}

spawns!(a_check_out_of_deadpool_can_be_spawned, mongo_deadpool);
spawns!(a_check_out_of_bb8_can_be_spawned, mongo_bb8);
