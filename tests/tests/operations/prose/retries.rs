//! Retryable reads, retryable writes, client backpressure.

use std::collections::BTreeSet;
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::pools::Backend;
use mongo_testkit::{Action, Matcher};
use tokio::time::Instant;

use super::{OVERLOAD, fail_first, find, insert, refusal};
use crate::support::World;

on_both! {
    reads_2_1_a_different_mongos_if_there_is_one,
    reads_2_2_the_same_mongos_if_there_is_no_other,
    reads_3_retargeting_after_an_overload_only_if_enabled,
    reads_4_an_overload_sets_the_maximum_of_all_retries,
    reads_5_no_backoff_after_other_errors,
    writes_1_the_error_of_mmapv1_is_replaced,
    writes_3_the_original_error_after_a_write_concern_error,
    writes_4_a_different_mongos_if_there_is_one,
    writes_5_the_same_mongos_if_there_is_no_other,
    writes_6_1_the_last_error_without_nowritesperformed,
    writes_6_2_the_first_error_of_those_with_nowritesperformed,
    writes_6_3_the_error_without_nowritesperformed_of_both,
    writes_6_4_an_overload_sets_the_maximum_of_all_retries,
    writes_6_5_no_backoff_after_other_errors,
    backpressure_1_retries_back_off,
    backpressure_3_the_maximum_of_retries,
    backpressure_4_maxadaptiveretries,
    backpressure_5_basebackoffms,
}

fn is_on_two<B: Backend>(world: &World<B>, name: &str) -> bool {
    let servers = world.commands.servers_of(name);
    assert_eq!(servers.len(), 2);
    BTreeSet::from_iter(servers).len() == 2
}

async fn reads_2_1_a_different_mongos_if_there_is_one<B: Backend<Config: Default>>() {
    let world = World::<B>::sharded(2, "retryReads=true").await;
    for router in 0..2 {
        let data = doc! { "failCommands": ["find"], "errorCode": 6 };
        world.set.fail_commands(router, doc! { "times": 1 }, data);
    }
    let error = find(&world).await.map(drop).expect_err("both fail");
    assert_eq!(error.code(), Some(6));
    assert!(is_on_two(&world, "find"));
    world.pools.close().await;
}

async fn reads_2_2_the_same_mongos_if_there_is_no_other<B: Backend<Config: Default>>() {
    let world = World::<B>::sharded(1, "retryReads=true").await;
    world.fail(1, doc! { "failCommands": ["find"], "errorCode": 6 });
    find(&world).await.map(drop).expect("the second attempt");
    assert!(!is_on_two(&world, "find"));
    world.pools.close().await;
}

async fn reads_3_retargeting_after_an_overload_only_if_enabled<B: Backend<Config: Default>>() {
    let labels = |is_overload| {
        if is_overload {
            &OVERLOAD[..]
        } else {
            &OVERLOAD[..1]
        }
    };
    for (options, is_overload, is_elsewhere) in [
        ("&enableOverloadRetargeting=true", true, true),
        ("", false, false),
        ("", true, false),
    ] {
        let options = format!("readPreference=primaryPreferred{options}");
        let world = World::<B>::replica_set(&options).await;
        let once = Matcher::command("find").once();
        let refusal = refusal(6, labels(is_overload));
        let script = world.set.server(0).script();
        script.add(once.then(Action::Error(refusal)));
        find(&world).await.map(drop).expect("the second attempt");
        assert_eq!(is_on_two(&world, "find"), is_elsewhere, "{options}");
        world.pools.close().await;
    }
}

async fn reads_4_an_overload_sets_the_maximum_of_all_retries<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    fail_first(
        &world,
        "find",
        refusal(91, &OVERLOAD),
        refusal(91, &OVERLOAD[..1]),
    );
    let error = find(&world).await.map(drop).expect_err("all fail");
    assert_eq!(error.code(), Some(91));
    assert_eq!(world.commands.of("find").len(), 3);
    world.pools.close().await;
}

/// The time of one backoff at most: 0.2 s, and some round trips and checks of the server.
const ONE_BACKOFF: Duration = Duration::from_millis(250);

async fn reads_5_no_backoff_after_other_errors<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    world.ping().await.expect("known servers");
    // Code 6 does not make the server unknown, whose next check would take its time.
    fail_first(
        &world,
        "find",
        refusal(6, &OVERLOAD),
        refusal(6, &OVERLOAD[..1]),
    );
    let begun = Instant::now();
    find(&world).await.map(drop).expect_err("all fail");
    assert!(begun.elapsed() < ONE_BACKOFF, "{:?}", begun.elapsed());
    assert_eq!(world.commands.of("find").len(), 3);
    world.pools.close().await;
}

async fn writes_1_the_error_of_mmapv1_is_replaced<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let text = "Transaction numbers are only allowed on a replica set member or mongos";
    let refusal = mongo_testkit::ErrorReply::new(20, "IllegalOperation", text);
    let refused = Matcher::command("insert").then(Action::Error(refusal));
    world.set.server(0).script().add(refused);
    let error = insert(&world).await.map(drop).expect_err("no support");
    let own = error.command().expect("a reply");
    let expected = "This MongoDB deployment does not support retryable writes. Please add \
                    retryWrites=false to your connection string.";
    assert_eq!((own.code, &*own.message), (20, expected));
    world.pools.close().await;
}

async fn writes_3_the_original_error_after_a_write_concern_error<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let script = world.set.server(0).script();
    let unconfirmed = doc! {
        "writeConcernError": { "code": 91, "errmsg": "shutting down" },
        "errorLabels": ["RetryableWriteError"],
    };
    let once = Matcher::command("insert").once();
    script.add(once.then(Action::Merge(unconfirmed)));
    let nothing = refusal(10107, &["RetryableWriteError", "NoWritesPerformed"]);
    let once = Matcher::command("insert").once();
    script.add(once.then(Action::Error(nothing)));
    let outcome = insert(&world).await.and_then(|reply| reply.check_write());
    assert_eq!(outcome.expect_err("unconfirmed").code(), Some(91));
    assert_eq!(world.commands.of("insert").len(), 2);
    world.pools.close().await;
}

async fn writes_4_a_different_mongos_if_there_is_one<B: Backend<Config: Default>>() {
    let world = World::<B>::sharded(2, "retryWrites=true").await;
    let data = doc! {
        "failCommands": ["insert"], "errorCode": 6, "errorLabels": ["RetryableWriteError"],
    };
    for router in 0..2 {
        let once = doc! { "times": 1 };
        world.set.fail_commands(router, once, data.clone());
    }
    insert(&world).await.map(drop).expect_err("both fail");
    assert!(is_on_two(&world, "insert"));
    world.pools.close().await;
}

async fn writes_5_the_same_mongos_if_there_is_no_other<B: Backend<Config: Default>>() {
    let world = World::<B>::sharded(1, "retryWrites=true").await;
    let data = doc! {
        "failCommands": ["insert"], "errorCode": 6, "errorLabels": ["RetryableWriteError"],
        "closeConnection": true,
    };
    world.fail(1, data);
    insert(&world).await.map(drop).expect("the second attempt");
    assert!(!is_on_two(&world, "insert"));
    world.pools.close().await;
}

/// Two different errors, each of an overloaded server, and the error that counts.
async fn propagated<B: Backend<Config: Default>>(
    first: (i32, bool),
    then: (i32, bool),
) -> (Option<i32>, bool) {
    const NOTHING: &str = "NoWritesPerformed";
    let world = World::<B>::replica_set("").await;
    let reply = |(code, is_nothing): (i32, bool)| {
        let refusal = refusal(code, &OVERLOAD);
        if is_nothing {
            refusal.label(NOTHING)
        } else {
            refusal
        }
    };
    fail_first(&world, "insert", reply(first), reply(then));
    let error = insert(&world).await.map(drop).expect_err("all fail");
    world.pools.close().await;
    (error.code(), error.has_label(NOTHING))
}

async fn writes_6_1_the_last_error_without_nowritesperformed<B: Backend<Config: Default>>() {
    let counts = propagated::<B>((91, false), (10107, false)).await;
    assert_eq!(counts, (Some(10107), false));
}

async fn writes_6_2_the_first_error_of_those_with_nowritesperformed<B: Backend<Config: Default>>() {
    let counts = propagated::<B>((91, true), (10107, true)).await;
    assert_eq!(counts, (Some(91), true));
}

async fn writes_6_3_the_error_without_nowritesperformed_of_both<B: Backend<Config: Default>>() {
    let counts = propagated::<B>((91, false), (91, true)).await;
    assert_eq!(counts, (Some(91), false));
}

async fn writes_6_4_an_overload_sets_the_maximum_of_all_retries<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let others = ["RetryableError", "RetryableWriteError"];
    fail_first(
        &world,
        "insert",
        refusal(91, &OVERLOAD),
        refusal(91, &others),
    );
    insert(&world).await.map(drop).expect_err("all fail");
    assert_eq!(world.commands.of("insert").len(), 3);
    world.pools.close().await;
}

async fn writes_6_5_no_backoff_after_other_errors<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    world.ping().await.expect("known servers");
    let others = ["RetryableError", "RetryableWriteError"];
    fail_first(&world, "insert", refusal(6, &OVERLOAD), refusal(6, &others));
    let begun = Instant::now();
    insert(&world).await.map(drop).expect_err("all fail");
    assert!(begun.elapsed() < ONE_BACKOFF, "{:?}", begun.elapsed());
    assert_eq!(world.commands.of("insert").len(), 3);
    world.pools.close().await;
}

/// The mean time of an insert that an overloaded server refuses each time. The jitter is random: its
/// mean is a half.
async fn mean_of_refused_inserts<B: Backend<Config: Default>>(base: Option<i32>) -> Duration {
    const TIMES: u32 = 200;
    let world = World::<B>::replica_set("").await;
    world.ping().await.expect("known servers");
    let refusal = refusal(2, &OVERLOAD);
    let refusal = match base {
        Some(base) => refusal.field("baseBackoffMS", base),
        None => refusal,
    };
    let refused = Matcher::command("insert").then(Action::Error(refusal));
    world.set.server(0).script().add(refused);
    let begun = Instant::now();
    for _ in 0..TIMES {
        insert(&world).await.map(drop).expect_err("overloaded");
    }
    let mean = begun.elapsed() / TIMES;
    assert_eq!(world.commands.of("insert").len(), 600);
    world.pools.close().await;
    mean
}

async fn backpressure_1_retries_back_off<B: Backend<Config: Default>>() {
    let mean = mean_of_refused_inserts::<B>(None).await.as_millis();
    assert!((250..360).contains(&mean), "{mean} of 600 ms / 2");
}

async fn backpressure_3_the_maximum_of_retries<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let refused = refusal(462, &OVERLOAD);
    fail_first(&world, "find", refused.clone(), refused);
    let error = find(&world).await.map(drop).expect_err("overloaded");
    assert!(OVERLOAD.iter().all(|label| error.has_label(label)));
    assert_eq!(world.commands.of("find").len(), 3);
    world.pools.close().await;
}

async fn backpressure_4_maxadaptiveretries<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("maxAdaptiveRetries=1").await;
    let refused = refusal(462, &OVERLOAD);
    fail_first(&world, "find", refused.clone(), refused);
    let error = find(&world).await.map(drop).expect_err("overloaded");
    assert!(OVERLOAD.iter().all(|label| error.has_label(label)));
    assert_eq!(world.commands.of("find").len(), 2);
    world.pools.close().await;
}

async fn backpressure_5_basebackoffms<B: Backend<Config: Default>>() {
    let mean = mean_of_refused_inserts::<B>(Some(50)).await.as_millis();
    assert!((120..200).contains(&mean), "{mean} of 300 ms / 2");
}
