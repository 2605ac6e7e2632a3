//! Connections and waiters when their server goes away or steps down.

use std::time::Duration;

use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::error::ClosedReason;
use mongo_core::pools::{Backend, PoolState};
use mongo_core::sdam::ServerType;
use mongo_core::select::{Criterion, ReadPreference, ReadPreferenceMode};
use mongo_core::{ErrorKind, ServerAddress};
use mongo_testkit::{Action, Deployment, ErrorReply, Gate, Matcher, RealServer};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    LIMIT, Sim, builder, eventually, handshake, hold, observed, ping, pools, run, settled,
    status_of, visit_in_task,
};

on_both! {
    pools_follow_the_step_downs_of_a_real_set,
    behind_a_load_balancer_only_the_failed_service_is_cleared,
}

on_both! {
    on a paused clock:
    a_network_error_clears_the_pool,
    a_timeout_closes_only_its_connection,
    an_error_of_an_earlier_generation_is_ignored,
    a_shutdown_error_clears_the_pool,
    a_step_down_keeps_connections,
    hung_commands_are_interrupted_when_the_monitor_times_out,
    a_failed_handshake_clears_no_pool,
    a_failed_authentication_step_clears_the_pool,
    a_callers_deadline_clears_no_pool,
    waiters_at_a_cleared_pool_go_to_the_new_primary,
    waiters_at_an_exhausted_pool_go_to_the_new_primary,
    no_write_is_sent_to_a_former_primary,
}

async fn a_network_error_clears_the_pool<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let (pools, kept) = observed(sim.builder::<B>(""));
    let mut held = hold(&pools, 3).await;
    let mut failing = held.pop().expect("one of three");
    drop(held.pop());
    let find = Matcher::command("find").once();
    sim.set.server(0).script().add(find.drop_connection());
    let failed = failing
        .run_command("db", &doc! {"find": "c"})
        .await
        .map(drop);
    let failed = failed.expect_err("the server hung up");
    assert!(matches!(failed.kind(), ErrorKind::Network(_)), "{failed}");
    // The idle connection closes at once, the one in use when it is returned.
    let status = status_of(&pools);
    assert_eq!((status.generation, status.size), (1, 2), "{status:?}");
    assert_eq!((status.state, status.closed.stale), (PoolState::Paused, 1));
    let names = kept.names();
    let cleared = names.iter().position(|name| name == "PoolCleared");
    let closed = names.iter().position(|name| name == "ConnectionClosed");
    assert!(cleared < closed, "{names:?}");
    drop(failing);
    assert!(held[0].is_stale() && !held[0].is_closed());
    drop(held);
    let status = status_of(&pools);
    assert_eq!(
        (status.size, status.closed.stale, status.closed.error),
        (0, 2, 1)
    );
    ping(&pools).await.expect("found good again");
    assert_eq!(kept.count("PoolCleared"), 1);
    pools.close().await;
}

async fn a_timeout_closes_only_its_connection<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    let mut held = hold(&pools, 2).await;
    let find = Matcher::command("find").once();
    sim.set.server(0).script().add(find.never_answer());
    let bound = Duration::from_millis(100);
    let late = held[0]
        .run_command_by(bound, "db", &doc! {"find": "c"})
        .await;
    assert!(late.expect_err("no answer").is_timeout());
    drop(held);
    let status = status_of(&pools);
    assert_eq!((status.generation, status.state), (0, PoolState::Ready));
    pools.close().await;
}

async fn an_error_of_an_earlier_generation_is_ignored<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let (pools, kept) = observed(sim.builder::<B>("heartbeatFrequencyMS=500"));
    let mut old = hold(&pools, 2).await;
    let find = Matcher::command("find").times(2);
    sim.set.server(0).script().add(find.drop_connection());
    old[0]
        .run_command("db", &doc! {"find": "c"})
        .await
        .map(drop)
        .expect_err("hung up");
    let new = pools.get().await.expect("found good again");
    old[1]
        .run_command("db", &doc! {"find": "c"})
        .await
        .map(drop)
        .expect_err("hung up");
    assert_eq!(kept.count("PoolCleared"), 1);
    assert_eq!(status_of(&pools).state, PoolState::Ready);
    drop(new);
    drop(old);
    assert_eq!(status_of(&pools).idle, 1);
    pools.close().await;
}

async fn a_shutdown_error_clears_the_pool<B: Backend<Config: Default>>() {
    for (code, clears) in [
        (91, 1),
        (11600, 1),
        (10107, 0),
        (189, 0),
        (13436, 0),
        (462, 0),
    ] {
        let sim = Sim::of(1).await;
        let (pools, kept) = observed(sim.builder::<B>("heartbeatFrequencyMS=500"));
        let mut held = pools.get().await.expect("a connection");
        let find = Matcher::command("find").once();
        let error = ErrorReply::new(code, "Name", "the server's state has changed");
        let error = match code {
            462 => error.label("SystemOverloadedError").label("RetryableError"),
            _ => error,
        };
        sim.set
            .server(0)
            .script()
            .add(find.then(Action::Error(error)));
        let failed = held.run_command("db", &doc! {"find": "c"}).await.map(drop);
        assert_eq!(failed.expect_err("an error").code(), Some(code));
        assert_eq!(kept.count("PoolCleared"), clears, "{code}");
        drop(held);
        assert_eq!(status_of(&pools).size, 1 - clears, "{code}");
        ping(&pools).await.expect("found good again");
        pools.close().await;
    }
}

async fn a_step_down_keeps_connections<B: Backend<Config: Default>>() {
    let sim = Sim::of(2).await;
    let (pools, kept) = observed(sim.builder::<B>(""));
    let first: ServerAddress = sim.set.address(0).parse().expect("an address");
    let ids: Vec<_> = hold(&pools, 2).await.iter().map(|own| own.id()).collect();
    sim.set.elect(1);
    eventually("the new primary", || {
        let known = pools.topology().description();
        known.servers().iter().any(|server| {
            server.address.to_string() == sim.set.address(1)
                && server.server_type == ServerType::RsPrimary
        })
    })
    .await;
    assert_eq!(kept.count("PoolCleared"), 0);
    // They serve reads from secondaries.
    let secondary = ReadPreference::new(ReadPreferenceMode::Secondary);
    let mut reader = pools.read(secondary).await.expect("a secondary");
    assert_eq!(
        (reader.server(), ids.contains(&reader.id())),
        (&first, true)
    );
    reader
        .run_command("db", &doc! {"ping": 1})
        .await
        .expect("it still works");
    drop(reader);
    pools.close().await;
}

async fn hung_commands_are_interrupted_when_the_monitor_times_out<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let (pools, kept) =
        observed(sim.builder::<B>("heartbeatFrequencyMS=2000&connectTimeoutMS=3000"));
    let mut held = pools.get().await.expect("a connection");
    let waiting = held.id();
    sim.set.server(0).partition().await;
    let begun = Instant::now();
    let failed = held.run_command("db", &doc! {"find": "c"}).await.map(drop);
    let failed = failed.expect_err("the server is unreachable");
    assert!(
        matches!(
            failed.kind(),
            ErrorKind::ConnectionClosed(ClosedReason::Interrupted)
        ),
        "{failed}"
    );
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(9), "{took:?}");
    assert_eq!((held.id(), kept.count("PoolCleared")), (waiting, 1));
    let again = held.run_command("db", &doc! {"ping": 1}).await.map(drop);
    assert!(matches!(
        again.expect_err("interrupted for good").kind(),
        ErrorKind::ConnectionClosed(_)
    ));
    drop(held);
    assert_eq!(status_of(&pools).size, 0);
    sim.set.server(0).heal().await;
    ping(&pools).await.expect("found good again");
    pools.close().await;
}

async fn a_failed_handshake_clears_no_pool<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let (pools, kept) = observed(sim.builder::<B>(""));
    let held = pools.get().await.expect("a connection");
    let server = sim.set.server(0);
    settled(server, 1).await;
    server.script().add(handshake().times(3).drop_connection());
    for _ in 0..3 {
        let failed = pools.get().await.expect_err("the server hangs up");
        assert!(matches!(failed.kind(), ErrorKind::Network(_)), "{failed}");
        assert!(failed.has_label("SystemOverloadedError"), "{failed:?}");
        assert!(failed.has_label("RetryableError"), "{failed:?}");
        assert_eq!(failed.server(), Some(held.server()));
    }
    assert_eq!(kept.count("PoolCleared"), 0);
    drop(pools.get().await.expect("the server is still usable"));
    drop(held);
    pools.close().await;
}

async fn a_failed_authentication_step_clears_the_pool<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let one = Credential::new("one", "first").with_source("admin");
    let (pools, kept) = observed(sim.builder::<B>("heartbeatFrequencyMS=500"));
    let one = pools.with_credential(one).expect("a handle");
    ping(&one).await.expect("a ping");
    let held = one.get().await.expect("a connection");
    let finish = Matcher::command("saslContinue").once();
    sim.set.server(0).script().add(finish.drop_connection());
    let got = timeout(LIMIT, one.get()).await.expect("in time");
    // The check-out returns to server selection, and then succeeds.
    drop(got.expect("a connection of the next generation"));
    assert_eq!(kept.count("PoolCleared"), 1);
    assert!(held.is_stale());
    drop(held);
    pools.close().await;
}

async fn a_callers_deadline_clears_no_pool<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let one = Credential::new("one", "first").with_source("admin");
    let (pools, kept) = observed(sim.builder::<B>(""));
    let one = pools.with_credential(one).expect("a handle");
    let held = one.get().await.expect("a connection");
    let gate = Gate::new();
    let finish = Matcher::command("saslContinue").once();
    let finish = finish.then(Action::WaitFor(gate.clone()));
    sim.set.server(0).script().add(finish);
    let write = Criterion::write();
    let bound = Duration::from_millis(100);
    let late = one.get_by(bound, &write, &[]).await.expect_err("too short");
    assert!(late.is_timeout(), "{late}");
    gate.open();
    assert_eq!(kept.count("PoolCleared"), 0);
    assert!(!held.is_stale());
    drop(held);
    pools.close().await;
}

async fn waiters_at_a_cleared_pool_go_to_the_new_primary<B: Backend<Config: Default>>() {
    let sim = Sim::of(3).await;
    let (pools, kept) = observed(sim.builder::<B>("maxPoolSize=2&heartbeatFrequencyMS=500"));
    let held = hold(&pools, 2).await;
    let waiting: Vec<_> = (0..10).map(|_| visit_in_task(&pools)).collect();
    eventually("ten wait", || status_of(&pools).waiting == 10).await;
    sim.set.kill(0).await;
    sleep(Duration::from_secs(2)).await;
    sim.set.elect(1);
    for task in waiting {
        let server = task.await.expect("no panic").expect("no error");
        assert_eq!(server.to_string(), sim.set.address(1));
    }
    assert_eq!(kept.count("PoolCleared"), 1);
    drop(held);
    pools.close().await;
}

async fn waiters_at_an_exhausted_pool_go_to_the_new_primary<B: Backend<Config: Default>>() {
    let sim = Sim::of(3).await;
    let pools = sim.pools::<B>("maxPoolSize=2");
    let held = hold(&pools, 2).await;
    let waiting: Vec<_> = (0..10).map(|_| visit_in_task(&pools)).collect();
    eventually("ten wait", || status_of(&pools).waiting == 10).await;
    sim.set.elect(1);
    let begun = Instant::now();
    for task in waiting {
        let server = task.await.expect("no panic").expect("no error");
        assert_eq!(server.to_string(), sim.set.address(1));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    drop(held);
    pools.close().await;
}

async fn no_write_is_sent_to_a_former_primary<B: Backend<Config: Default>>() {
    let sim = Sim::of(2).await;
    let pools = sim.pools::<B>("");
    let one = Credential::new("one", "first").with_source("admin");
    let pools = pools.with_credential(one).expect("a handle");
    let mut held = hold(&pools, 2).await;
    sim.set.elect(1);
    let insert = doc! {"insert": "c", "documents": [{"x": 1}]};
    let server = run(&pools, &insert).await;
    // The old primary may refuse the write until its step-down is known.
    if server.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    let refused = sim.set.server(0).look(|seen| seen.refused_writes.len());
    for connection in &mut held {
        for _ in 0..3 {
            let error = connection.run_command("db", &insert).await.map(drop);
            let error = error.expect_err("no longer primary");
            assert!(matches!(error.kind(), ErrorKind::NotWritable), "{error}");
            assert_eq!(
                error.server().map(ToString::to_string),
                Some(sim.set.address(0))
            );
        }
    }
    sim.set.server(0).look(|seen| {
        assert_eq!(seen.refused_writes.len(), refused);
        assert!(seen.count("insert") <= 1, "{:?}", seen.counts);
    });
    // Nothing was sent: the connection accepts writes again when its server does.
    sim.set.elect(0);
    sleep(Duration::from_secs(1)).await;
    held[0]
        .run_command("db", &insert)
        .await
        .expect("a primary again");
    drop(held);
    pools.close().await;
}

async fn pools_follow_the_step_downs_of_a_real_set<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(3);
    let set = set.backed_by(RealServer::shared().clone()).start().await;
    let pools = pools::<B>(&format!("{}&heartbeatFrequencyMS=500", set.uri()));
    let name = format!("followed_{}", std::any::type_name::<B>().len());
    let mut written = 0;
    for round in 0..6 {
        let primary = round % 3;
        set.elect(primary);
        let server = timeout(LIMIT, async {
            loop {
                let insert = doc! {"insert": &name, "documents": [{"round": round as i32}]};
                match run(&pools, &insert).await {
                    Ok(server) if server.to_string() == set.address(primary) => break,
                    Ok(_) => written += 1,
                    Err(error) if error.code() == Some(10107) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            written += 1;
        });
        server.await.expect("in time");
    }
    let mut connection = pools.get().await.expect("a connection");
    let count = doc! {"count": &name};
    let reply = connection.run_command("db", &count).await.expect("a count");
    let counted = reply.to_document().expect("a reply");
    assert_eq!(counted.get_i32("n").ok(), Some(written));
    drop(connection);
    pools.close().await;
}

async fn behind_a_load_balancer_only_the_failed_service_is_cleared<B: Backend<Config: Default>>() {
    let mongoses = Deployment::load_balanced(2).start().await;
    let (pools, kept) = observed(builder::<B>(&mongoses.uri()));
    // Enough for both services to have some.
    let mut held = hold(&pools, 8).await;
    let service = |own: &mongo_core::Connection| own.description().service_id;
    let first = service(&held[0]).expect("a service");
    let others = held
        .iter()
        .filter(|own| service(own) != Some(first))
        .count();
    assert!(
        (1..8).contains(&others),
        "{others} of 8 at the other service"
    );
    for server in 0..2 {
        let find = Matcher::command("find").once();
        mongoses.server(server).script().add(find.drop_connection());
    }
    held[0]
        .run_command("db", &doc! {"find": "c"})
        .await
        .map(drop)
        .expect_err("hung up");
    assert_eq!(kept.count("PoolCleared"), 1);
    for connection in &held {
        assert_eq!(connection.is_stale(), service(connection) == Some(first));
    }
    drop(held);
    let status = status_of(&pools);
    assert_eq!((status.idle, status.state), (others, PoolState::Ready));
    pools.close().await;
}
