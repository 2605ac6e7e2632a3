//! Connections to a server that takes no writes any more.

use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::pools::{Backend, ManagerConfig, Pools};
use mongo_core::{ErrorKind, ServerAddress};
use mongo_testkit::{Action, Deployment, Gate, Matcher};
use tokio::time::timeout;

use crate::support::{LIMIT, builder};

on_both! {
    nothing_is_written_after_a_drain_during_which_the_server_stepped_down,
}

async fn nothing_is_written_after_a_drain_during_which_the_server_stepped_down<
    B: Backend<Config: Default>,
>() {
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
    // In this order: the insert first waits for the reply that is owed.
    let both = async { tokio::join!(biased; held.run_command("db", &insert), step_down) };
    let (written, ()) = timeout(LIMIT, both).await.expect("in time");
    let refused = written.expect_err("no primary any more");
    assert!(
        matches!(refused.kind(), ErrorKind::NotWritable),
        "{refused}"
    );
    assert_eq!(set.server(0).look(|seen| seen.count("insert")), 0);
    drop(held);
    pools.close().await;
}
