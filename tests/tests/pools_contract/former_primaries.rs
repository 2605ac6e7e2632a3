//! Connections to a server that is no longer the primary.

use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::pools::{Backend, ManagerConfig, PooledConnection, Pools};
use mongo_core::sdam::ServerType;
use mongo_core::{Error, ErrorKind, ServerAddress};
use mongo_testkit::{Action, Deployment, ErrorReply, Gate, Matcher, Rule};
use tokio::time::timeout;

use crate::support::{LIMIT, builder};

on_both! {
    no_write_is_sent_if_the_server_steps_down_during_a_drain,
    a_held_connection_stays_usable_when_its_server_is_unreachable,
    no_write_is_sent_to_a_server_that_reported_its_step_down,
    a_waiter_at_a_former_primary_goes_to_the_new_one,
}

async fn no_write_is_sent_if_the_server_steps_down_during_a_drain<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(2).start().await;
    let mut manager = ManagerConfig::default();
    manager.drain_timeout = Some(LIMIT);
    let pools: Pools<B> = builder(&set.uri())
        .manager_config(manager)
        .build()
        .expect("pools");
    let held = timeout(LIMIT, pools.get()).await.expect("in time");
    let mut held = held.expect("a connection");
    let gate = Gate::new();
    let late = Matcher::command("ping").then(Action::WaitFor(gate.clone()));
    set.server(0).script().add(late);
    let (ping, insert) = (
        doc! {"ping": 1},
        doc! {"insert": "c", "documents": [{"x": 1}]},
    );
    let answered = held.run_command_by(Duration::from_millis(50), "db", &ping);
    assert!(answered.await.expect_err("a late reply").is_timeout());
    let step_down = async {
        let mut changed = pools.topology().subscribe();
        set.elect(1);
        let is: ServerAddress = set.address(1).parse().expect("an address");
        let seen = changed.wait_for(|known| known.primary().is_some_and(|own| own.address == is));
        seen.await.expect("a topology");
        gate.open();
    };
    // In this order: the insert first drains the owed reply.
    let both = async { tokio::join!(biased; held.run_command("db", &insert), step_down) };
    let (written, ()) = timeout(LIMIT, both).await.expect("in time");
    assert_not_sent(&set, written.map(drop));
    drop(held);
    pools.close().await;
}

async fn a_held_connection_stays_usable_when_its_server_is_unreachable<
    B: Backend<Config: Default>,
>() {
    let close = Matcher::command("ping")
        .then(Action::NoReply)
        .then(Action::Close);
    let (mut held, pools, set) = unknown_after::<B>(close).await;
    let insert = doc! {"insert": "c", "documents": [{"x": 1}]};
    let written = held.run_command("db", &insert).await;
    assert!(written.is_ok(), "{:?}", written.err());
    drop(held);
    pools.close().await;
    assert_eq!(set.documents("db.c").len(), 1);
}

async fn no_write_is_sent_to_a_server_that_reported_its_step_down<B: Backend<Config: Default>>() {
    let error = ErrorReply::new(10107, "NotWritablePrimary", "not primary");
    let says = Matcher::command("ping").then(Action::Error(error));
    let (mut held, pools, set) = unknown_after::<B>(says).await;
    let insert = doc! {"insert": "c", "documents": [{"x": 1}]};
    let written = held.run_command("db", &insert).await.map(drop);
    assert_not_sent(&set, written);
    drop(held);
    pools.close().await;
}

/// Checks that the write failed locally and was not sent to the former primary.
fn assert_not_sent(set: &Deployment, written: Result<(), Error>) {
    let refused = written.expect_err("no longer primary");
    assert!(
        matches!(refused.kind(), ErrorKind::NotWritable),
        "{refused}"
    );
    assert_eq!(set.server(0).look(|seen| seen.count("insert")), 0);
}

/// A connection that was checked out for writes. Then a ping on another one failed, which marked
/// the primary unknown; its monitor gets no reply.
async fn unknown_after<B: Backend<Config: Default>>(
    ping: Rule,
) -> (PooledConnection<B>, Pools<B>, Deployment) {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let pools: Pools<B> = builder(&set.uri()).build().expect("pools");
    let get = || async {
        let got = timeout(LIMIT, pools.get()).await.expect("in time");
        got.expect("a connection")
    };
    let (held, mut other) = (get().await, get().await);
    set.server(0).script().add(ping);
    set.server(0)
        .script()
        .add(Matcher::hello().then(Action::Hang));
    let failed = other.run_command("db", &doc! {"ping": 1}).await.map(drop);
    assert!(failed.is_err());
    let address: ServerAddress = set.address(0).parse().expect("an address");
    let description = pools.topology().description();
    let server = description.server(&address).expect("the one server");
    assert_eq!(server.server_type, ServerType::Unknown);
    drop(other);
    (held, pools, set)
}

async fn a_waiter_at_a_former_primary_goes_to_the_new_one<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(2).start().await;
    let uri = format!("{}&maxPoolSize=1", set.uri());
    let pools: Pools<B> = builder(&uri).build().expect("pools");
    let held = timeout(LIMIT, pools.get()).await.expect("in time");
    let held = held.expect("a connection");
    let waits = tokio::spawn({
        let pools = pools.clone();
        async move { pools.get().await }
    });
    let waiting = || {
        pools
            .status()
            .iter()
            .map(|pool| pool.waiting)
            .sum::<usize>()
    };
    while waiting() == 0 {
        tokio::task::yield_now().await;
    }
    set.elect(1);
    // The old primary's pool still has no free slot.
    let got = timeout(LIMIT, waits).await.expect("in time");
    let got = got.expect("no panic").expect("a connection");
    assert_eq!(got.server().to_string(), set.address(1));
    drop((held, got));
    pools.close().await;
}
