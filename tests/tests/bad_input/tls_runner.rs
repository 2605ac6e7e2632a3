//! Runs an attack on TLS and checks the error, its time, and that the server got nothing.

use std::time::Duration;

use mongo_core::pools::ManagerConfig;
use mongo_core::sdam::{ErrorPhase, SYSTEM_OVERLOADED_ERROR};
use mongo_testkit::{ScriptedServer, User};
use tokio::time::Instant;

use crate::ALLOCATOR;
use crate::attack_runner::on_paused_runtime;
use crate::attacks::{CONNECT_TIMEOUT, PASSWORD, USER};
use crate::sources::Source;
use crate::tls::{Attack, Peer, trusting};

/// The most that an error may be late.
const LATE: Duration = Duration::from_millis(50);
/// The memory limit of an attack, including the server's own memory.
const MEMORY: usize = 1024 * 1024;

pub(crate) fn run<S: Source>(attack: &Attack) {
    on_paused_runtime(suffer::<S>(attack));
}

async fn suffer<S: Source>(attack: &Attack) {
    let mut builder = ScriptedServer::builder()
        .user(User::new(USER, PASSWORD))
        .record_bytes();
    match &attack.peer {
        Peer::Tls(tls) => builder = builder.tls(tls()),
        Peer::Raw(rule) => builder = builder.rule(rule.clone()),
    }
    if attack.host.is_none() {
        builder = builder.unix();
    }
    let server = builder.start().await;
    let mut uri = server.uri_for(USER, PASSWORD) + &trusting();
    if let Some(host) = attack.host {
        uri = uri.replace("127.0.0.1", host);
    }
    let source = S::build(&uri, ManagerConfig::default());

    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let begin = Instant::now();
    let error = source.get().await.map(drop).expect_err("attacked");
    let took = begin.elapsed();
    let memory = ALLOCATOR.peak_usage().saturating_sub(before);
    crate::show(format_args!("{}: {error}; {memory} bytes", attack.name));
    assert!(memory <= MEMORY, "{memory} bytes");
    assert!(
        (attack.fits)(error.kind()),
        "{error:?} is not {}",
        attack.expected
    );
    let is_timeout = attack.expected.contains("Timeout");
    let bound = if is_timeout {
        CONNECT_TIMEOUT
    } else {
        Duration::ZERO
    };
    assert!(took >= bound && took < bound + LATE, "after {took:?}");
    let (text, debug) = (error.to_string(), format!("{error:?}"));
    assert!(!text.contains(PASSWORD) && !debug.contains(PASSWORD));
    assert!(!text.contains(char::is_control), "{text}");
    assert_eq!(error.user(), Some(USER));

    // An overloaded server can only cause network failures.
    let is_busy = is_timeout || attack.expected.contains("Network");
    let labelled = ErrorPhase::Establishment.label(error);
    assert_eq!(labelled.has_label(SYSTEM_OVERLOADED_ERROR), is_busy);
    drop(source);
    nothing_was_told(attack, &server);
}

/// The server has received no more than a TLS handshake.
fn nothing_was_told(attack: &Attack, server: &ScriptedServer) {
    let seen = server.look(Clone::clone);
    assert!(seen.log.is_empty(), "{:?}", seen.log);
    assert!(seen.accepted > 0);
    for connection in seen.connections.values() {
        let received = &connection.received;
        match attack.peer {
            // The decrypted bytes.
            Peer::Tls(_) => assert!(received.is_empty(), "{received:?}"),
            // The raw bytes, which none of these rules reads.
            Peer::Raw(_) => assert!(received.is_empty() || received[0] == 22, "{received:?}"),
        }
        for secret in [USER, PASSWORD, "SCRAM", "speculativeAuthenticate"] {
            let found = received
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{secret}");
        }
    }
}
