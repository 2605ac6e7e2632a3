//! Connection attempts that outlive their callers, hang or fail.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use mongo_core::ErrorKind;
use mongo_core::bson::doc;
use mongo_core::pools::{Backend, PoolState, Pools, PoolsConfig};
use mongo_core::select::Criterion;
use mongo_testkit::{Action, ConfigEntry, Matcher, MemberKind};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Sim, eventually, get_in_task, handshake, hold, ping, settled, status_of};

on_both! {
    on a paused clock:
    an_attempt_outlives_its_caller_and_serves_the_next,
    a_hung_attempt_keeps_its_permit_for_a_grace_period_only,
    a_slow_server_eventually_serves_callers_with_short_timeouts,
    callers_with_short_timeouts_are_eventually_served,
    unpolled_callers_block_no_other,
    an_attempt_ends_when_its_pool_is_cleared,
    a_server_whose_attempts_hang_blocks_no_other_server,
    a_returning_server_still_counts_its_former_connections,
}

/// Far below `connectTimeoutMS`, which is 10 s.
const SOON: Duration = Duration::from_secs(2);

/// Waits until no attempt is pending, which must take far less than `connectTimeoutMS`.
async fn nothing_is_made<B: Backend>(pools: &Pools<B>) {
    let ended = eventually("no attempt", || status_of(pools).pending == 0);
    timeout(SOON, ended).await.expect("soon");
}

/// A check-out that times out before its attempt ends.
async fn expires<B: Backend>(pools: &Pools<B>) {
    let bound = Duration::from_millis(100);
    let late = pools.get_by(bound, &Criterion::write(), &[]).await;
    assert!(late.expect_err("no answer").is_timeout());
}

async fn an_attempt_outlives_its_caller_and_serves_the_next<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxConnecting=1");
    let held = hold(&pools, 1).await;
    let server = sim.set.server(0);
    settled(server, 1).await;
    let slow = Action::Delay(Duration::from_millis(300));
    server.script().add(handshake().once().then(slow.clone()));
    expires(&pools).await;
    assert_eq!(status_of(&pools).pending, 1);
    let begun = Instant::now();
    let next = pools.get().await.expect("a connection");
    assert!(begun.elapsed() <= Duration::from_millis(250));
    let status = status_of(&pools);
    assert_eq!((status.size, status.created), (2, 2), "{status:?}");
    drop((held, next));
    // Without a waiting caller, the connection is kept.
    let all = hold(&pools, 2).await;
    server.script().add(handshake().once().then(slow.clone()));
    expires(&pools).await;
    drop(all);
    eventually("it is idle", || status_of(&pools).idle == 3).await;
    pools.close().await;
}

async fn a_hung_attempt_keeps_its_permit_for_a_grace_period_only<B>()
where
    B: Backend<Config: Default>,
{
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxConnecting=1");
    let held = hold(&pools, 1).await;
    let server = sim.set.server(0);
    settled(server, 1).await;
    server.script().add(handshake().once().never_answer());
    expires(&pools).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(status_of(&pools).pending, 1, "no caller waits for it");
    drop(pools.get().await.expect("a connection"));
    let status = status_of(&pools);
    assert_eq!((status.size, status.pending), (2, 0), "{status:?}");
    // The next caller comes within the grace period, and adopts the attempt at first.
    let all = hold(&pools, 1).await;
    server.script().add(handshake().once().never_answer());
    expires(&pools).await;
    let begun = Instant::now();
    drop(pools.get().await.expect("a connection"));
    let waited = begun.elapsed();
    assert!(waited < Duration::from_millis(1100), "{waited:?}");
    drop((held, all));
    pools.close().await;
}

/// Each handshake takes longer than any caller's timeout and the first grace period.
async fn a_slow_server_eventually_serves_callers_with_short_timeouts<
    B: Backend<Config: Default>,
>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxConnecting=1");
    let slow = Action::Delay(Duration::from_secs(3));
    sim.set.server(0).script().add(handshake().then(slow));
    let begun = Instant::now();
    let served = async {
        while pools
            .get_by(Duration::from_millis(200), &Criterion::write(), &[])
            .await
            .is_err()
        {}
    };
    timeout(Duration::from_secs(60), served)
        .await
        .expect("served");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    pools.close().await;
}

/// Each caller has 200 ms. Each hello takes 300 ms.
async fn callers_with_short_timeouts_are_eventually_served<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    sim.set
        .server(0)
        .script()
        .add(handshake().then(Action::Delay(Duration::from_millis(300))));
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let pools = pools.clone();
        callers.spawn(async move {
            let (mut served, end) = (0_u32, Instant::now() + Duration::from_secs(8));
            while Instant::now() < end {
                let hasty = Duration::from_millis(200);
                if let Ok(connection) = pools.get_by(hasty, &Criterion::write(), &[]).await {
                    sleep(Duration::from_millis(10)).await;
                    drop(connection);
                    served += 1;
                }
            }
            served
        });
    }
    sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    drop(pools.get().await.expect("a patient caller"));
    let patient = begun.elapsed();
    assert!(patient < Duration::from_secs(1), "{patient:?}");
    let served = callers.join_all().await;
    let created = status_of(&pools).created;
    assert!(served.iter().all(|own| *own > 100), "{served:?}");
    assert!(created <= 12, "{created} connections were begun");
    pools.close().await;
}

/// Check-outs that were begun and are no longer polled, as in a `select!`.
async fn unpolled_callers_block_no_other<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxConnecting=2");
    drop(pools.get().await.expect("the server is known"));
    let held = hold(&pools, 1).await;
    let mut unpolled: Vec<_> = (0..2).map(|_| Box::pin(pools.get())).collect();
    for check_out in &mut unpolled {
        let polled = poll_fn(|context| Poll::Ready(check_out.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    }
    let others = async {
        for _ in 0..5 {
            drop(pools.get().await.expect("a connection"));
        }
    };
    timeout(SOON, others).await.expect("not held up");
    drop((held, unpolled));
    pools.close().await;
}

async fn an_attempt_ends_when_its_pool_is_cleared<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxConnecting=1&heartbeatFrequencyMS=500");
    let mut held = hold(&pools, 2).await;
    let server = sim.set.server(0);
    settled(server, 2).await;
    server.script().add(handshake().once().never_answer());
    // The waiter is served by a returned connection, and its attempt continues for the next caller.
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

/// One of two members answers no handshake. The pool of the other is still maintained.
async fn a_server_whose_attempts_hang_blocks_no_other_server<B: Backend<Config: Default>>() {
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
    // By then its idle connection has expired, and another one is being made.
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

/// The cap on the connections to a server holds if the server leaves the topology and returns.
async fn a_returning_server_still_counts_its_former_connections<B>()
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
