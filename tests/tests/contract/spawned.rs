//! A check-out deep in an application's futures, in a task of its own: that it compiles at all.

use mongo_core::ErrorKind;

async fn spawned<F: Future<Output: Send> + Send + 'static>(task: F) -> F::Output {
    tokio::spawn(task).await.expect("no panic")
}

/// For a type that is named, and not for `B: Backend`: a future's own type is seen only then.
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
