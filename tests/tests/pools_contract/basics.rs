//! Check-outs, credentials and close.

use std::sync::{Arc, OnceLock};

use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::event::{CmapEvent, EventHandlers};
use mongo_core::pools::{Backend, Pools};
use mongo_core::select::{ReadPreference, ReadPreferenceMode};
use mongo_core::{ErrorKind, ServerAddress};
use mongo_testkit::{Deployment, User};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::support::{LIMIT, builder, observed, ping, pools, run};

on_both! {
    a_connection_to_the_primary_runs_commands,
    a_read_goes_to_a_secondary,
    a_step_down_is_followed,
    each_credential_has_its_own_pools,
    a_wrong_credential_does_not_affect_other_users,
    a_close_closes_all_pools_and_connections,
    idle_connections_are_reused,
    a_pool_created_handler_may_use_the_pools,
}

async fn a_connection_to_the_primary_runs_commands<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let pools = pools::<B>(&set.uri());
    let server = timeout(LIMIT, ping(&pools)).await.expect("in time");
    assert_eq!(server.expect("a ping").to_string(), set.address(0));
    pools.close().await;
}

async fn a_read_goes_to_a_secondary<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let pools = pools::<B>(&set.uri());
    let secondary = ReadPreference::new(ReadPreferenceMode::Secondary);
    let connection = timeout(LIMIT, pools.read(secondary))
        .await
        .expect("in time");
    let connection = connection.expect("a connection");
    assert_ne!(connection.server().to_string(), set.address(0));
    drop(connection);
    pools.close().await;
}

async fn a_step_down_is_followed<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let pools = pools::<B>(&set.uri());
    ping(&pools).await.expect("the first primary");
    let mut held = pools.get().await.expect("a connection");
    set.elect(1);
    let insert = doc! {"insert": "c", "documents": [{"x": 1}]};
    // Until the monitors notice, the old primary itself refuses the write.
    let server = timeout(LIMIT, async {
        loop {
            match run(&pools, &insert).await {
                Ok(server) => break server,
                Err(error) if error.code() == Some(10107) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!(server.await.expect("in time").to_string(), set.address(1));
    let refused = held
        .run_command("db", &insert)
        .await
        .expect_err("no longer primary");
    assert!(
        matches!(refused.kind(), ErrorKind::NotWritable),
        "{refused}"
    );
    drop(held);
    pools.close().await;
    assert_eq!(set.documents("db.c").len(), 1);
}

async fn each_credential_has_its_own_pools<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs")
        .members(1)
        .user(User::new("one", "first"))
        .user(User::new("two", "second"))
        .start()
        .await;
    let one = pools::<B>(&set.uri_for("one", "first"));
    let two = one.with_credential(Credential::new("two", "second").with_source("admin"));
    let two = two.expect("a handle");
    for (pools, user) in [(&one, "one"), (&two, "two"), (&one, "one")] {
        let connection = timeout(LIMIT, pools.get()).await.expect("in time");
        assert_eq!(connection.expect("a connection").user(), Some(user));
    }
    assert_eq!(one.status().len(), 2);
    two.verify().await.expect("a good credential");
    two.logout().await;
    let refused = two.get().await.expect_err("logged out");
    assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
    ping(&one).await.expect("the other one still works");
    one.close().await;
}

async fn a_wrong_credential_does_not_affect_other_users<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs")
        .members(1)
        .user(User::new("one", "first"))
        .start()
        .await;
    let (one, kept) = observed(builder::<B>(&set.uri_for("one", "first")));
    ping(&one).await.expect("a good credential");
    let wrong = one.with_credential(Credential::new("one", "wrong").with_source("admin"));
    let wrong = wrong.expect("a handle");
    for _ in 0..3 {
        let refused = timeout(LIMIT, wrong.get()).await.expect("at once");
        assert!(refused.expect_err("a wrong password").is_authentication());
        assert!(
            wrong
                .verify()
                .await
                .expect_err("the same")
                .is_authentication()
        );
    }
    ping(&one).await.expect("the other one still works");
    assert_eq!(kept.count("PoolCleared"), 0);
    assert_eq!(kept.count("PoolReady"), 2);
    one.close().await;
}

async fn a_close_closes_all_pools_and_connections<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let (pools, kept) = observed(builder::<B>(&set.uri()));
    pools.warm_up().await.expect("warm");
    ping(&pools).await.expect("a ping");
    timeout(LIMIT, pools.close()).await.expect("in time");
    let refused = pools.get().await.expect_err("closed");
    assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
    assert_eq!(kept.count("PoolCreated"), 3);
    assert_eq!(kept.count("PoolClosed"), 3);
    assert_eq!(kept.count("ConnectionCreated"), 3);
    assert_eq!(kept.count("ConnectionClosed"), 3);
    assert_eq!(pools.status().len(), 0);
}

async fn idle_connections_are_reused<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let pools = pools::<B>(&set.uri());
    for _ in 0..10 {
        ping(&pools).await.expect("a ping");
    }
    let status = &pools.status()[0];
    assert_eq!(
        (status.created, status.size, status.idle),
        (1, 1, 1),
        "{status:?}"
    );
    assert_eq!(status.wait_times.at_once, 9);
    pools.close().await;
}

async fn a_pool_created_handler_may_use_the_pools<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(2).start().await;
    let addresses = [0, 1].map(|member| set.address(member).parse().expect("an address"));
    let [first, second]: [ServerAddress; 2] = addresses;
    let known = Arc::new(OnceLock::<Pools<B>>::new());
    let asked = known.clone();
    let (own, other) = (first.clone(), second.clone());
    let handlers = EventHandlers::new().on_cmap(move |event| {
        if matches!(event, CmapEvent::PoolCreated(event) if event.address == own) {
            let pools = asked.get().expect("pools");
            for address in [&own, &other] {
                assert!(pools.for_server(address).is_ok(), "{address}");
            }
        }
    });
    let pools: Pools<B> = builder(&set.uri())
        .event_handlers(handlers)
        .build()
        .expect("pools");
    known.set(pools.clone()).expect("once");
    pools.connect().expect("a runtime");
    let mut changed = pools.topology().subscribe();
    let seen = changed.wait_for(|known| known.server(&first).is_some());
    timeout(LIMIT, seen).await.expect("in time").expect("open");
    // On its own thread, which is left behind if it deadlocks.
    let (done, told) = oneshot::channel();
    let asking = pools.clone();
    std::thread::spawn(move || done.send(asking.for_server(&first).is_ok()));
    let told = timeout(LIMIT, told).await.expect("no deadlock");
    assert!(told.expect("no panic"));
    let servers: Vec<_> = pools.status().into_iter().map(|pool| pool.server).collect();
    assert_eq!(servers.len(), 2, "{servers:?}");
    assert!(servers.contains(&second));
    pools.close().await;
}
