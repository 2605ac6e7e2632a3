//! The attacked client, in its own process.

use std::cell::Cell;
use std::fmt;
use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bson::doc;
use mongo_core::pools::{ConnectionFactory, ManagerConfig};
use mongo_core::{ClientOptions, Deadline, Error};
use rustix::time::{ClockId, clock_gettime};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use crate::BOUND;
use crate::cases::Case;
use crate::floods::End;
use crate::watch::resident;

/// The timeout of the first of two commands.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);
const JOB: &str = "HOSTILE_JOB";
/// The payload of the command that is delayed and cancelled, and of the next one.
const FIRST: &str = "the first";

/// The client and the attack of a process.
pub(crate) struct Job {
    pub(crate) who: String,
    case: usize,
    uri: String,
}

impl Job {
    pub(crate) fn of_this_process() -> Option<Self> {
        let job = std::env::var(JOB).ok()?;
        let mut parts = job.splitn(3, ' ');
        Some(Self {
            who: parts.next()?.to_owned(),
            case: parts.next()?.parse().ok()?,
            uri: parts.next()?.to_owned(),
        })
    }

    /// The environment variable that passes the job to a process.
    pub(crate) fn variable(who: &str, case: usize, uri: &str) -> (&'static str, String) {
        (JOB, format!("{who} {case} {uri}"))
    }
}

/// Prints `!` when it begins, and then
/// `<microseconds>|<MiB>|<gap in ms>|<refused, accepted>|<whether that is right>|<text>`.
pub(crate) fn run(job: Job, cases: Vec<Case>) -> ! {
    let case = &cases.into_iter().nth(job.case).expect("a case");
    // Don't count the memory that creating all cases needed.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let gap = Rc::new(Cell::new(0.0));
    let seen = Rc::clone(&gap);
    let (took, end, fits, text) = LocalSet::new().block_on(&runtime, async {
        spawn_local(tick(seen));
        // Let the ticker start.
        sleep(Duration::from_millis(5)).await;
        print!("!");
        let _ = std::io::stdout().flush();
        let begin = Instant::now();
        let (end, fits, text) = match &*job.who {
            "ours" => match ours(case, &job.uri).await {
                Ok(text) => (
                    "accepted",
                    case.fits(Ok(())) && !text.contains("FOREIGN"),
                    text,
                ),
                Err(error) => ("refused", case.fits(Err(error.kind())), error.to_string()),
            },
            _ => match theirs(case, &job.uri).await {
                Ok(text) => ("accepted", case.fits(Ok(())), text),
                Err(error) => ("refused", true, error.to_string()),
            },
        };
        let took = begin.elapsed();
        // Its last tick.
        sleep(Duration::from_millis(3)).await;
        (took, end, fits, text)
    });
    let (took, memory, gap) = (took.as_micros(), resident("self"), gap.get());
    println!("{took}|{memory}|{gap}|{end}|{fits}|{text}");
    let _ = std::io::stdout().flush();
    // Remaining tasks of the client are ignored.
    std::process::exit(0);
}

/// Measures the most CPU time of the thread between two ticks.
async fn tick(longest: Rc<Cell<f64>>) {
    let cpu = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_secs_f64() * 1000.0
    };
    // The first gap is the start of the runtime.
    sleep(Duration::from_millis(1)).await;
    let mut last = cpu();
    loop {
        sleep(Duration::from_millis(1)).await;
        let now = cpu();
        longest.set(longest.get().max(now - last));
        last = now;
    }
}

fn told(echo: Option<&str>, reply: &dyn fmt::Display) -> String {
    match echo {
        Some(FIRST) => format!("A FOREIGN REPLY: {reply}"),
        _ => format!("reply: {reply}"),
    }
}

async fn ours(case: &Case, uri: &str) -> Result<String, Error> {
    let mut config = ManagerConfig::default();
    config.command_timeout = Some(BOUND);
    let mut options = ClientOptions::parse(uri)?;
    // For attacks without TLS.
    options.allow_plain_without_tls = true;
    let factory = ConnectionFactory::builder(options).config(config).build()?;
    let mut connection = factory.establish(Deadline::never()).await?;
    if !matches!(case, Case::LateReply) {
        let reply = connection.run_command("admin", &doc! { "ping": 1 }).await?;
        if let Case::Flood { flood, .. } = case {
            // The application reads its contents.
            let written = reply.check_write().map_err(|error| error.code());
            let told = reply.write_concern_error().map(|error| error.code);
            let expected = match flood.end {
                End::Accepted { write } => write,
                End::Refused(_) | End::Malformed(_) => None,
            };
            assert_eq!(written.err().flatten(), expected, "{told:?}");
            return Ok(format!("read; {expected:?} {told:?}"));
        }
        return reply.to_document().map(|reply| reply.to_string());
    }
    let first = doc! { "echo": FIRST };
    let first = tokio::time::timeout(PATIENCE, async {
        connection.run_command("app", &first).await?.to_document()
    });
    if let Ok(first) = first.await {
        return first.map(|reply| reply.to_string());
    }
    let second = doc! { "echo": "the second" };
    let reply = connection.run_command("app", &second).await?;
    let reply = reply.to_document()?;
    Ok(told(reply.get_str("echo").ok(), &reply))
}

async fn theirs(case: &Case, uri: &str) -> Result<String, mongodb::error::Error> {
    // The crate's own version of bson.
    use mongodb::bson::doc;
    let client = mongodb::Client::with_uri_str(uri).await?;
    let database = client.database("admin");
    let ping = database.run_command(doc! { "ping": 1 }).await?;
    if !matches!(case, Case::LateReply) {
        return Ok(ping.to_string());
    }
    // On a pooled connection, so that only the command is cancelled.
    let first = database.run_command(doc! { "echo": FIRST });
    if let Ok(first) = tokio::time::timeout(PATIENCE, first).await {
        return first.map(|reply| reply.to_string());
    }
    let reply = database.run_command(doc! { "echo": "the second" }).await?;
    Ok(told(reply.get_str("echo").ok(), &reply))
}
