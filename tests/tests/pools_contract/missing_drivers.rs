//! Pools outside of a runtime, or on a runtime without a driver: an error names the remedy at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mongo_core::bson::doc;
use mongo_core::pools::{
    Backend, CheckBudget, ConnectionFactory, ManagerConfig, PooledConnection, Pools,
};
use mongo_core::pools::{RecyclingMethod, ServerPool};
use mongo_core::select::{Criterion, ReadPreference, ReadPreferenceMode};
use mongo_core::{ClientOptions, Connection, Deadline, Error, ErrorKind, ServerAddress};
use mongo_testkit::{
    Action, Deployment, Gate, Matcher, Place, ScriptedServer, SimNetwork, block_on,
};
use tokio::runtime::{Builder, Runtime};

use crate::support::{LIMIT, OverSim, builder, ping, pools};

on_both! {
    on runtimes of their own:
    disconnected_pools_name_the_missing_driver,
    connected_pools_name_the_missing_driver,
    a_full_pool_names_the_missing_driver,
    a_check_out_does_not_wait_for_a_lost_server,
    a_server_pool_names_the_missing_driver,
    pools_can_be_closed_outside_of_a_runtime,
    a_connector_without_sockets_needs_no_io_driver,
}

/// A runtime that its own worker thread drives.
fn driven() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(1).enable_all();
    builder.build().expect("a runtime")
}

/// Runs a future in an environment, and checks that it fails at once with an error that names the
/// remedy.
fn refuses<T>(place: Place, entry: &str, run: impl Future<Output = Result<T, Error>>) {
    let begun = Instant::now();
    let outcome = place.run(run);
    let took = begun.elapsed();
    let Err(error) = outcome else {
        panic!("{entry} in {place:?} succeeds");
    };
    names(place, entry, &error);
    assert!(
        took < Duration::from_secs(5),
        "{entry} in {place:?}: {took:?}"
    );
}

fn names(place: Place, entry: &str, error: &Error) {
    let is_named = error.to_string().contains(place.remedy());
    let is_configuration = matches!(error.kind(), ErrorKind::Configuration(_));
    assert!(
        is_named && is_configuration,
        "{entry} in {place:?}: {error}"
    );
}

fn secondary() -> ReadPreference {
    ReadPreference::new(ReadPreferenceMode::SecondaryPreferred)
}

fn disconnected_pools_name_the_missing_driver<B: Backend<Config: Default>>() {
    let runtime = driven();
    let set = runtime.block_on(Deployment::replica_set("rs").members(1).start());
    let address: ServerAddress = set.address(0).parse().expect("an address");
    let write = Criterion::write();
    for place in Place::ALL {
        let pools = pools::<B>(&set.uri());
        refuses(place, "connect", async { pools.connect() });
        refuses(place, "get", pools.get());
        refuses(place, "get_with", pools.get_with(&write));
        refuses(place, "get_by", pools.get_by(LIMIT, &write, &[]));
        refuses(place, "read", pools.read(secondary()));
        refuses(place, "for_server", async { pools.for_server(&address) });
        refuses(place, "warm_up", pools.warm_up());
        refuses(place, "verify", pools.verify());
        let got = place.run(async { pools.try_get_with(&write) });
        assert!(got.is_none(), "{place:?}");
        // The failure has no lasting effect.
        runtime.block_on(ping(&pools)).expect("a pong");
        runtime.block_on(pools.close());
    }
}

/// Pools with an idle connection.
fn connected<B: Backend<Config: Default>>(runtime: &Runtime, set: &Deployment) -> Pools<B> {
    let uri = format!("{}&maxPoolSize=1&connectTimeoutMS=5000", set.uri());
    let pools = pools::<B>(&uri);
    runtime.block_on(ping(&pools)).expect("a pong");
    pools
}

/// Checks that the check-out succeeds without a wait, or fails with an error that names the remedy.
fn serves_or_refuses<B: Backend>(
    place: Place,
    entry: &str,
    run: impl Future<Output = Result<PooledConnection<B>, Error>>,
) {
    if let Err(error) = place.run(run) {
        names(place, entry, &error);
    }
}

fn connected_pools_name_the_missing_driver<B: Backend<Config: Default>>() {
    let runtime = driven();
    let set = runtime.block_on(Deployment::replica_set("rs").members(1).start());
    for place in Place::ALL {
        let pools = connected::<B>(&runtime, &set);
        serves_or_refuses(place, "get", pools.get());
        serves_or_refuses(place, "read", pools.read(secondary()));
        let idle = place.run(async { pools.try_get_with(&Criterion::write()) });
        assert!(idle.is_some(), "{place:?}");
        drop(idle);
        // Now a connection has to be made.
        let mut connection = runtime.block_on(pools.get()).expect("a connection");
        connection.close();
        drop(connection);
        refuses(place, "get", pools.get());
        refuses(place, "read", pools.read(secondary()));
        refuses(place, "warm_up", pools.warm_up());
        refuses(place, "verify", pools.verify());
        runtime.block_on(ping(&pools)).expect("a pong");
        runtime.block_on(pools.close());
    }
}

fn a_full_pool_names_the_missing_driver<B: Backend<Config: Default>>() {
    let runtime = driven();
    let set = runtime.block_on(Deployment::replica_set("rs").members(1).start());
    let pools = connected::<B>(&runtime, &set);
    let held = runtime.block_on(pools.get()).expect("a connection");
    for place in [Place::Outside, Place::WithoutTime] {
        refuses(place, "get", pools.get());
        refuses(
            place,
            "get_by",
            pools.get_by(LIMIT, &Criterion::write(), &[]),
        );
    }
    drop(held);
    runtime.block_on(ping(&pools)).expect("a pong");
    runtime.block_on(pools.close());
}

fn a_check_out_does_not_wait_for_a_lost_server<B: Backend<Config: Default>>() {
    let runtime = driven();
    let set = runtime.block_on(Deployment::replica_set("rs").members(1).start());
    let pools = connected::<B>(&runtime, &set);
    runtime.block_on(async {
        set.kill(0).await;
        let mut changes = pools.topology().subscribe();
        let is_lost = changes.wait_for(|known| !known.has_writable_server());
        drop(is_lost.await.expect("a topology"));
    });
    for place in [Place::Outside, Place::WithoutTime] {
        refuses(place, "get", pools.get());
        refuses(place, "warm_up", pools.warm_up());
        let write = Criterion::write();
        refuses(place, "select", pools.topology().select(&write));
    }
    runtime.block_on(pools.close());
}

fn a_server_pool_names_the_missing_driver<B: Backend<Config: Default>>() {
    let runtime = driven();
    let server = runtime.block_on(ScriptedServer::start());
    let pool: ServerPool<B> = runtime.block_on(async {
        let builder = builder::<B>(&format!("{}&minPoolSize=1&maxPoolSize=1", server.uri()));
        builder.build_server_pool().expect("a pool")
    });
    pool.ready();
    for place in Place::ALL {
        refuses(place, "get", pool.get(Deadline::after(LIMIT)));
        assert!(place.run(async { pool.try_get() }).is_none(), "{place:?}");
        place.run(pool.maintain());
        assert_eq!(pool.status().size, 0, "{place:?}");
    }
    let got = runtime.block_on(pool.get(Deadline::after(LIMIT)));
    drop(got.expect("a connection"));
    pool.close();
}

fn pools_can_be_closed_outside_of_a_runtime<B: Backend<Config: Default>>() {
    let runtime = driven();
    let set = runtime.block_on(Deployment::replica_set("rs").members(1).start());
    for place in Place::ALL {
        let pools = connected::<B>(&runtime, &set);
        place.run(pools.close());
        let error = place.run(pools.get()).expect_err("closed");
        assert!(matches!(error.kind(), ErrorKind::PoolClosed), "{error}");
        let is_closed = runtime.block_on(pools.topology().select(&Criterion::write()));
        let error = is_closed.expect_err("closed");
        assert!(matches!(error.kind(), ErrorKind::TopologyClosed), "{error}");
        // These pools were never connected.
        place.run(crate::support::pools::<B>(&set.uri()).close());
    }
}

fn a_connector_without_sockets_needs_no_io_driver<B: Backend<Config: Default>>() {
    Place::WithoutIo.run(async {
        let network = SimNetwork::new(1);
        let set = Deployment::replica_set("rs").members(1).network(&network);
        let set = set.start().await;
        let builder = builder::<B>(&set.uri()).connector(Arc::new(OverSim(network)));
        let pools = builder.build().expect("pools");
        ping(&pools).await.expect("a pong");
        pools.close().await;
    });
}

fn factory(server: &ScriptedServer) -> ConnectionFactory {
    let options = ClientOptions::parse(&server.uri()).expect("a connection string");
    let config = ManagerConfig::new(RecyclingMethod::Verified);
    let builder = ConnectionFactory::builder(options).config(config);
    builder.build().expect("a factory")
}

#[test]
fn a_factory_names_the_missing_driver() {
    let runtime = driven();
    let gate = Gate::new();
    let server = runtime.block_on(ScriptedServer::start());
    let factory = factory(&server);
    for place in Place::ALL {
        refuses(
            place,
            "establish",
            factory.establish(Deadline::after(LIMIT)),
        );
        refuses(place, "establish", factory.establish(Deadline::never()));
    }
    let established = runtime.block_on(factory.establish(Deadline::after(LIMIT)));
    let mut connection = established.expect("a connection");
    assert!(connection.check_in());
    let held = Matcher::command("ping").then(Action::WaitFor(gate.clone()));
    server.script().add(held);
    for place in [Place::Outside, Place::WithoutTime] {
        let deadline = Deadline::after(LIMIT);
        refuses(
            place,
            "recycle",
            factory.recycle(&mut connection, deadline, &mut CheckBudget::default()),
        );
        connection = runtime
            .block_on(factory.establish(deadline))
            .expect("a connection");
        assert!(connection.check_in());
    }
    gate.open();
}

/// A connection whose server does not answer yet.
struct Unanswered {
    runtime: Runtime,
    server: ScriptedServer,
    gate: Gate,
    connection: Connection,
}

impl Unanswered {
    fn new() -> Self {
        let runtime = driven();
        let server = runtime.block_on(ScriptedServer::start());
        let factory = factory(&server);
        let established = runtime.block_on(factory.establish(Deadline::after(LIMIT)));
        let gate = Gate::new();
        let held = Matcher::command("ping").then(Action::WaitFor(gate.clone()));
        server.script().add(held);
        Self {
            connection: established.expect("a connection"),
            runtime,
            server,
            gate,
        }
    }
}

#[test]
fn a_connection_names_the_missing_driver() {
    let ping = doc! {"ping": 1};
    for place in [Place::Outside, Place::WithoutTime] {
        let mut own = Unanswered::new();
        let connection = &mut own.connection;
        refuses(place, "run_command", connection.run_command("db", &ping));
        let by = connection.run_command_by(LIMIT, "db", &ping);
        refuses(place, "run_command_by", by);

        let mut own = Unanswered::new();
        let message = mongo_testkit::codec::encode_command(7, 0, &doc! {"ping": 1, "$db": "db"});
        let connection = &mut own.connection;
        place
            .run(connection.send(&message, LIMIT))
            .expect("it fits the socket's buffer");
        refuses(place, "receive", connection.receive(LIMIT));
        refuses(place, "drain", connection.drain(Deadline::after(LIMIT)));

        // A connection that owes a reply runs another command within a runtime.
        let mut own = Unanswered::new();
        let connection = &mut own.connection;
        refuses(place, "run_command", connection.run_command("db", &ping));
        own.gate.open();
        own.server.script().clear();
        let answered = own.runtime.block_on(connection.run_command("db", &ping));
        answered.expect("a pong");
    }
}

#[test]
fn operations_that_do_not_wait_need_no_runtime() {
    let mut own = Unanswered::new();
    own.server.script().clear();
    let connection = &mut own.connection;
    // Without a timeout it needs no timer, and its own runtime drives its socket.
    let pong = block_on(connection.run_command_by(Deadline::never(), "db", &doc! {"ping": 1}));
    pong.expect("a pong");
}
