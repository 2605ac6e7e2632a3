//! Runs an attack and checks the error, its time, and the remaining state.
//!
//! The clock is paused, so that timeouts are exact. The servers listen on Unix sockets, where the
//! kernel delivers at once: no bytes are in flight while the runtime is idle.

use std::time::Duration;

use bson::doc;
use mongo_core::pools::ManagerConfig;
use mongo_core::{Connection, Error};
use mongo_testkit::{ScriptedServer, ServerTls, User};
use tokio::time::Instant;

use crate::attacks::{Attack, COMMAND_TIMEOUT, Moment, PASSWORD, USER};
use crate::sources::Source;
use crate::tls::{authority, trusting};

/// The time that anything except a wait for a deadline may take, by the paused clock.
const AT_ONCE: Duration = Duration::from_millis(100);

pub(crate) fn run<S: Source>(attack: &Attack) {
    on_paused_runtime(suffer::<S>(attack, false));
}

pub(crate) fn run_over_tls<S: Source>(attack: &Attack) {
    on_paused_runtime(suffer::<S>(attack, true));
}

pub(crate) fn on_paused_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(test);
}

async fn suffer<S: Source>(attack: &Attack, over_tls: bool) {
    let (server, uri) = server_for(attack, over_tls).await;
    let mut config = ManagerConfig::default();
    config.command_timeout = Some(COMMAND_TIMEOUT);
    let source = S::build(&(uri + attack.option), config);
    let held = match attack.moment {
        Moment::Hello | Moment::Authentication => None,
        Moment::Command => Some(source.get().await.expect("a decent connection")),
    };

    server.script().add(attack.rule.clone());
    let begin = Instant::now();
    let error = match held {
        None => source.get().await.map(drop).expect_err("attacked"),
        Some(mut connection) => {
            let error = ping(&mut connection).await.expect_err("attacked");
            if !attack.is_waited_out() {
                assert!(connection.is_closed(), "{:?}", *connection);
            }
            error
        }
    };
    let took = begin.elapsed();
    crate::show(format_args!("{}: {error}", attack.name));
    assert_fits(attack, &error, &server);
    if attack.is_waited_out() {
        let bound = attack.bound();
        assert!(took >= bound && took < bound + AT_ONCE, "after {took:?}");
    } else {
        assert!(took < AT_ONCE, "after {took:?}");
    }

    // Once the server behaves again, it is used again, on another connection.
    server.script().clear();
    let mut connection = source.get().await.expect("a connection");
    ping(&mut connection).await.expect("a reply");
    assert_eq!(server.look(|seen| seen.accepted), 2);
    drop((connection, source));
    server
        .wait_for("all connections closed", |seen| seen.open == 0)
        .await;
}

async fn server_for(attack: &Attack, over_tls: bool) -> (ScriptedServer, String) {
    let mut builder = ScriptedServer::builder().unix();
    let mut options = String::new();
    if over_tls {
        builder = builder.tls(ServerTls::new(authority().server()));
        options = trusting();
    }
    if attack.with_user() {
        let user = User::new(USER, PASSWORD);
        let builder = builder.user(user).plain_user(USER, PASSWORD);
        let server = builder.start().await;
        let uri = server.uri_for(USER, PASSWORD) + &options;
        (server, uri)
    } else {
        let server = builder.start().await;
        let uri = server.uri() + &options;
        (server, uri)
    }
}

pub(crate) async fn ping(connection: &mut Connection) -> Result<(), Error> {
    let ping = doc! { "ping": 1 };
    connection.run_command("admin", &ping).await.map(drop)
}

fn assert_fits(attack: &Attack, error: &Error, server: &ScriptedServer) {
    let (text, debug) = (error.to_string(), format!("{error:?}"));
    let fits = (attack.fits)(error.kind());
    assert!(fits, "{debug} is not {}", attack.expected);
    let named = error.server().expect("a server").to_string();
    assert_eq!(named, server.address());
    assert!(text.contains(&named), "{text}");
    assert_eq!(error.user(), attack.with_user().then_some(USER));
    assert!(!text.contains(PASSWORD) && !debug.contains(PASSWORD));
    assert!(!text.contains(char::is_control), "{text}");
}
