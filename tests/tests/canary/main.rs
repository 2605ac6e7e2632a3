//! No secret is disclosed by logs, events, errors, panics, metrics or `Debug`, whatever happens.
//!
//! All secrets contain a mark. All output is searched for the mark and for values derived from
//! secrets, in each possible form. One round runs an eighth of the attacks by each way to a
//! connection, a different eighth for each mechanism. `CANARY_LINES=1000000` repeats rounds until
//! there are a million lines.
//!
//! This is a process of its own, whose logs, panics and metrics are all captured.

mod capture;
mod forms;
mod paths;
mod secrets;
mod setup;
mod texts;
mod ways;

use std::panic;
use std::sync::Arc;

use metrics_util::debugging::{DebuggingRecorder, Snapshotter};
use mongo_core::auth::Credential;
use mongo_core::pools::{ConnectionFactory, Pools};
use mongo_testkit::Authority;

use capture::{Capture, Logs};
use secrets::{PAYLOAD, USER, needles};
use setup::{Certificates, Setup, mechanisms};

/// The least lines of one round.
const LINES: u64 = 5000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_disclosed() {
    let certificates = Arc::new(Certificates::new());
    let needles = needles(&certificates.client);
    let capture: &Capture = Box::leak(Box::new(Capture::new(needles, PAYLOAD, USER)));
    let metrics = watch(capture);
    let wanted =
        std::env::var("CANARY_LINES").map_or(LINES, |lines| lines.parse().expect("a number"));
    for round in 0.. {
        let walks = mechanisms()
            .into_iter()
            .enumerate()
            .map(|(index, credentials)| {
                let certificates = certificates.clone();
                let turn = round + index;
                tokio::spawn(
                    async move { walk_all(&certificates, credentials, turn, capture).await },
                )
            });
        for walk in walks.collect::<Vec<_>>() {
            walk.await.expect("a walk to its end");
        }
        texts::of_no_server(&certificates.client, capture);
        texts::behind_a_proxy(capture).await;
        capture.see_debug("metrics", &metrics.snapshot().into_vec());
        assert_eq!(capture.found(), [""; 0], "disclosed");
        if capture.lines() >= wanted {
            break;
        }
    }
    assert_eq!(capture.saw(), (true, true), "the user, and the payload");
    println!("{} lines", capture.lines());
}

/// Tests one credential, by all ways to a connection.
async fn walk_all(
    certificates: &Certificates,
    credentials: (Credential, Credential),
    turn: usize,
    capture: &'static Capture,
) {
    let setup = Setup::start(certificates).await;
    paths::walk::<ConnectionFactory>(&setup, &credentials, turn, capture).await;
    paths::walk::<mongo_deadpool::Pool>(&setup, &credentials, turn + 1, capture).await;
    paths::walk::<mongo_bb8::Pool>(&setup, &credentials, turn + 2, capture).await;
    paths::walk::<Pools<mongo_deadpool::Pool>>(&setup, &credentials, turn + 3, capture).await;
    paths::walk::<Pools<mongo_bb8::Pool>>(&setup, &credentials, turn + 4, capture).await;
    let changed = paths::change_credentials::<mongo_deadpool::Pool>(&setup, &credentials, capture);
    changed.await.expect("changed");
    let changed = paths::change_credentials::<mongo_bb8::Pool>(&setup, &credentials, capture);
    changed.await.expect("changed");
    paths::alone(&setup, &credentials, capture).await;
}

/// Passes logs, panics and metrics to a capture.
fn watch(capture: &'static Capture) -> Snapshotter {
    tracing::subscriber::set_global_default(Logs(capture)).expect("the only one");
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        capture.see("a panic", &info.to_string());
        // Print unexpected panics.
        if std::thread::current()
            .name()
            .is_some_and(|name| name.contains("no_secret"))
        {
            usual(info);
        }
    }));
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().expect("the only one");
    snapshotter
}

/// The capture finds each form of each secret within a text, and allows the payload only in
/// commands.
#[test]
fn disclosed_secrets_are_found() {
    let client = Authority::new().client("client");
    let capture = || Capture::new(needles(&client), PAYLOAD, USER);
    for needle in needles(&client) {
        let own = capture();
        own.see(
            "a test",
            &format!("user={USER} first line\nthen {} and more", needle.form),
        );
        let found = own.found();
        assert!(
            found.iter().any(|found| found.starts_with(&needle.name)),
            "{}",
            needle.name
        );
        assert_eq!((own.lines(), own.saw()), (2, (true, false)));
    }
    let own = capture();
    own.see_command("a command", PAYLOAD);
    assert_eq!(own.found(), [""; 0]);
    own.see("something else", PAYLOAD);
    assert_eq!(own.found().len(), 1);
}
