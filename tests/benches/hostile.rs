//! Eight characteristic attacks on our connection and, beside it, on the official driver: what comes
//! out, after how long, and with how much memory. Each in a process of its own.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench hostile
//! ```
//! `tests/bad_input` has all attacks, and proves what becomes of ours; this is for comparison.

use std::fmt;
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use bson::doc;
use flate2::{Compress, Compression, FlushCompress};
use mongo_core::pools::{ConnectionFactory, ManagerConfig};
use mongo_core::{ClientOptions, Deadline};
use mongo_testkit::{
    Action, Compressed, Compressor, Matcher, Rule, ScramAttack, ScriptedServer, User, codec,
    payload,
};

/// Of connecting and, for ours, of a command: after it an honest client has given up.
const BOUND: Duration = Duration::from_secs(2);
/// Who is not done by then is stuck.
const STALLED: Duration = Duration::from_secs(8);
/// KiB: more is not waited for.
const MOST: u64 = 1536 * 1024;
const CHILD: &str = "HOSTILE_CHILD";

/// The reply to the command that is delayed and given up, and to the one after it.
const FIRST: &str = "the first";

fn attacks() -> Vec<(&'static str, Rule)> {
    let echo = || Matcher::command("echo");
    let length: Vec<_> = [i32::MAX, 1, 1, codec::OP_MSG]
        .map(i32::to_le_bytes)
        .concat();
    vec![
        (
            "length of 2 GB",
            echo().then(Action::Raw(length)).then(Action::Hang),
        ),
        (
            "4294967295 iterations",
            Matcher::scram().then(Action::Scram(ScramAttack::Iterations(u32::MAX.into()))),
        ),
        (
            "1 GiB compressed, declared as 100 bytes",
            echo().then(Action::Raw(bomb())).then(Action::Hang),
        ),
        (
            "a reply after the command was given up",
            echo()
                .once()
                .then(Action::Delay(Duration::from_millis(300))),
        ),
        (
            "20,000-deep document",
            echo().then(Action::Body(payload::deep_document(20_000))),
        ),
        (
            "a hello of one byte a second",
            Matcher::hello().then(Action::byte_per_second()),
        ),
        (
            "a SASL conversation that never ends",
            Matcher::scram().then(Action::Scram(ScramAttack::NeverDone)),
        ),
        ("wrong responseTo", echo().then(Action::ResponseTo(77_777))),
    ]
}

/// A million zeros, compressed, a thousand times over.
fn bomb() -> Vec<u8> {
    const TIMES: usize = 1024;
    let zeros = vec![0; 1024 * 1024];
    let mut block = Vec::with_capacity(64 * 1024);
    let mut deflate = Compress::new(Compression::best(), false);
    let done = deflate.compress_vec(&zeros, &mut block, FlushCompress::Full);
    done.expect("compressed");
    let mut content = vec![0x78, 0xDA];
    content.extend(block.repeat(TIMES));
    // The last block, which is empty, and Adler's sum of zeros.
    content.extend([3, 0]);
    let sum = (zeros.len() * TIMES % 65521) as u16;
    content.extend([sum.to_be_bytes(), [0, 1]].concat());
    let message = Compressed {
        request_id: 1,
        response_to: 1,
        original: codec::OP_MSG,
        size: 100,
        compressor: Compressor::Zlib.id(),
        content,
    };
    message.encode()
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    if let Ok(who) = std::env::var(CHILD) {
        let uri = std::env::args().nth(1).expect("a connection string");
        let begin = Instant::now();
        let outcome = runtime.block_on(async {
            match &*who {
                "ours" => ours(&uri).await.map_err(|error| error.to_string()),
                _ => theirs(&uri).await.map_err(|error| error.to_string()),
            }
        });
        let text = outcome.unwrap_or_else(|error| format!("error: {error}"));
        println!("{:.0} ms|{text}", begin.elapsed().as_secs_f64() * 1000.0);
        let _ = std::io::stdout().flush();
        return ExitCode::SUCCESS;
    }
    println!(
        "{:<42} {:<9} {:>8} {:>9}  outcome",
        "attack", "client", "time", "memory"
    );
    for (name, rule) in attacks() {
        for who in ["ours", "official"] {
            let server = runtime.block_on(
                ScriptedServer::builder()
                    .user(User::new("app", "pencil"))
                    .compressors([Compressor::Zlib])
                    .rule(rule.clone())
                    .start(),
            );
            let bound = BOUND.as_millis();
            let uri = server.uri_for("app", "pencil")
                + &format!(
                    "&compressors=zlib&connectTimeoutMS={bound}&serverSelectionTimeoutMS={bound}"
                );
            let (time, memory, outcome) = watched(who, &uri);
            let mut outcome: String = outcome.chars().take(100).collect();
            outcome.retain(|char| !char.is_control());
            println!(
                "{name:<42} {who:<9} {time:>8} {:>5} MiB  {outcome}",
                memory / 1024
            );
        }
    }
    ExitCode::SUCCESS
}

/// Runs a child to its end, or to one of the bounds: how long it took, its greatest memory in KiB,
/// and what came out.
fn watched(who: &str, uri: &str) -> (String, u64, String) {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.arg(uri).env(CHILD, who).env("RUST_BACKTRACE", "0");
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a child");
    let begin = Instant::now();
    let mut memory = 0;
    let ended = loop {
        memory = memory.max(resident(child.id()));
        if let Some(status) = child.try_wait().expect("a status") {
            break Ok(status);
        }
        if begin.elapsed() > STALLED {
            break Err("STALLED, killed");
        }
        if memory > MOST {
            break Err("MEMORY, killed");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if ended.is_err() {
        let _ = child.kill();
    }
    let output = child.wait_with_output().expect("an output");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let took = format!("{} ms", begin.elapsed().as_millis());
    match (ended, text.split_once('|')) {
        (Err(bound), _) => (took, memory, bound.to_owned()),
        (Ok(_), Some((time, outcome))) => (time.to_owned(), memory, outcome.to_owned()),
        (Ok(status), None) => (took, memory, format!("DIED: {status}")),
    }
}

/// The greatest resident memory of a process so far, in KiB.
fn resident(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    figure.and_then(|figure| figure.parse().ok()).unwrap_or(0)
}

fn told(echo: Option<&str>, reply: &dyn fmt::Display) -> String {
    match echo {
        Some(FIRST) => format!("A FOREIGN REPLY: {reply}"),
        _ => format!("reply: {reply}"),
    }
}

/// How long the first of two commands is waited for.
const PATIENCE: Duration = Duration::from_millis(100);

async fn ours(uri: &str) -> Result<String, mongo_core::Error> {
    let mut config = ManagerConfig::default();
    config.command_timeout = Some(BOUND);
    let options = ClientOptions::parse(uri)?;
    let factory = ConnectionFactory::builder(options).config(config).build()?;
    let mut connection = factory.establish(Deadline::never()).await?;
    let first = doc! { "echo": FIRST };
    let first = tokio::time::timeout(PATIENCE, async {
        connection.run_command("app", &first).await?.to_document()
    });
    if let Ok(first) = first.await {
        return first.map(|reply| format!("ACCEPTED {reply}"));
    }
    let second = doc! { "echo": "the second" };
    let reply = connection.run_command("app", &second).await?;
    let reply = reply.to_document()?;
    Ok(told(reply.get_str("echo").ok(), &reply))
}

async fn theirs(uri: &str) -> Result<String, mongodb::error::Error> {
    // Of its own version of bson.
    use mongodb::bson::doc;
    let client = mongodb::Client::with_uri_str(uri).await?;
    let database = client.database("app");
    // A connection of the pool, so that only the command is given up.
    let ping = database.run_command(doc! { "ping": 1 });
    ping.await?;
    let first = database.run_command(doc! { "echo": FIRST });
    if let Ok(first) = tokio::time::timeout(PATIENCE, first).await {
        return first.map(|reply| format!("ACCEPTED {reply}"));
    }
    let second = database.run_command(doc! { "echo": "the second" });
    second
        .await
        .map(|reply| told(reply.get_str("echo").ok(), &reply))
}
