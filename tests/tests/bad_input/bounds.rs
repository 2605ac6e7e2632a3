//! What an attack costs: memory, and the time that other tasks of the runtime have to wait.
//!
//! Over TCP. The clock is the real one until a server has made its attack; where nothing but a
//! deadline can come then, it is not waited for.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mongo_core::ErrorKind;
use mongo_core::pools::ManagerConfig;
use mongo_testkit::{Action, Matcher, ScramAttack, ScriptedServer, User};
use tokio::task::LocalSet;
use tokio::time::sleep;

use crate::ALLOCATOR;
use crate::attack_runner::ping;
use crate::attacks::{Attack, COMMAND_TIMEOUT, Moment, PASSWORD, USER};
use crate::sources::{Core, Source};

/// Of the whole process over its state before the attack: the server's copies of what it sends,
/// which is 160 KB at most, are in it.
const MEMORY: usize = 1024 * 1024;
const TICK: Duration = Duration::from_millis(5);
/// The longest that another task may wait for its turn, over what a thread with nothing beside it
/// has to wait meanwhile.
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
        let uri = match attack.with_user() {
            true => server.uri_for(USER, PASSWORD),
            false => server.uri(),
        };
        let mut config = ManagerConfig::default();
        config.command_timeout = Some(COMMAND_TIMEOUT);
        let core = Core::build(&(uri + attack.option), config);
        let held = match attack.moment {
            Moment::Hello | Moment::Authentication => None,
            Moment::Command => Some(core.get().await.expect("a decent connection")),
        };
        let rule = server.script().add(attack.rule.clone());

        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let begin = tokio::time::Instant::now();
        let suffer = async {
            match held {
                None => core.get().await.map(drop).expect_err("attacked"),
                Some(mut connection) => ping(&mut connection).await.expect_err("attacked"),
            }
        };
        let skip_the_wait = async {
            while attack.is_waited_out() && server.script().applied(rule) == 0 {
                sleep(TICK).await;
            }
            if attack.is_waited_out() {
                tokio::time::pause();
            }
        };
        let (error, ()) = tokio::join!(suffer, skip_the_wait);
        let took = begin.elapsed();
        let memory = ALLOCATOR.peak_usage().saturating_sub(before);
        crate::show(format_args!("{}: {memory} bytes, {took:?}", attack.name));
        let fits = (attack.fits)(error.kind());
        assert!(fits, "{error:?} is not {}", attack.expected);
        assert!(memory <= MEMORY, "{memory} bytes");
        if attack.is_waited_out() {
            let bound = attack.bound();
            assert!(took >= bound, "{took:?}");
        }
    });
    assert!(gap < GAP, "another task waited {gap:?} more");
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

/// Ticks by itself, to see how long a thread has to wait on this machine now.
struct Control {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Duration>,
}

impl Control {
    fn start() -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            loop {
                let begin = Instant::now();
                let stopped = stopped.recv_timeout(TICK);
                longest = longest.max(begin.elapsed().saturating_sub(TICK));
                if stopped.is_ok() {
                    return longest;
                }
            }
        });
        Self { stop, thread }
    }

    /// Its longest gap.
    fn stop(self) -> Duration {
        self.stop.send(()).expect("it ticks");
        self.thread.join().expect("no panic")
    }
}

/// Runs a test beside a ticker on one thread; returns by how much the ticker's longest gap is longer
/// than that of a thread by itself.
fn on_runtime(test: impl Future<Output = ()>) -> Duration {
    let control = Control::start();
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
    longest.get().saturating_sub(control.stop())
}
