//! The sweeps on a connection without a pool.

use bson::rawdoc;
use mongo_core::error::Wait;
use mongo_core::pools::{ConnectionFactory, ManagerConfig};
use mongo_core::wire::{MsgFlags, Readiness};
use mongo_core::{Connection, Deadline, Error, ErrorKind};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::cut::{BOUND, Cut, block_on};
use crate::memory::{COMPRESSED, Network, PLAIN, SCRAM, keys};
use crate::replies::{echo, go_on, message, payload, payload_of, run, run_expired, run_in_time};
use crate::tally::Outcome::{self, Clean, Closed, Completed, Drained};
use crate::tally::Tally;

fn config() -> ManagerConfig {
    let mut config = ManagerConfig::default();
    config.command_timeout = Some(BOUND);
    config.drain_timeout = Some(BOUND);
    config
}

async fn connect(factory: &ConnectionFactory) -> Connection {
    let connected = factory.establish(Deadline::never()).await;
    connected.expect("a connection")
}

/// Ends `operation` after each number of polls, on a connection prepared by `prepare`.
async fn sweep(
    cut: Cut,
    prepare: impl AsyncFn(&mut Connection),
    operation: impl AsyncFn(&mut Connection) -> Result<(), Error>,
    expected: &[Outcome],
) {
    sweep_for(PLAIN, cut, prepare, operation, expected).await;
}

/// The same, with the credential of a connection string.
async fn sweep_for(
    uri: &str,
    cut: Cut,
    prepare: impl AsyncFn(&mut Connection),
    operation: impl AsyncFn(&mut Connection) -> Result<(), Error>,
    expected: &[Outcome],
) {
    let network = Network::default();
    let factory = network.factory(uri, config(), keys());
    let mut tally = Tally::default();
    for polls in cut.polls() {
        network.bytewise(false);
        let mut connection = connect(&factory).await;
        prepare(&mut connection).await;
        network.bytewise(true);
        let ended = cut.after(polls, operation(&mut connection)).await;
        let completed = matches!(ended, Some(Ok(())));
        if let Some(Err(error)) = ended {
            assert!(error.is_timeout(), "{error}");
        }
        let outcome = go_on(&mut connection).await;
        tally.add(if completed { Completed } else { outcome });
        drop(connection);
        assert_eq!(network.open(), 0);
        network.assert_no_faults();
        if completed {
            return tally.assert(expected);
        }
    }
    panic!("the operation never ended");
}

async fn nothing(_: &mut Connection) {}

/// Sends a command and leaves its reply unread.
async fn owe(connection: &mut Connection) {
    let message = message(77, MsgFlags::NONE, &echo(&payload()));
    connection
        .send(&message, Deadline::never())
        .await
        .expect("sent");
    assert_eq!(connection.readiness(), Readiness::Owed);
}

macro_rules! sweeps {
    ($($name:ident: $cut:ident, $prepare:expr, $operation:expr, $expected:expr;)+) => {
        $(#[test]
        fn $name() {
            block_on(sweep(Cut::$cut, $prepare, $operation, &$expected));
        })+
    };
}

sweeps! {
    run_command_dropped: Drop, nothing, run, [Clean, Drained, Closed, Completed];
    run_command_timed_out: TimeOut, nothing, run, [Drained, Closed, Completed];
    run_command_by_dropped: Drop, nothing, run_in_time, [Clean, Drained, Closed, Completed];
    run_command_by_timed_out: TimeOut, nothing, run_in_time, [Drained, Closed, Completed];
    run_command_with_a_reply_owed_dropped: Drop, owe, run, [Drained, Closed, Completed];
    run_command_with_a_reply_owed_timed_out: TimeOut, owe, run, [Drained, Closed, Completed];
    send_dropped: Drop, nothing, async |connection| send(connection, Cut::Drop).await, [Clean, Closed, Completed];
    send_timed_out: TimeOut, nothing, async |connection| send(connection, Cut::TimeOut).await, [Closed, Completed];
    send_unanswered_dropped: Drop, nothing, send_unanswered, [Clean, Closed, Completed];
    receive_dropped: Drop, owe, async |connection| receive(connection, Cut::Drop).await, [Drained, Completed];
    receive_timed_out: TimeOut, owe, async |connection| receive(connection, Cut::TimeOut).await, [Drained, Completed];
    drain_dropped: Drop, owe, async |connection| connection.drain(Deadline::never()).await, [Drained, Completed];
    drain_timed_out: TimeOut, owe, async |connection| connection.drain(Deadline::never()).await, [Closed, Completed];
    stream_dropped: Drop, nothing, async |connection| stream(connection, false).await, [Clean, Closed, Completed];
    chained_stream_dropped: Drop, nothing, async |connection| stream(connection, true).await, [Clean, Closed, Completed];
}

#[test]
fn compressed_dropped() {
    let expected = [Clean, Drained, Closed, Completed];
    let agreed = async |connection: &mut Connection| {
        assert!(connection.description().compressor.is_some());
    };
    block_on(sweep_for(COMPRESSED, Cut::Drop, agreed, run, &expected));
    let expected = [Drained, Closed, Completed];
    block_on(sweep_for(COMPRESSED, Cut::Drop, owe, run, &expected));
    let send = async |connection: &mut Connection| send(connection, Cut::Drop).await;
    let expected = [Clean, Closed, Completed];
    block_on(sweep_for(COMPRESSED, Cut::Drop, nothing, send, &expected));
    let stream = async |connection: &mut Connection| stream(connection, true).await;
    block_on(sweep_for(COMPRESSED, Cut::Drop, nothing, stream, &expected));
}

#[test]
fn compressed_timed_out() {
    let expected = [Drained, Closed, Completed];
    block_on(sweep_for(COMPRESSED, Cut::TimeOut, nothing, run, &expected));
    block_on(sweep_for(COMPRESSED, Cut::TimeOut, owe, run, &expected));
}

/// The server demands reauthentication, and the command is run again.
#[test]
fn reauthentication_dropped() {
    let expected = [Clean, Drained, Closed, Completed];
    block_on(sweep_for(SCRAM, Cut::Drop, nothing, run_expired, &expected));
}

#[test]
fn reauthentication_timed_out() {
    let expected = [Drained, Closed, Completed];
    block_on(sweep_for(
        SCRAM,
        Cut::TimeOut,
        nothing,
        run_expired,
        &expected,
    ));
}

async fn send(connection: &mut Connection, cut: Cut) -> Result<(), Error> {
    let message = message(1, MsgFlags::NONE, &echo(&payload()));
    connection.send(&message, cut.deadline()).await
}

async fn send_unanswered(connection: &mut Connection) -> Result<(), Error> {
    let message = message(1, MsgFlags::MORE_TO_COME, &echo(&payload()));
    connection.send(&message, Deadline::never()).await
}

async fn receive(connection: &mut Connection, cut: Cut) -> Result<(), Error> {
    connection.receive(cut.deadline()).await.map(drop)
}

/// Sends a request with three replies, and receives all of them.
async fn stream(connection: &mut Connection, chained: bool) -> Result<(), Error> {
    let payloads = [payload(), payload(), payload()];
    let [first, second, third] = payloads.each_ref().map(String::as_str);
    let command = rawdoc! { "stream": [first, second, third], "chained": chained };
    let message = message(9, MsgFlags::EXHAUST_ALLOWED, &command);
    connection.send(&message, Deadline::never()).await?;
    for payload in &payloads {
        let reply = connection.receive(Deadline::never()).await?;
        assert_eq!(payload_of(reply), *payload);
    }
    Ok(())
}

/// `receive` is cancellation safe: if it is dropped and called again, it loses nothing.
#[tokio::test(start_paused = true)]
async fn receive_resumes_after_a_drop() {
    let network = Network::default();
    let factory = network.factory(PLAIN, config(), keys());
    for chained in [false, true] {
        let mut dropped = 0;
        for polls in 1.. {
            network.bytewise(false);
            let mut connection = connect(&factory).await;
            let payloads = [payload(), payload()];
            let [first, second] = payloads.each_ref().map(String::as_str);
            let command = rawdoc! { "stream": [first, second], "chained": chained };
            let message = message(9, MsgFlags::EXHAUST_ALLOWED, &command);
            let sent = connection.send(&message, Deadline::never()).await;
            sent.expect("sent");
            network.bytewise(true);
            let before = dropped;
            for payload in &payloads {
                let reply = loop {
                    let receive = async {
                        let reply = connection.receive(Deadline::never()).await;
                        payload_of(reply.expect("a reply"))
                    };
                    match Cut::Drop.after(polls, receive).await {
                        Some(reply) => break reply,
                        None => dropped += 1,
                    }
                };
                assert_eq!(reply, *payload);
            }
            assert_eq!(go_on(&mut connection).await, Clean);
            if dropped == before {
                break;
            }
        }
        assert!(dropped > 300, "{dropped}");
    }
}

/// The second cancellation comes while the first one's reply is drained, or after that.
#[tokio::test(start_paused = true)]
async fn run_command_dropped_twice_in_a_row() {
    let network = Network::default();
    let factory = network.factory(PLAIN, config(), keys());
    let mut tally = Tally::default();
    let mut first_completed = false;
    for first in 0.. {
        if first_completed {
            break;
        }
        // Each position of the second cancellation is combined with some position of the first.
        for second in (first % 13..).step_by(13) {
            network.bytewise(false);
            let mut connection = connect(&factory).await;
            network.bytewise(true);
            first_completed = Cut::Drop.after(first, run(&mut connection)).await.is_some();
            let outcome = Cut::Drop.after(second, run(&mut connection)).await;
            let completed = outcome.is_some();
            network.bytewise(false);
            let outcome = go_on(&mut connection).await;
            tally.add(if completed { Completed } else { outcome });
            drop(connection);
            assert_eq!(network.open(), 0);
            if completed {
                break;
            }
        }
    }
    network.assert_no_faults();
    tally.assert(&[Clean, Drained, Closed, Completed]);
}

/// A reply that never arrives, or is too long, closes the connection instead of delaying the next
/// command.
#[tokio::test(start_paused = true)]
async fn a_drain_has_bounds() {
    let network = Network::default();
    let factory = network.factory(PLAIN, ManagerConfig::default(), keys());
    let mut connection = connect(&factory).await;
    owe(&mut connection).await;
    network.mute(true);
    let began = tokio::time::Instant::now();
    let drained = timeout(BOUND, connection.drain(Deadline::never())).await;
    let error = drained.expect("in time").expect_err("nothing comes");
    let waited = matches!(
        error.kind(),
        ErrorKind::Timeout {
            wait: Wait::Drain,
            ..
        }
    );
    assert!(waited, "{error}");
    assert_eq!(began.elapsed(), std::time::Duration::from_millis(100));
    network.mute(false);
    assert_eq!(go_on(&mut connection).await, Closed);

    for (length, expected) in [(1_000_000, Drained), (1_100_000, Closed)] {
        let mut connection = connect(&factory).await;
        let message = message(1, MsgFlags::NONE, &echo(&"x".repeat(length)));
        let sent = connection.send(&message, BOUND).await;
        sent.expect("sent");
        let drained = connection.drain(Deadline::never()).await;
        assert_eq!(drained.is_ok(), expected == Drained, "{drained:?}");
        assert_eq!(connection.is_closed(), expected == Closed);
    }
}

/// Waits for the tasks of attempts.
async fn settle() {
    while Handle::current().metrics().num_alive_tasks() > 0 {
        tokio::task::yield_now().await;
    }
}

/// Ends the wait for a connection after each number of polls. The attempt continues, and its
/// connection serves the next caller.
async fn establish(cut: Cut, bytewise: bool) {
    let shared = keys();
    let mut tally = Tally::default();
    for polls in cut.polls() {
        let network = Network::default();
        // A new key service derives keys each time, which is too slow for byte-wise sweeps.
        let keys = if bytewise { shared.clone() } else { keys() };
        let factory = network.factory(SCRAM, config(), keys);
        network.bytewise(bytewise);
        let ended = cut.after(polls, factory.establish(cut.deadline())).await;
        let completed = matches!(ended, Some(Ok(_)));
        if let Some(Err(error)) = &ended {
            assert!(error.is_timeout(), "{error}");
        }
        drop(ended);
        tally.add(if completed { Completed } else { Clean });
        network.bytewise(false);
        let mut connection = connect(&factory).await;
        assert_eq!(go_on(&mut connection).await, Clean);
        assert_eq!(network.open(), 1);
        assert_eq!(network.opened(), 1 + usize::from(completed));
        network.assert_no_faults();
        drop((connection, factory));
        settle().await;
        assert_eq!(network.open(), 0);
        if completed {
            return tally.assert(&[Clean, Completed]);
        }
    }
    panic!("it was never made");
}

/// Closes or drops the factory after each number of polls of the attempt.
async fn end_of_factory(is_dropped: bool) {
    let keys = keys();
    for polls in 1..100_000 {
        let network = Network::default();
        let factory = network.factory(SCRAM, config(), keys.clone());
        network.bytewise(true);
        let mut waiting = Box::pin(factory.establish(Deadline::never()));
        let ended = Cut::Drop.after(polls, waiting.as_mut()).await;
        let completed = ended.is_some();
        drop(ended);
        if !completed && !is_dropped {
            factory.close();
            let error = waiting.await.expect_err("it is closed");
            assert!(matches!(error.kind(), ErrorKind::PoolClosed), "{error}");
        } else {
            drop(waiting);
        }
        drop(factory);
        settle().await;
        assert_eq!(network.open(), 0, "after {polls} polls");
        if completed {
            return assert!(polls > 10, "{polls}");
        }
    }
    panic!("it was never made");
}

#[test]
fn an_attempt_ends_when_its_factory_is_closed() {
    block_on(end_of_factory(false));
}

#[test]
fn an_attempt_ends_when_its_factory_is_dropped() {
    block_on(end_of_factory(true));
}

#[test]
fn establish_dropped() {
    block_on(establish(Cut::Drop, true));
}

#[test]
fn establish_timed_out() {
    block_on(establish(Cut::TimeOut, true));
}

#[test]
fn establish_with_keys_to_derive_dropped() {
    block_on(establish(Cut::Drop, false));
}

#[test]
fn establish_with_keys_to_derive_timed_out() {
    block_on(establish(Cut::TimeOut, false));
}
