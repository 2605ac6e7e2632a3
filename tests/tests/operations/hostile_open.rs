//! Attacks that succeed: each test fails until its fault is mended.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::handshake::{ServerApi, ServerApiVersion};
use mongo_core::net::CredentialProvider;
use mongo_core::operation::{OperationKind, TimeoutMode, TransactionOptions};
use mongo_core::pools::{Backend, Pools, PoolsBuilder, Session};
use mongo_core::{ClientOptions, ErrorKind, Result};
use mongo_testkit::{Action, Deployment, Matcher, SimNetwork};
use tokio::time::{sleep, timeout};

use crate::hostile::{PING, garbage, nameless, tailed, with_tokens};
use crate::support::{Commands, OverSim, World, begun, eventually, insert, with_orders};

on_both! {
    a_write_is_not_repeated_as_another_nameless_user_of_a_provider,
    a_cancelled_call_of_a_stream_leaves_the_next_one_its_time,
    a_balancer_s_transaction_is_aborted_over_its_connection_after_a_cancelled_command,
    a_batch_that_was_not_asked_for_can_be_asked_for_again,
    a_malformed_command_is_refused_before_it_is_sent,
    fields_of_the_stable_api_are_sent_once,
    a_transaction_behind_a_balancer_stays_on_its_connection_after_a_cancelled_command,
    a_transaction_that_its_function_has_committed_is_not_run_again,
}

/// Claim 3: "if the server may have sent it, the cursor ends with this error; else the next call
/// tries again". Too little time for a round trip sends nothing.
async fn a_batch_that_was_not_asked_for_can_be_asked_for_again<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let find = crate::support::find();
    let find = world.pools.command("shop", &find).kind(OperationKind::Read);
    let find = find
        .timeout(Duration::from_secs(1))
        .timeout_mode(TimeoutMode::Iteration);
    let mut orders = find.cursor().await.expect("a cursor");
    for _ in 0..3 {
        orders.next_document().await.expect("the first batch");
    }
    // All connections are in use until just before the end of the call.
    let mut held = Vec::new();
    let primary = world.set.address(0);
    while let Ok(Ok(own)) = timeout(Duration::from_secs(5), world.pools.get()).await {
        assert_eq!(own.server().to_string(), primary);
        held.push(own);
    }
    let frees = async {
        sleep(Duration::from_micros(999_500)).await;
        drop(held);
    };
    let next = async {
        let error = orders.next_document().await.map(|own| own.is_some());
        error.expect_err("no time")
    };
    let (error, ()) = tokio::join!(next, frees);
    assert!(error.is_timeout(), "{error}");
    assert!(world.commands.of("getMore").is_empty(), "nothing was sent");
    let mut count = 3;
    while orders.next_document().await.expect("a batch").is_some() {
        count += 1;
    }
    assert_eq!(count, 10, "after {error:?}");
    drop(orders);
    world.pools.close().await;
}

/// Claim 6: a clear error, nothing lost. A server that closes the connection clears the pool, and
/// the command is sent once more.
async fn a_malformed_command_is_refused_before_it_is_sent<B: Backend<Config: Default>>() {
    let network = SimNetwork::new(5);
    let set = Deployment::replica_set("rs").members(1).network(&network);
    let set = set.start().await;
    let options = ClientOptions::parse(&set.uri()).expect("a connection string");
    let builder: PoolsBuilder<B> = Pools::builder(options);
    let builder = builder.connector(Arc::new(OverSim(network.clone())));
    let pools = builder.build().expect("pools");
    let mut wrong = Vec::new();
    for (name, case) in [
        ("the name", garbage(&[b"\x10\xff\xfe\0\x01\0\0\0"])),
        ("a key", garbage(&[PING, b"\x10\xff\0\x01\0\0\0"])),
        (
            "a string without an end",
            garbage(&[PING, b"\x02a\0\0\0\0\0"]),
        ),
        ("a string", garbage(&[PING, b"\x02a\0\x02\0\0\0\xff\0"])),
        (
            "a nested document",
            garbage(&[PING, b"\x03a\0\x08\0\0\0zzzz"]),
        ),
    ] {
        let own = pools.command("db", &case).kind(OperationKind::Read);
        let error = own.await.map(drop).expect_err("malformed");
        if !matches!(error.kind(), ErrorKind::Serialization(_)) {
            wrong.push(format!("{name}: {error}"));
        }
    }
    let accepted = set.server(0).look(|seen| seen.connections.len());
    pools.close().await;
    assert!(wrong.is_empty(), "{accepted} connections: {wrong:#?}");
}

/// Claim 6: a command that names a field that `command` sets itself.
async fn fields_of_the_stable_api_are_sent_once<B: Backend<Config: Default>>() {
    let network = SimNetwork::new(5);
    let set = Deployment::replica_set("rs").members(1).network(&network);
    let set = set.start().await;
    let commands = Commands::default();
    let mut options = ClientOptions::parse(&set.uri()).expect("a connection string");
    options.server_api = Some(ServerApi::new(ServerApiVersion::V1));
    let builder: PoolsBuilder<B> = Pools::builder(options);
    let pools = builder
        .connector(Arc::new(OverSim(network.clone())))
        .event_handlers(commands.handlers())
        .build()
        .expect("pools");
    let ping = doc! { "ping": 1, "apiVersion": "1" };
    let outcome = pools.command("db", &ping).await.map(drop);
    let sent = set.server(0).look(|seen| seen.count("ping"));
    assert!(
        outcome.is_err() && sent == 0,
        "the field is sent twice: {outcome:?}"
    );
    pools.close().await;
}

/// Claim 4: a transaction behind a load balancer runs on one connection, or ends.
async fn a_transaction_behind_a_balancer_stays_on_its_connection_after_a_cancelled_command<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::load_balanced("").await;
    let mut session: Session<B> = world.session();
    session
        .start_transaction(TransactionOptions::default())
        .expect("a transaction");
    insert(&world.pools, &mut session).await.expect("a write");
    world.cancelled_insert(&mut session).await;
    let _ = insert(&world.pools, &mut session).await;
    let connections = world.set.server(0).look(|seen| {
        let inserts = seen.commands("insert");
        inserts.map(|own| own.connection).collect::<Vec<_>>()
    });
    assert!(
        connections.iter().all(|own| *own == connections[0]),
        "{connections:?}"
    );
    drop(session);
    world.pools.close().await;
}

/// Claim 4: never run again after an acknowledged commit.
async fn a_transaction_that_its_function_has_committed_is_not_run_again<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    let (world, mut runs) = (&world, 0);
    let done = session
        .with_transaction(TransactionOptions::default(), async |session| {
            runs += 1;
            insert(&world.pools, session).await?;
            session.commit_transaction().await?;
            if runs > 1 {
                return Ok(());
            }
            // Another transaction fails.
            world.fail(
                1,
                doc! { "failCommands": ["insert"], "closeConnection": true },
            );
            let mut other = world.session();
            other.start_transaction(TransactionOptions::default())?;
            insert(&world.pools, &mut other).await
        })
        .await;
    assert_eq!(runs, 1, "{done:?}");
    drop(session);
    world.pools.close().await;
}

struct Vault(Mutex<Credential>);

#[async_trait]
impl CredentialProvider for Vault {
    async fn credential(&self) -> Result<Arc<Credential>> {
        Ok(Arc::new(self.0.lock().expect("no panic").clone()))
    }
}

/// Claim 2, as with `Pools::rotate`: the names of both are empty, so their principals are equal.
async fn a_write_is_not_repeated_as_another_nameless_user_of_a_provider<
    B: Backend<Config: Default>,
>() {
    let (world, host) = with_tokens::<B>().await;
    let vault = Arc::new(Vault(Mutex::new(nameless(&[&host]))));
    let pools = world.pools.with_credential_provider(vault.clone());
    let pools = pools.expect("a handle");
    let lost = Matcher::command("insert").times(1);
    let lost = lost.then(Action::Delay(Duration::from_secs(1)));
    let lost = lost.then(Action::NoReply).then(Action::Close);
    world.set.server(0).script().add(lost);
    let write = async {
        let write = doc! { "insert": "c", "documents": [{ "x": 1 }] };
        let write = pools.command("db", &write).kind(OperationKind::Write);
        write.await.map(drop)
    };
    let changes = async {
        let count = || world.set.server(0).look(|seen| seen.count("insert"));
        eventually("an insert", || count() == 1).await;
        *vault.0.lock().expect("no panic") = nameless(&[&host, "other.example.net"]);
    };
    let (outcome, ()) = tokio::join!(write, changes);
    assert_eq!(world.commands.of("insert").len(), 1, "{outcome:?}");
    world.pools.close().await;
}

/// The same as `a_cancelled_call_leaves_the_next_one_its_time`, for the cursor as a stream.
async fn a_cancelled_call_of_a_stream_leaves_the_next_one_its_time<B: Backend<Config: Default>>() {
    let (world, second) = (with_orders::<B>().await, Duration::from_secs(1));
    let mut orders = tailed(&world).await;
    let first = timeout(second / 2, StreamExt::next(&mut orders)).await;
    assert!(first.is_err(), "the server waits");
    sleep(second * 5).await;
    let next = StreamExt::next(&mut orders).await.expect("no end");
    let next = next.expect("each call has 3 s");
    assert_eq!(next.get_i32("_id").ok(), Some(77));
    drop(orders);
    world.pools.close().await;
}

/// Claim 4: over another connection, a balancer may choose another mongos, which does not know the
/// transaction: it stays open for 60 s.
async fn a_balancer_s_transaction_is_aborted_over_its_connection_after_a_cancelled_command<
    B: Backend<Config: Default>,
>() {
    let world = World::<B>::load_balanced("").await;
    let mut session = begun(&world).await;
    world.cancelled_insert(&mut session).await;
    session.abort_transaction().await.expect("an abort");
    let connections = world.set.server(0).look(|seen| {
        let ends = seen.commands("abortTransaction");
        let own = seen.commands("insert").chain(ends);
        own.map(|own| own.connection).collect::<Vec<_>>()
    });
    assert!(
        connections.iter().all(|own| *own == connections[0]),
        "{connections:?}"
    );
    drop(session);
    world.pools.close().await;
}
