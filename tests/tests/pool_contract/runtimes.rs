//! Plain pools outside of a runtime, or on a runtime without a driver.

use std::time::Duration;

use mongo_core::{Error, ErrorKind};
use mongo_testkit::{Place, ScriptedServer, driven_runtime};

use crate::{Backend, Setup};

fn refuses<T>(place: Place, entry: &str, run: impl Future<Output = Result<T, Error>>) {
    let error = place.refuses(entry, run);
    let is_configuration = matches!(error.kind(), ErrorKind::Configuration(_));
    assert!(is_configuration, "{entry} in {place:?}: {error}");
}

fn an_empty_pool_names_the_missing_driver<P: Backend>() {
    let runtime = driven_runtime();
    let server = runtime.block_on(ScriptedServer::start());
    for place in Place::ALL {
        let pool = runtime.block_on(async { P::build(Setup::new(server.uri())) });
        refuses(place, "get", pool.get());
        refuses(
            place,
            "get_within",
            pool.get_within(Duration::from_secs(10)),
        );
        refuses(place, "get_within zero", pool.get_within(Duration::ZERO));
        refuses(place, "try_get", pool.try_get());
        drop(runtime.block_on(pool.get()).expect("a connection"));
        place.run(async { pool.close() });
        let error = place.run(pool.get()).map(drop).expect_err("closed");
        assert!(matches!(error.kind(), ErrorKind::PoolClosed), "{error}");
    }
}

fn a_full_pool_names_the_missing_driver<P: Backend>() {
    let runtime = driven_runtime();
    let server = runtime.block_on(ScriptedServer::start());
    let pool = runtime.block_on(async { P::build(Setup::new(server.uri())) });
    let held = runtime.block_on(pool.get()).expect("a connection");
    for place in [Place::Outside, Place::WithoutTime] {
        refuses(place, "get", pool.get());
    }
    drop(held);
    for place in Place::ALL {
        // An idle connection is returned without a wait.
        if let Err(error) = place.run(pool.get()) {
            assert!(error.to_string().contains(place.remedy()), "{error}");
        }
    }
    drop(runtime.block_on(pool.get()).expect("a connection"));
}

on_both! {
    on runtimes of their own:
    an_empty_pool_names_the_missing_driver,
    a_full_pool_names_the_missing_driver,
}

#[test]
fn a_bb8_pool_is_not_built_outside_of_a_runtime() {
    let config = mongo_bb8::Config::from_url("mongodb://127.0.0.1:1");
    let error = config.create_pool(None).expect_err("no runtime");
    assert!(
        matches!(error.kind(), ErrorKind::Configuration(_)),
        "{error}"
    );
}
