//! Texts of errors and logs, and conversions of guards, on both backends.

use std::error::Error as _;
use std::time::Duration;

use mongo_core::bson::{doc, rawdoc};
use mongo_core::error::{CommandError, ErrorKind, Wait};
use mongo_core::pools::Backend;
use mongo_core::{Connection, Error};
use mongo_testkit::{Action, Matcher};

use crate::support::Sim;

on_both! {
    on a paused clock:
    a_full_pool_says_how_many_connections_are_in_use,
    a_hostile_message_is_bounded_and_printable,
    a_chain_of_causes_repeats_no_text,
    guards_convert_to_connections_and_replies_outlive_them,
}

mod plain {
    use super::*;

    macro_rules! plain {
        ($module:ident, $adapter:ident) => {
            mod $module {
                use super::*;

                /// The error of a plain pool used to name no cause.
                #[tokio::test]
                async fn a_full_pool_says_how_many_connections_are_in_use() {
                    let server = mongo_testkit::ScriptedServer::start().await;
                    let options = mongo_core::ClientOptions::parse(&server.uri());
                    let mut options = options.expect("a connection string");
                    options.wait_queue_timeout = Some(Duration::from_millis(100));
                    let mut config = $adapter::Config::from_options(options);
                    config.pool = Some($adapter::PoolConfig::new(2));
                    let pool = config.create_pool(None).expect("a pool");
                    let mut one = pool.get().await.expect("one");
                    let id = AsRef::<Connection>::as_ref(&one).id();
                    assert_eq!(AsMut::<Connection>::as_mut(&mut one).id(), id);
                    let _two = pool.get().await.expect("two");
                    let error = pool.get().await.expect_err("none");
                    super::says_all_in_use(&error, 2);
                    let error = pool.try_get().await.expect_err("none");
                    super::says_all_in_use(&error, 2);
                }
            }
        };
    }

    plain!(deadpool, mongo_deadpool);
    plain!(bb8, mongo_bb8);
}

fn says_all_in_use(error: &Error, size: u32) {
    assert!(matches!(
        error.kind(),
        ErrorKind::Timeout {
            wait: Wait::WaitQueue,
            ..
        }
    ));
    let shown = error.to_string();
    let cause = format!("all {size} connections are in use (maxPoolSize={size})");
    assert!(
        shown.ends_with(&format!("last failure: {cause}")),
        "{shown}"
    );
    assert!(!shown.contains("cursors"), "{shown}");
}

async fn a_full_pool_says_how_many_connections_are_in_use<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let options = "maxPoolSize=4&waitQueueTimeoutMS=2000";
    let pools = sim.pools::<B>(options);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(pools.get().await.expect("a connection"));
    }
    let error = pools.get().await.expect_err("all in use");
    says_all_in_use(&error, 4);
    assert!(
        error.to_string().starts_with("timed out after 2.0 s "),
        "{error}"
    );
}

async fn a_hostile_message_is_bounded_and_printable<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    let mut connection = pools.get().await.expect("a connection");
    let labels: Vec<_> = (0..100_000).map(|label| format!("label {label}")).collect();
    let reply = doc! {
        "ok": 0, "code": 8, "codeName": "x\n".repeat(500_000),
        "errmsg": "fake line\n\u{1b}[2J\u{202e}\u{2028}".repeat(100_000), "errorLabels": labels,
    };
    let find = Matcher::command("find").then(Action::Reply(reply));
    sim.set.server(0).script().add(find);
    let find = doc! { "find": "things" };
    let error = connection
        .run_command("shop", &find)
        .await
        .expect_err("refused");
    let shown = format!("{error}|{error:?}");
    assert!(shown.len() < 8 * 1024, "{}", shown.len());
    let forbidden = ['\n', '\u{1b}', '\u{202e}', '\u{2028}'];
    assert!(!shown.contains(forbidden), "{shown}");
    assert!(error.labels().count() <= 16);
    let command = error.command().expect("the server's");
    assert!(command.message.len() <= 1024 && command.code_name.len() <= 128);
    assert!(command.reply.as_bytes().len() <= 64 * 1024);
}

/// The chain as common error crates print it with `{:#}`.
async fn a_chain_of_causes_repeats_no_text<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let options = "maxPoolSize=1&waitQueueTimeoutMS=100&serverSelectionTimeoutMS=100";
    let pools = sim.pools::<B>(options);
    let held = pools.get().await.expect("a connection");
    let full = pools.get().await.expect_err("all in use");
    drop(held);
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let connect = Error::from(ErrorKind::Connect(std::sync::Arc::new(refused)));
    let late =
        Error::timeout(Wait::Connect, Duration::from_secs(2)).caused_by(Some(connect.clone()));
    let command = Error::from(CommandError::new(8, "", "no", rawdoc! {}));
    let uri = mongo_core::ClientOptions::parse("mongodb://a/?authMechanism=x").expect_err("wrong");
    let bson = Error::credential(connect.clone());
    for error in [full, connect, late, command, uri.into(), bson] {
        let mut chain = error.to_string();
        let mut source = error.source();
        while let Some(next) = source {
            let text = next.to_string();
            assert!(!chain.contains(&text), "{chain}: {text}");
            chain = format!("{chain}: {text}");
            source = next.source();
        }
    }
}

async fn guards_convert_to_connections_and_replies_outlive_them<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    let mut guard = pools.get().await.expect("a connection");
    let id = AsRef::<Connection>::as_ref(&guard).id();
    let ping = doc! { "ping": 1 };
    let connection = AsMut::<Connection>::as_mut(&mut guard);
    connection
        .run_command("admin", &ping)
        .await
        .expect("a ping");
    assert_eq!(guard.id(), id);
    let failed = doc! {
        "ok": 1, "writeErrors": [{ "index": 0, "code": 11000, "errmsg": "there already" }],
    };
    let insert = Matcher::command("insert").then(Action::Reply(failed));
    sim.set.server(0).script().add(insert);
    let insert = doc! { "insert": "things", "documents": [{ "_id": 1 }] };
    let reply = guard
        .run_command("shop", &insert)
        .await
        .expect("ok: 1")
        .into_owned();
    let server = guard.server().clone();
    drop(guard);
    let error = reply.check_write().expect_err("not written");
    assert_eq!(error.code(), Some(11000));
    assert_eq!(error.server(), Some(&server));
    assert!(reply.write_concern_error().is_none());
    assert!(reply.get_array("writeErrors").is_ok());
}
