//! Connection monitoring and pooling, prose tests 1 to 5.

use std::time::Duration;

use mongo_core::auth::Credential;
use mongo_core::bson::Document;
use mongo_core::event::{CheckOutFailedReason, CmapEvent, PoolCreatedOptions};
use mongo_core::pools::{Backend, Pools};
use mongo_core::{ClientOptions, ErrorKind};
use mongo_testkit::{Deployment, Matcher, User};

use crate::support::{Kept, builder, observed, ping};

on_both! {
    all_options_are_set_on_the_client_and_shared_by_its_pools,
    all_options_can_be_in_the_uri,
    subscribers_receive_all_pool_events,
    a_connection_that_cannot_be_set_up_fails_the_check_out,
}

async fn set() -> Deployment {
    let set = Deployment::replica_set("rs").members(3);
    let set = set.user(User::new("one", "first"));
    set.user(User::new("two", "second")).start().await
}

/// Checks that all six pools, of two credentials on three servers, have the options.
async fn check_options<B: Backend<Config: Default>>(options: ClientOptions) {
    let kept = Kept::default();
    let pools: Pools<B> = Pools::builder(options)
        .event_handlers(kept.handlers())
        .build()
        .expect("pools");
    let two = pools.with_credential(Credential::new("two", "second").with_source("admin"));
    for pools in [&pools, &two.expect("a handle")] {
        pools.warm_up().await.expect("warm");
    }
    let created: Vec<PoolCreatedOptions> = kept
        .events()
        .into_iter()
        .filter_map(|event| match event {
            CmapEvent::PoolCreated(event) => Some(event.options),
            _ => None,
        })
        .collect();
    assert_eq!(created.len(), 6);
    for options in created {
        assert_eq!(options.max_pool_size, Some(7));
        assert_eq!(options.min_pool_size, Some(1));
        assert_eq!(options.max_connecting, Some(3));
        assert_eq!(options.max_idle_time, Some(Duration::from_secs(90)));
        assert_eq!(options.wait_queue_timeout, Some(Duration::from_secs(5)));
    }
    pools.close().await;
}

/// 1 and 2: "All ConnectionPoolOptions MUST be specified at the MongoClient level", and "be the
/// same for all pools".
async fn all_options_are_set_on_the_client_and_shared_by_its_pools<B: Backend<Config: Default>>() {
    let set = set().await;
    let mut options = ClientOptions::parse(&set.uri_for("one", "first")).expect("options");
    options.max_pool_size = 7;
    options.min_pool_size = 1;
    options.max_connecting = 3;
    options.max_idle_time = Some(Duration::from_secs(90));
    options.wait_queue_timeout = Some(Duration::from_secs(5));
    check_options::<B>(options).await;
    set.shutdown().await;
}

/// 3: "A user MUST be able to specify all ConnectionPoolOptions via a URI string".
async fn all_options_can_be_in_the_uri<B: Backend<Config: Default>>() {
    let set = set().await;
    let uri = format!(
        "{}&maxPoolSize=7&minPoolSize=1&maxConnecting=3&maxIdleTimeMS=90000&waitQueueTimeoutMS=5000",
        set.uri_for("one", "first")
    );
    check_options::<B>(ClientOptions::parse(&uri).expect("options")).await;
    set.shutdown().await;
}

/// 4: "A user MUST be able to subscribe to Connection Monitoring Events".
async fn subscribers_receive_all_pool_events<B: Backend<Config: Default>>() {
    let set = set().await;
    let (pools, kept) = observed(builder::<B>(&set.uri_for("one", "first")));
    ping(&pools).await.expect("a pong");
    pools.close().await;
    let names = [
        "PoolCreated",
        "PoolReady",
        "ConnectionCheckOutStarted",
        "ConnectionCreated",
        "ConnectionReady",
        "ConnectionCheckedOut",
        "ConnectionCheckedIn",
        "ConnectionClosed",
        "PoolClosed",
    ];
    assert_eq!(kept.names(), names);
    set.shutdown().await;
}

/// 5: "When a check out attempt fails because connection set up throws an error, assert that a
/// ConnectionCheckOutFailedEvent with reason="connectionError" is emitted."
async fn a_connection_that_cannot_be_set_up_fails_the_check_out<B: Backend<Config: Default>>() {
    let set = set().await;
    let (pools, kept) = observed(builder::<B>(&set.uri_for("one", "first")));
    // Monitors do not authenticate.
    let of_pool = |hello: &Document| hello.contains_key("speculativeAuthenticate");
    let rule = Matcher::hello().when(of_pool).once().drop_connection();
    set.server(0).script().add(rule);
    let failed = pools.get().await.expect_err("no hello");
    assert!(matches!(failed.kind(), ErrorKind::Network(_)), "{failed}");
    let wrong = pools.with_credential(Credential::new("one", "wrong").with_source("admin"));
    let refused = wrong.expect("a handle").get().await;
    assert!(refused.expect_err("a wrong password").is_authentication());
    let reasons: Vec<_> = kept
        .events()
        .into_iter()
        .filter_map(|event| match event {
            CmapEvent::ConnectionCheckOutFailed(event) => Some((event.reason, event.error)),
            _ => None,
        })
        .collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    for (reason, error) in reasons {
        assert_eq!(reason, CheckOutFailedReason::ConnectionError);
        assert!(error.is_some());
    }
    pools.close().await;
    set.shutdown().await;
}
