use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bson::rawdoc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::sleep;

use super::super::tests::{connection, reply};
use super::*;
use crate::error::Wait;
use crate::net::{Connection, Deadline};
use crate::wire::{MsgFlags, OpMsgBuilder};

const BOUND: Duration = Duration::from_secs(5);

/// The events that a connection's handler received.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<CommandEvent>>>);

impl Told {
    fn events(&self) -> MutexGuard<'_, Vec<CommandEvent>> {
        self.0.lock().expect("no panic")
    }

    /// The name and request id of each event since the last call.
    fn words(&self) -> Vec<(&'static str, i32)> {
        let words = |event: CommandEvent| match &event {
            CommandEvent::Started(_) => ("started", event.request_id()),
            CommandEvent::Succeeded(_) => ("succeeded", event.request_id()),
            CommandEvent::Failed(_) => ("failed", event.request_id()),
        };
        self.events().drain(..).map(words).collect()
    }

    fn failure(&self) -> CommandFailedEvent {
        match self.events().last() {
            Some(CommandEvent::Failed(event)) => event.clone(),
            other => panic!("{other:?}"),
        }
    }
}

fn watched() -> (Connection, DuplexStream, Told) {
    let (mut connection, server) = connection();
    let told = Told::default();
    let kept = told.clone();
    connection.inner.identity.events =
        EventHandlers::new().on_command(move |event| kept.events().push(event.clone()));
    (connection, server, told)
}

fn body(response_to: i32, body: &RawDocument, flags: MsgFlags) -> Vec<u8> {
    let mut message = Vec::new();
    OpMsgBuilder::new(&mut message, 9, flags)
        .body(body)
        .finish(usize::MAX)
        .expect("small");
    message[8..12].copy_from_slice(&response_to.to_le_bytes());
    message
}

/// Polls once, which writes a small request, and drops.
async fn poll_once(future: impl Future) {
    let polled = tokio::time::timeout(Duration::ZERO, future).await;
    assert!(polled.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_command_event_has_every_known_field() {
    let (mut connection, mut server, told) = watched();
    tokio::spawn(async move {
        sleep(Duration::from_millis(30)).await;
        server.write_all(&reply(1, "a")).await.expect("written");
        // Until the connection is dropped.
        let _ = server.read_to_end(&mut Vec::new()).await;
    });
    let command = rawdoc! { "find": "things", "limit": 2 };
    let answer = connection.run_command("app", &command).await;
    answer.expect("an answer");
    let events = told.events();
    let [
        CommandEvent::Started(started),
        CommandEvent::Succeeded(succeeded),
    ] = &**events
    else {
        panic!("{events:?}");
    };
    assert_eq!(started.address.to_string(), "db.example:27017");
    assert_eq!(started.user.as_deref(), Some("app"));
    assert_eq!((started.driver_connection_id, started.request_id), (1, 1));
    assert_eq!(
        (started.server_connection_id, started.service_id),
        (None, None)
    );
    assert_eq!(
        (&*started.command_name, &*started.database_name),
        ("find", "app")
    );
    let sent = rawdoc! { "find": "things", "limit": 2, "$db": "app" };
    assert_eq!(started.command, sent);
    assert_eq!(succeeded.address, started.address);
    assert_eq!(succeeded.user, started.user);
    assert_eq!(
        (succeeded.driver_connection_id, succeeded.request_id),
        (1, 1)
    );
    assert_eq!(
        (&*succeeded.command_name, &*succeeded.database_name),
        ("find", "app")
    );
    assert_eq!(succeeded.duration, Duration::from_millis(30));
    assert_eq!(succeeded.reply, rawdoc! { "ok": 1, "text": "a" });
}

#[tokio::test]
async fn a_reply_that_says_no_is_a_failure() {
    let (mut connection, mut server, told) = watched();
    let refused = rawdoc! { "ok": 0, "code": 13, "codeName": "Unauthorized", "errmsg": "no" };
    let message = body(1, &refused, MsgFlags::NONE);
    server.write_all(&message).await.expect("written");
    let error = connection
        .run_command("app", &rawdoc! { "find": "x" })
        .await;
    let error = error.expect_err("refused");
    let event = told.failure();
    assert!(event.failure.is_same(&error), "{}", event.failure);
    assert_eq!(event.failure.code(), Some(13));
    assert_eq!(
        (&*event.command_name, &*event.database_name),
        ("find", "app")
    );
    assert_eq!(told.words(), [("started", 1), ("failed", 1)]);
    // A reply without `ok` violates the protocol.
    let message = body(2, &rawdoc! { "n": 1 }, MsgFlags::NONE);
    server.write_all(&message).await.expect("written");
    let error = connection.run_command("app", &rawdoc! { "ping": 1 }).await;
    assert!(told.failure().failure.is_same(&error.expect_err("no `ok`")));
    assert_eq!(told.words(), [("started", 2), ("failed", 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_dropped_or_late_has_failed() {
    let (mut connection, mut server, told) = watched();
    let ping = rawdoc! { "ping": 1 };
    poll_once(connection.run_command("admin", &ping)).await;
    // At once, not when its reply is drained.
    let event = told.failure();
    assert!(matches!(event.failure.kind(), ErrorKind::Cancelled));
    assert_eq!(event.failure.user(), Some("app"));
    assert_eq!(told.words(), [("started", 1), ("failed", 1)]);

    server.write_all(&reply(1, "late")).await.expect("written");
    connection.drain(Deadline::never()).await.expect("drained");
    assert_eq!(told.words(), []);

    let late = connection.run_command_by(BOUND, "admin", &ping).await;
    late.expect_err("no reply");
    let event = told.failure();
    let wait = ErrorKind::Timeout {
        wait: Wait::Command,
        after: BOUND,
    };
    assert_eq!(event.failure.kind().to_string(), wait.to_string());
    assert_eq!(event.duration, BOUND);
    assert_eq!(told.words(), [("started", 2), ("failed", 2)]);
}

#[tokio::test]
async fn a_command_fails_with_its_socket_or_its_server() {
    let (mut connection, server, told) = watched();
    drop(server);
    let ping = rawdoc! { "ping": 1 };
    let error = connection.run_command("admin", &ping).await;
    assert!(told.failure().failure.is_same(&error.expect_err("gone")));
    assert_eq!(told.words(), [("started", 1), ("failed", 1)]);
    // Nothing is sent, so no event is emitted.
    let closed = connection.run_command("admin", &ping).await;
    closed.expect_err("closed");
    assert_eq!(told.words(), []);

    let (mut connection, mut server, told) = watched();
    server.write_all(&reply(7, "other")).await.expect("written");
    let error = connection.run_command("admin", &ping).await;
    assert!(told.failure().failure.is_same(&error.expect_err("other's")));
    assert_eq!(told.words(), [("started", 1), ("failed", 1)]);
}

#[tokio::test]
async fn a_command_that_can_not_be_sent_has_no_events() {
    let (mut connection, _server, told) = watched();
    let empty = connection.run_command("admin", &rawdoc! {}).await;
    empty.expect_err("empty");
    let over = connection
        .run_command_by(Duration::ZERO, "admin", &rawdoc! { "ping": 1 })
        .await;
    over.expect_err("over");
    connection.send(b"none", BOUND).await.expect_err("none");
    assert_eq!(told.words(), []);
}

#[tokio::test]
async fn a_sensitive_command_shows_no_contents() {
    let (mut connection, mut server, told) = watched();
    let create = rawdoc! { "createUser": "secret", "pwd": "secret", "roles": [] };
    server
        .write_all(&reply(1, "secret"))
        .await
        .expect("written");
    let answer = connection.run_command("admin", &create).await;
    answer.expect("an answer");
    let refused = rawdoc! { "ok": 0, "code": 51003, "errmsg": "secret exists" };
    let message = body(2, &refused, MsgFlags::NONE);
    server.write_all(&message).await.expect("written");
    let error = connection.run_command("admin", &create).await;
    assert!(error.expect_err("refused").to_string().contains("secret"));
    let events = told.events();
    let shown = format!("{events:?}");
    assert!(!shown.contains("secret"), "{shown}");
    let [
        CommandEvent::Started(started),
        CommandEvent::Succeeded(succeeded),
        CommandEvent::Started(_),
        CommandEvent::Failed(failed),
    ] = &**events
    else {
        panic!("{shown}");
    };
    assert_eq!(&*started.command_name, "createUser");
    assert!(started.command.is_empty() && succeeded.reply.is_empty());
    assert_eq!(failed.failure.code(), Some(51003));
}

fn insert(flags: MsgFlags) -> Vec<u8> {
    let mut message = Vec::new();
    OpMsgBuilder::new(&mut message, 77, flags)
        .command("app", &rawdoc! { "insert": "things" })
        .expect("BSON")
        .sequence("documents", [&*rawdoc! { "a": 1 }, &*rawdoc! { "a": 2 }])
        .finish(usize::MAX)
        .expect("small");
    message
}

#[tokio::test]
async fn a_message_of_the_caller_has_command_events() {
    let (mut connection, mut server, told) = watched();
    let message = insert(MsgFlags::NONE);
    connection.send(&message, BOUND).await.expect("sent");
    match &**told.events() {
        [CommandEvent::Started(event)] => assert_eq!(
            event.command,
            rawdoc! { "insert": "things", "$db": "app", "documents": [{ "a": 1 }, { "a": 2 }] }
        ),
        other => panic!("{other:?}"),
    }
    server.write_all(&reply(77, "a")).await.expect("written");
    connection.receive(BOUND).await.expect("an answer");
    assert_eq!(told.words(), [("started", 77), ("succeeded", 77)]);

    // A rejection by the server is not an error of `receive`, but the command has failed.
    connection.send(&message, BOUND).await.expect("sent");
    let refused = body(77, &rawdoc! { "ok": 0, "code": 13 }, MsgFlags::NONE);
    server.write_all(&refused).await.expect("written");
    connection.receive(BOUND).await.expect("an answer");
    assert_eq!(told.failure().failure.code(), Some(13));
    assert_eq!(told.words(), [("started", 77), ("failed", 77)]);
}

#[tokio::test]
async fn a_message_that_wants_no_answer_has_succeeded_when_it_is_sent() {
    let (mut connection, _server, told) = watched();
    let message = insert(MsgFlags::MORE_TO_COME);
    connection.send(&message, BOUND).await.expect("sent");
    match told.events().last() {
        Some(CommandEvent::Succeeded(event)) => assert_eq!(event.reply, rawdoc! { "ok": 1 }),
        other => panic!("{other:?}"),
    }
    assert_eq!(told.words(), [("started", 77), ("succeeded", 77)]);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_late_can_still_be_received() {
    let (mut connection, mut server, told) = watched();
    let message = insert(MsgFlags::NONE);
    connection.send(&message, BOUND).await.expect("sent");
    connection.receive(BOUND).await.expect_err("late");
    poll_once(connection.receive(BOUND)).await;
    assert_eq!(told.words(), [("started", 77)]);
    server.write_all(&reply(77, "a")).await.expect("written");
    connection.receive(BOUND).await.expect("an answer");
    assert_eq!(told.words(), [("succeeded", 77)]);
}

#[tokio::test]
async fn an_unreceived_reply_is_that_of_a_cancelled_command() {
    let (mut connection, mut server, told) = watched();
    let message = insert(MsgFlags::NONE);
    connection.send(&message, BOUND).await.expect("sent");
    server.write_all(&reply(77, "a")).await.expect("written");
    // Like the next command, which drains first.
    connection.drain(Deadline::never()).await.expect("drained");
    assert_eq!(told.words(), [("started", 77), ("failed", 77)]);
    connection.send(&message, BOUND).await.expect("sent");
    assert!(connection.check_in());
    assert_eq!(told.words(), [("started", 77), ("failed", 77)]);
    let (mut connection, _server, told) = watched();
    connection.send(&message, BOUND).await.expect("sent");
    drop(connection);
    assert_eq!(told.words(), [("started", 77), ("failed", 77)]);
}

#[tokio::test]
async fn a_stream_has_succeeded_with_its_first_reply() {
    let (mut connection, mut server, told) = watched();
    let message = insert(MsgFlags::EXHAUST_ALLOWED);
    connection.send(&message, BOUND).await.expect("sent");
    let first = body(77, &rawdoc! { "ok": 1 }, MsgFlags::MORE_TO_COME);
    server.write_all(&first).await.expect("written");
    server.write_all(&reply(9, "last")).await.expect("written");
    connection.receive(BOUND).await.expect("an answer");
    assert_eq!(told.words(), [("started", 77), ("succeeded", 77)]);
    connection.receive(BOUND).await.expect("another answer");
    assert_eq!(told.words(), []);
}

#[tokio::test]
async fn without_a_listener_there_is_no_watch() {
    let (connection, _server) = connection();
    let message = insert(MsgFlags::NONE);
    assert!(connection.watch_command(&message).is_none());
    let (connection, _server, _told) = watched();
    assert!(connection.watch_command(&message).is_some());
}
