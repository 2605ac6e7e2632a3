//! The measurements, each in a process of its own.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

use crate::figures::{Figures, Measure};
use crate::server::Server;
use crate::subject::{
    BB8_MONGODB, MONGO_BB8, MONGO_DEADPOOL, NAMES, OFFICIAL, Official, Outcome, PoolOfClients,
    SLOTS, Subject,
};

/// With this argument, followed by the subject, the scenario and the URI, the bench's own binary is
/// a client.
const ARGUMENT: &str = "--client";

/// How long a server holds a `find` back.
const HOLD: Duration = Duration::from_millis(300);
const LONG_HOLD: Duration = Duration::from_secs(3);
/// The bound of the eleventh caller's wait, where there is one.
const WAIT: Duration = Duration::from_millis(500);
/// Processes of each subject, whose median counts.
const RUNS: usize = 5;
const ROUNDS: usize = 9;
/// Pings of each of the ten tasks in a round.
const PINGS: u32 = 400;

/// Measures all subjects.
pub(crate) fn measure(figures: &mut Figures) {
    for subject in NAMES {
        for (scenario, measure) in [
            ("one", Measure::SocketsOfOne),
            ("ten", Measure::SocketsOfTen),
        ] {
            let mut server = Server::start(HOLD);
            let client = Client::start(subject, scenario, &server.uri("pencil"));
            figures.set(subject, measure, server.settled_sockets() as f64);
            client.end();
        }
        let mut server = Server::start(Duration::ZERO);
        let mut client = Client::start(subject, "password", &server.uri("wr0ng"));
        let (value, error) = client.report();
        figures.set_with(subject, Measure::WrongPassword, value, error);
        let sockets = server.sockets();
        figures.set(subject, Measure::WrongPasswordSockets, sockets as f64);
        client.end();

        let server = Server::start(LONG_HOLD);
        let mut client = Client::start(subject, "eleventh", &server.uri("pencil"));
        let (value, error) = client.report();
        figures.set_with(subject, Measure::Eleventh, value, error);
        client.end();
    }
    // In turns, so that a change of the machine's load meets all.
    for (scenario, hold, measure) in [
        ("memory", HOLD, Measure::Memory),
        ("ping", Duration::ZERO, Measure::Ping),
    ] {
        let mut values = [const { Vec::new() }; NAMES.len()];
        for _ in 0..RUNS {
            for (subject, values) in NAMES.into_iter().zip(&mut values) {
                let server = Server::start(hold);
                let mut client = Client::start(subject, scenario, &server.uri("pencil"));
                values.push(client.report().0);
                client.end();
            }
        }
        for (subject, values) in NAMES.into_iter().zip(values) {
            figures.set(subject, measure, median(values));
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A client process, which ends with its input.
struct Client {
    child: std::process::Child,
    output: std::io::BufReader<std::process::ChildStdout>,
}

impl Client {
    fn start(subject: &str, scenario: &str, uri: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args([ARGUMENT, subject, scenario, uri])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a client process");
        let output = child.stdout.take().expect("piped");
        Self {
            child,
            output: std::io::BufReader::new(output),
        }
    }

    /// Its figure and its error.
    fn report(&mut self) -> (f64, Option<String>) {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut self.output, &mut line).expect("text");
        let (value, error) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let error = Some(error.to_owned()).filter(|error| !error.is_empty());
        (value.parse().expect("a figure"), error)
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().expect("a client process");
        assert!(status.success(), "{status}");
    }
}

/// Measures, if this process was started for it.
pub(crate) fn run_if_asked() -> bool {
    let mut arguments = std::env::args().skip_while(|argument| argument != ARGUMENT);
    let (Some(subject), Some(scenario), Some(uri)) =
        (arguments.nth(1), arguments.next(), arguments.next())
    else {
        return false;
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        match &*subject {
            BB8_MONGODB => run::<PoolOfClients>(&scenario, &uri).await,
            OFFICIAL => run::<Official>(&scenario, &uri).await,
            MONGO_BB8 => run::<mongo_bb8::Pools>(&scenario, &uri).await,
            MONGO_DEADPOOL => run::<mongo_deadpool::Pools>(&scenario, &uri).await,
            other => panic!("{other} is none of {NAMES:?}"),
        }
    });
    true
}

async fn run<S: Subject>(scenario: &str, uri: &str) {
    match scenario {
        "one" => keep(one_caller::<S>(uri).await).await,
        "ten" => keep(ten_callers::<S>(uri, None).await).await,
        "password" => wrong_password::<S>(uri).await,
        "eleventh" => eleventh_caller::<S>(uri).await,
        "memory" => memory::<S>(uri).await,
        "ping" => ping::<S>(uri).await,
        other => panic!("{other} is no scenario"),
    }
}

fn print(value: f64, error: Option<String>) {
    // In one line.
    let error: Vec<_> = error
        .as_deref()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    println!("{value} {}", error.join(" "));
}

/// Keeps a pool until the parent has counted.
async fn keep<S: Subject>(pool: S) {
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await;
    drop(pool);
}

async fn one_caller<S: Subject>(uri: &str) -> S {
    let pool = S::new(uri, None).await.expect("a pool");
    pool.find().await.expect("a reply");
    pool
}

/// As many callers at once as there are slots, each of which needs one of its own.
async fn ten_callers<S: Subject>(uri: &str, wait: Option<Duration>) -> S {
    let pool = S::new(uri, wait).await.expect("a pool");
    occupy(&pool).join_all().await;
    pool
}

fn occupy<S: Subject>(pool: &S) -> JoinSet<()> {
    let caller = |_| {
        let pool = pool.clone();
        async move { pool.find().await.expect("a reply") }
    };
    (0..SLOTS).map(caller).collect()
}

async fn wrong_password<S: Subject>(uri: &str) {
    let begin = Instant::now();
    let outcome: Outcome<()> = async { S::new(uri, None).await?.ping().await }.await;
    let error = outcome.expect_err("a wrong password");
    print(begin.elapsed().as_secs_f64() * 1e3, Some(error));
}

/// The caller that comes when all slots are taken, by commands that take longer than its wait.
async fn eleventh_caller<S: Subject>(uri: &str) {
    // Makes the connections, so that only the slots count.
    let pool = S::new(uri, Some(WAIT)).await.expect("a pool");
    let pings = (0..SLOTS).map(|_| pool.ping());
    futures_util::future::join_all(pings).await;
    let occupied = occupy(&pool);
    // They have been sent long before the servers answer.
    tokio::time::sleep(LONG_HOLD / 6).await;
    let begin = Instant::now();
    let error = pool.ping().await.err();
    print(begin.elapsed().as_secs_f64() * 1e3, error);
    drop(occupied);
}

async fn memory<S: Subject>(uri: &str) {
    let before = resident();
    let pool = ten_callers::<S>(uri, None).await;
    // The monitors have connected.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    print(resident() - before, None);
    keep(pool).await;
}

/// The resident memory of this process in KiB.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0.0) * rustix::param::page_size() as f64 / 1024.0
}

/// The CPU of a check-out, a ping and a return, in microseconds.
async fn ping<S: Subject>(uri: &str) {
    let pool = S::new(uri, None).await.expect("a pool");
    let round = async || {
        let begin = cpu();
        let tasks: JoinSet<_> = (0..SLOTS)
            .map(|_| {
                let pool = pool.clone();
                async move {
                    for _ in 0..PINGS {
                        pool.ping().await.expect("a reply");
                    }
                }
            })
            .collect();
        tasks.join_all().await;
        (cpu() - begin) / f64::from(SLOTS * PINGS)
    };
    // The first one connects.
    round().await;
    let mut values = Vec::new();
    for _ in 0..ROUNDS {
        values.push(round().await);
    }
    print(median(values), None);
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_secs_f64() * 1e6
}
