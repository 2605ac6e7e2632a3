//! The cost of an attack: memory, and delays of other tasks on the runtime.
//!
//! The tests run over TCP, with a real clock until the server has attacked. If then only a deadline
//! can end the attack, the test does not wait for it.

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

/// The limit for the whole process, above its memory before the attack. It includes the server's
/// copies of its messages, 160 KB at most.
const MEMORY: usize = 1024 * 1024;
const TICK: Duration = Duration::from_millis(5);
/// The longest delay of another task, beyond the delay of an idle thread at the same time.
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

/// Long hashing occupies only a thread of the blocking pool.
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
        // The server's own keys have 4096 iterations.
        let refused = matches!(error.kind(), ErrorKind::Authentication(_));
        assert!(refused, "{error}");
    });
    let took = begin.elapsed();
    assert!(gap < took / 2, "another task waited {gap:?} of {took:?}");
}

/// A thread that ticks, to measure the scheduling delay of this machine.
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

    /// Stops it, and returns its longest gap.
    fn stop(self) -> Duration {
        self.stop.send(()).expect("it ticks");
        self.thread.join().expect("no panic")
    }
}

/// Runs a test beside a ticker on one thread. Returns how much longer the ticker's longest gap is
/// than that of a separate thread.
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
        // Let the ticker start.
        sleep(TICK).await;
        test.await;
    });
    longest.get().saturating_sub(control.stop())
}
