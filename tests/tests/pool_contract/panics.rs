//! Hooks of the generic pools that panic: the check-out fails, and the pool stays usable.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mongo_bb8::bb8::CustomizeConnection;
use mongo_core::{Connection, Error};
use mongo_deadpool::Hook;
use mongo_testkit::ScriptedServer;

const LIMIT: Duration = Duration::from_secs(10);

/// Panics at its first call.
#[derive(Clone, Debug, Default)]
struct Fuse(Arc<AtomicUsize>);

impl Fuse {
    fn burn(&self) {
        if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
            panic!("on purpose");
        }
    }
}

#[tokio::test]
async fn a_deadpool_hook_that_panics_fails_one_check_out() {
    let server = ScriptedServer::start().await;
    for place in 0..3 {
        let manager = mongo_deadpool::Manager::new(&server.uri()).expect("a manager");
        let builder = mongo_deadpool::Pool::builder(manager).max_size(1);
        let fuse = Fuse::default();
        let hook = Hook::sync_fn(move |_, _| {
            fuse.burn();
            Ok(())
        });
        let builder = match place {
            0 => builder.post_create(hook),
            1 => builder.pre_recycle(hook),
            _ => builder.post_recycle(hook),
        };
        let pool = mongo_deadpool::Pool::from(builder.build().expect("a pool"));
        let mut panics = 0;
        for _ in 0..3 {
            let got = tokio::time::timeout(LIMIT, pool.get())
                .await
                .expect("in time");
            if let Err(error) = got {
                let wanted = "the application's pool hook panicked: on purpose";
                assert!(error.to_string().contains(wanted), "{error}");
                panics += 1;
            }
        }
        assert_eq!(panics, 1);
        let status = pool.status();
        assert_eq!((status.size, status.available, status.waiting), (1, 1, 0));
    }
}

#[derive(Debug)]
struct Customizer(Fuse);

impl CustomizeConnection<Connection, Error> for Customizer {
    fn on_acquire<'a>(
        &'a self,
        _: &'a mut Connection,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> {
        self.0.burn();
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn a_bb8_customizer_that_panics_fails_one_check_out() {
    let server = ScriptedServer::start().await;
    let manager = mongo_bb8::MongoConnectionManager::new(&server.uri()).expect("a manager");
    let builder = mongo_bb8::Pool::builder()
        .max_size(1)
        .connection_timeout(Duration::from_secs(2))
        .connection_customizer(Box::new(Customizer(Fuse::default())));
    let pool = mongo_bb8::Pool::build(builder, manager).expect("a pool");
    let mut failures = 0;
    for _ in 0..3 {
        let got = tokio::time::timeout(LIMIT, pool.get())
            .await
            .expect("in time");
        failures += usize::from(got.is_err());
    }
    assert_eq!(failures, 1);
}
