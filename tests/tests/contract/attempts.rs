//! What becomes of attempts to make a connection, and of servers that let them hang.

use std::time::Duration;

use mongo_core::ErrorKind;
use mongo_core::bson::doc;
use mongo_core::pools::{Backend, PoolState, Pools, PoolsConfig};
use mongo_core::select::Criterion;
use mongo_testkit::{ConfigEntry, Matcher, MemberKind};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Sim, eventually, get_in_task, handshake, hold, ping, settled, status_of};

on_both! {
    on a paused clock:
    an_attempt_ends_with_its_caller,
    an_attempt_ends_when_its_pool_is_cleared,
    a_server_that_lets_attempts_hang_holds_up_no_other,
    a_server_that_comes_back_has_its_former_connections_still,
}

/// Far below `connectTimeoutMS`, which is 10 s.
const SOON: Duration = Duration::from_secs(2);

/// Soon, and not when `connectTimeoutMS` is over.
async fn nothing_is_made<B: Backend>(pools: &Pools<B>) {
    let ended = eventually("no attempt", || status_of(pools).pending == 0);
    timeout(SOON, ended).await.expect("soon");
}

async fn an_attempt_ends_with_its_caller<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxConnecting=1");
    let held = hold(&pools, 1).await;
    let server = sim.set.server(0);
    settled(server, 1).await;
    server.script().add(handshake().once().never_answer());
    let bound = Duration::from_millis(100);
    let late = pools.get_by(bound, &Criterion::write(), &[]).await;
    assert!(late.expect_err("no answer").is_timeout());
    nothing_is_made(&pools).await;
    let next = timeout(SOON, pools.get()).await;
    drop(next.expect("not held up").expect("a connection"));
    assert_eq!(status_of(&pools).size, 2);
    drop(held);
    pools.close().await;
}

async fn an_attempt_ends_when_its_pool_is_cleared<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxConnecting=1&heartbeatFrequencyMS=500");
    let mut held = hold(&pools, 2).await;
    let server = sim.set.server(0);
    settled(server, 2).await;
    server.script().add(handshake().once().never_answer());
    // Served by another, its attempt goes on for who comes next.
    let waiting = get_in_task(&pools);
    eventually("its attempt", || status_of(&pools).pending == 1).await;
    drop(held.pop());
    let mut served = waiting.await.expect("no panic").expect("a connection");
    sleep(Duration::from_millis(100)).await;
    assert_eq!(status_of(&pools).pending, 1);
    // The pool is cleared, and ready again soon.
    let find = Matcher::command("find").once();
    server.script().add(find.drop_connection());
    let failed = served
        .run_command("db", &doc! {"find": "c"})
        .await
        .map(drop);
    assert!(matches!(
        failed.expect_err("hung up").kind(),
        ErrorKind::Network(_)
    ));
    nothing_is_made(&pools).await;
    let next = timeout(SOON, pools.get()).await;
    drop(next.expect("not held up").expect("a connection"));
    drop((held, served));
    let status = status_of(&pools);
    assert_eq!((status.size, status.state), (1, PoolState::Ready));
    pools.close().await;
}

/// One of two members does not answer whoever wants a connection; the other is maintained as ever.
async fn a_server_that_lets_attempts_hang_holds_up_no_other<B: Backend<Config: Default>>() {
    let sim = Sim::of(2).await;
    let every_second = PoolsConfig::default().with_maintenance_interval(Duration::from_secs(1));
    let pools: Pools<B> = sim
        .builder("minPoolSize=1&maxIdleTimeMS=3000&connectTimeoutMS=60000")
        .config(every_second)
        .build()
        .expect("pools");
    ping(&pools).await.expect("a ping");
    let all_ready = || {
        let status = pools.status();
        status.len() == 2 && status.iter().all(|pool| pool.idle == 1)
    };
    pools.warm_up().await.expect("warm");
    eventually("both are warm", all_ready).await;
    let silent = sim.set.server(1);
    silent.script().add(handshake().never_answer());
    // Its idle connection is too old by then, and another is being made.
    sleep(Duration::from_secs(5)).await;
    drop(hold(&pools, 5).await);
    sleep(Duration::from_secs(6)).await;
    let primary = pools.topology().description();
    let primary = primary.primary().expect("a primary").address.clone();
    let status = pools.status();
    let own = status.iter().find(|pool| pool.server == primary);
    let own = own.expect("its pool");
    assert_eq!(own.size, 1, "{own:?}");
    assert!(own.closed.idle >= 5, "{own:?}");
    pools.close().await;
}

/// The cap on the connections to a server holds across its leaving and coming back.
async fn a_server_that_comes_back_has_its_former_connections_still<B>()
where
    B: Backend<Config: Default>,
{
    let sim = Sim::of(2).await;
    let pools: Pools<B> = sim
        .builder("heartbeatFrequencyMS=500")
        .config(PoolsConfig::default().with_max_connections_per_server(1))
        .build()
        .expect("pools");
    ping(&pools).await.expect("a ping");
    let known = || {
        let known = pools.topology().description();
        let members = known.servers().iter();
        members
            .filter(|own| own.server_type.is_data_bearing())
            .count()
    };
    eventually("both are known", || known() == 2).await;
    let primary = pools.topology().description();
    let primary = primary.primary().expect("a primary").address.clone();
    let servers = pools.topology().description();
    let mut others = servers.servers().iter().map(|own| own.address.clone());
    let other = others.rfind(|own| *own != primary).expect("two");
    let get = || async {
        let pool = pools.for_server(&other)?;
        pool.get(Duration::from_millis(500).into()).await
    };
    let held = get().await.expect("a connection");
    let entry = sim.set.look_at_set(|set| set.config(1).entry(1).cloned());
    sim.set.remove(1);
    eventually("it has left", || known() == 1).await;
    let entry: ConfigEntry = entry.expect("a member");
    assert_eq!(entry.kind, MemberKind::Electable);
    sim.set.change_set(|set| {
        let process = set.process(1).clone();
        set.add(entry, process);
    });
    eventually("it is back", || known() == 2).await;
    let full = get().await.map(drop).expect_err("the cap is reached");
    assert!(full.is_timeout(), "{full}");
    drop(held);
    let begun = Instant::now();
    drop(get().await.expect("there is room now"));
    assert!(begun.elapsed() < Duration::from_millis(100));
    pools.close().await;
}
