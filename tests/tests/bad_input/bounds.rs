//! What an attack costs: memory, and the time that other tasks of the runtime have to wait.
//!
//! By the real clock, over TCP.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mongo_core::ErrorKind;
use mongo_core::pools::ManagerConfig;
use mongo_testkit::{Action, Matcher, ScramAttack, ScriptedServer, User};
use tokio::task::LocalSet;
use tokio::time::sleep;

use crate::ALLOCATOR;
use crate::attacks::{Attack, Moment, PASSWORD, USER};
use crate::outcome::ping;
use crate::sources::{Core, Source};

/// Of the whole process over its state before the attack: the server's copies of what it sends,
/// which is 160 KB at most, are in it.
const MEMORY: usize = 1024 * 1024;
/// For what is never answered.
const PATIENCE: Duration = Duration::from_millis(150);
/// How late a deadline may be seen on a busy machine.
const LATE: Duration = Duration::from_secs(5);
/// The longest that another task may wait for its turn: generous, for busy machines.
const GAP: Duration = Duration::from_millis(250);

pub(crate) fn run(attack: &Attack) {
    let gap = on_runtime(async {
        let server = ScriptedServer::builder();
        let server = match attack.with_user() {
            true => {
                let server = server.user(User::new(USER, PASSWORD));
                server.plain_user(USER, PASSWORD).start().await
            }
            false => server.start().await,
        };
        let patience = PATIENCE.as_millis();
        let uri = match attack.with_user() {
            true => server.uri_for(USER, PASSWORD),
            false => server.uri(),
        };
        let mut config = ManagerConfig::default();
        config.command_timeout = Some(PATIENCE);
        let core = Core::build(
            &format!("{uri}&connectTimeoutMS={patience}{}", attack.option),
            config,
        );
        let held = match attack.moment {
            Moment::Hello | Moment::Authentication => None,
            Moment::Command => Some(core.get().await.expect("a decent connection")),
        };
        server.script().add(attack.rule.clone());

        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let begin = Instant::now();
        let error = match held {
            None => core.get().await.map(drop).expect_err("attacked"),
            Some(mut connection) => ping(&mut connection).await.expect_err("attacked"),
        };
        let took = begin.elapsed();
        let memory = ALLOCATOR.peak_usage().saturating_sub(before);
        crate::show(format_args!("{}: {memory} bytes, {took:?}", attack.name));
        let fits = (attack.fits)(error.kind());
        assert!(fits, "{error:?} is not {}", attack.expected);
        assert!(memory <= MEMORY, "{memory} bytes");
        assert!(took < PATIENCE + LATE, "{took:?}");
    });
    assert!(gap < GAP, "another task waited {gap:?}");
}

/// Hashing that takes a while keeps a thread of the blocking pool busy, and nobody else.
pub(crate) fn hashing_stalls_nobody() {
    let begin = Instant::now();
    let gap = on_runtime(async {
        let server = ScriptedServer::builder()
            .user(User::new(USER, PASSWORD))
            .rule(Matcher::scram().then(Action::Scram(ScramAttack::Iterations(300_000))))
            .start()
            .await;
        let uri = server.uri_for(USER, PASSWORD) + "&connectTimeoutMS=60000";
        let core = Core::build(&uri, ManagerConfig::default());
        let error = core.get().await.map(drop).expect_err("other keys");
        // The server's own keys are of 4096.
        let refused = matches!(error.kind(), ErrorKind::Authentication(_));
        assert!(refused, "{error}");
    });
    let took = begin.elapsed();
    assert!(gap < took / 2, "another task waited {gap:?} of {took:?}");
}

/// Runs a test beside a ticker on one thread; returns the ticker's longest gap.
fn on_runtime(test: impl Future<Output = ()>) -> Duration {
    const TICK: Duration = Duration::from_millis(5);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let longest = Rc::new(Cell::new(Duration::ZERO));
    let seen = longest.clone();
    LocalSet::new().block_on(&runtime, async move {
        tokio::task::spawn_local(async move {
            loop {
                let begin = Instant::now();
                sleep(TICK).await;
                let gap = begin.elapsed().saturating_sub(TICK);
                seen.set(seen.get().max(gap));
            }
        });
        // The ticker's first turn.
        sleep(TICK).await;
        test.await;
    });
    longest.get()
}
