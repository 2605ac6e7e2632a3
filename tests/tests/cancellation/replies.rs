//! Commands with distinct payloads, and the check that each gets its own reply.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bson::{RawDocumentBuf, rawdoc};
use mongo_core::error::ClosedReason;
use mongo_core::wire::{Limits, MsgFlags, OpMsg, OpMsgBuilder, Readiness};
use mongo_core::{Connection, Error, ErrorKind};

use crate::cut::BOUND;
use crate::tally::Outcome;

/// A text that is unique in this process.
pub(crate) fn payload() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let number = LAST.fetch_add(1, Relaxed);
    // With varying lengths, so that the rest of one reply never looks like another.
    format!("{number}{}", &"......."[..(number % 8) as usize])
}

pub(crate) fn echo(payload: &str) -> RawDocumentBuf {
    rawdoc! { "echo": payload }
}

/// A complete message with the given request id.
pub(crate) fn message(id: i32, flags: MsgFlags, command: &RawDocumentBuf) -> Vec<u8> {
    let mut message = Vec::new();
    OpMsgBuilder::new(&mut message, id, flags)
        .command("app", command)
        .expect("BSON")
        .finish(48_000_000)
        .expect("small");
    message
}

/// The payload of a complete reply.
pub(crate) fn payload_of(message: &[u8]) -> String {
    let parsed = OpMsg::parse(message, &Limits::default()).expect("a message");
    parsed.body().get_str("echo").expect("an echo").to_owned()
}

/// Runs a command and checks that the reply is its own.
pub(crate) async fn run(connection: &mut Connection) -> Result<(), Error> {
    let payload = payload();
    let reply = connection.run_command("app", &echo(&payload)).await?;
    assert_eq!(reply.get_str("echo").expect("an echo"), payload);
    Ok(())
}

/// The same, if the server first demands reauthentication.
pub(crate) async fn run_expired(connection: &mut Connection) -> Result<(), Error> {
    let payload = payload();
    let command = rawdoc! { "echo": &*payload, "expired": true };
    let reply = connection.run_command("app", &command).await?;
    assert_eq!(reply.get_str("echo").expect("an echo"), payload);
    Ok(())
}

/// The same with a deadline.
pub(crate) async fn run_in_time(connection: &mut Connection) -> Result<(), Error> {
    let payload = payload();
    let reply = connection
        .run_command_by(BOUND, "app", &echo(&payload))
        .await?;
    assert_eq!(reply.get_str("echo").expect("an echo"), payload);
    Ok(())
}

/// Runs further commands after a cancellation. If the connection reports that it is usable, each
/// must succeed with its own reply. Otherwise all must fail.
pub(crate) async fn go_on(connection: &mut Connection) -> Outcome {
    let mut outcome = match connection.readiness() {
        Readiness::Idle => Outcome::Clean,
        Readiness::Owed => Outcome::Drained,
        Readiness::Closed(_) => Outcome::Closed,
    };
    for _ in 0..3 {
        match (outcome, run_in_time(connection).await) {
            (Outcome::Closed, Err(error)) => {
                let closed = matches!(error.kind(), ErrorKind::ConnectionClosed(_));
                assert!(closed, "{error}");
            }
            (Outcome::Closed, Ok(())) => panic!("a closed connection ran a command"),
            // The drain of the first reply reveals that the server streams.
            (Outcome::Drained, Err(error)) if is_left_stream(&error) => outcome = Outcome::Closed,
            (_, Ok(())) => assert_eq!(connection.readiness(), Readiness::Idle),
            (_, Err(error)) => panic!("left as {outcome:?}: {error}"),
        }
    }
    outcome
}

fn is_left_stream(error: &Error) -> bool {
    let stream = ClosedReason::CancelledStream;
    matches!(error.kind(), ErrorKind::ConnectionClosed(reason) if *reason == stream)
}
