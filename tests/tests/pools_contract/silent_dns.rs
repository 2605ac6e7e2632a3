//! Hosts whose names are never resolved.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::error::{ErrorKind, Wait};
use mongo_core::event::SdamEvent;
use mongo_core::net::{Connector, SocketConnector, Stream};
use mongo_core::pools::{Backend, Pools};
use mongo_core::{Deadline, Error, ServerAddress};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::support::{LIMIT, builder};

on_both! {
    on runtimes of their own:
    a_slow_lookup_times_out_waiting_for_dns,
    the_lookup_of_a_monitor_times_out_waiting_for_dns,
}

const URI: &str = "mongodb://db.example.net/?connectTimeoutMS=200&serverSelectionTimeoutMS=2000";

/// A runtime on which no name is ever resolved, since its only blocking thread is busy.
struct Silent {
    // Dropped first: the runtime waits for the thread.
    _blocked: mpsc::Sender<()>,
    runtime: Runtime,
}

impl Silent {
    fn new() -> Self {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.max_blocking_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (blocked, until) = mpsc::channel::<()>();
        runtime.spawn_blocking(move || until.recv());
        Self {
            _blocked: blocked,
            runtime,
        }
    }

    /// Runs a future, and ends without waiting for pending lookups.
    fn run(self, run: impl Future<Output = ()>) {
        let ran = self.runtime.block_on(async { timeout(LIMIT, run).await });
        self.runtime.shutdown_background();
        ran.expect("in time");
    }
}

fn is_wait_for_dns(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Timeout {
            wait: Wait::Dns,
            ..
        }
    )
}

/// An application's connector that wraps the socket connector.
struct Wrapper(SocketConnector);

#[async_trait]
impl Connector for Wrapper {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        self.0.connect(address).await
    }
}

fn a_slow_lookup_times_out_waiting_for_dns<B: Backend<Config: Default>>() {
    for is_wrapped in [false, true] {
        Silent::new().run(async {
            let mut builder = builder::<B>(URI);
            if is_wrapped {
                builder = builder.connector(Arc::new(Wrapper(SocketConnector::new())));
            }
            let pool = builder.build_server_pool().expect("a pool");
            pool.ready();
            // By the attempt's own timeout, and by the caller's.
            for wait in [LIMIT, Duration::from_millis(50)] {
                pool.ready();
                let error = pool.get(Deadline::after(wait)).await;
                let error = error.expect_err("no address");
                assert!(is_wait_for_dns(&error), "{error}");
                assert!(!error.has_label("SystemOverloadedError"), "{error}");
                assert!(!error.has_label("RetryableError"), "{error}");
            }
            pool.close();
        });
    }
}

fn the_lookup_of_a_monitor_times_out_waiting_for_dns<B: Backend<Config: Default>>() {
    Silent::new().run(async {
        let failures = Arc::new(Mutex::new(Vec::new()));
        let kept = failures.clone();
        let pools: Pools<B> = builder(URI)
            .on_sdam(move |event| {
                if let SdamEvent::ServerHeartbeatFailed(failed) = event {
                    kept.lock().expect("no panic").push(failed.failure.clone());
                }
            })
            .build()
            .expect("pools");
        let error = pools.get().await.expect_err("no address");
        assert!(matches!(error.kind(), ErrorKind::ServerSelection(_)));
        let text = error.to_string();
        assert!(text.contains("looking up hosts in DNS"), "{text}");
        let failures = failures.lock().expect("no panic").clone();
        assert!(!failures.is_empty() && failures.iter().all(is_wait_for_dns));
    });
}
