//! Runs an attack in its own process, and monitors it.

use std::fmt;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cases::STALLED;
use crate::client::Job;

/// The memory in MiB at which a process is ended.
const MOST: u64 = 1536;

pub(crate) enum End {
    Refused { fits: bool },
    Accepted { fits: bool },
    Stalled,
    TooLarge,
    Died,
}

pub(crate) struct Watched {
    pub(crate) took: Duration,
    /// The maximum in MiB.
    pub(crate) memory: u64,
    /// The longest delay of other tasks, in milliseconds.
    pub(crate) gap: f64,
    pub(crate) end: End,
    text: String,
}

/// Runs the process to its end, or to one of the limits.
pub(crate) fn watch(who: &str, case: usize, uri: &str) -> Watched {
    let (name, value) = Job::variable(who, case, uri);
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .env(name, value)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    // The child signals when it is ready.
    let mut stdout = child.stdout.take().expect("piped");
    let _ = stdout.read_exact(&mut [0]);
    let begin = Instant::now();
    let mut memory = 0;
    let broken = loop {
        memory = memory.max(resident(&child.id().to_string()));
        if child.try_wait().expect("a status").is_some() {
            break None;
        }
        if begin.elapsed() > STALLED {
            break Some(End::Stalled);
        }
        if memory > MOST {
            break Some(End::TooLarge);
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let took = begin.elapsed();
    if broken.is_some() {
        let _ = child.kill();
    }
    let status = child.wait().expect("a status");
    let mut told = String::new();
    let _ = stdout.read_to_string(&mut told);
    let seen = Watched {
        took,
        memory,
        gap: 0.0,
        end: End::Died,
        text: status.to_string(),
    };
    match (broken, Watched::told(&told)) {
        (Some(end), _) => Watched {
            end,
            text: "killed".to_owned(),
            ..seen
        },
        (None, Some(told)) => told,
        (None, None) => seen,
    }
}

impl Watched {
    /// Parses the child's output.
    fn told(text: &str) -> Option<Self> {
        let mut parts = text.splitn(6, '|');
        let took = Duration::from_micros(parts.next()?.parse().ok()?);
        let memory = parts.next()?.parse().ok()?;
        let gap = parts.next()?.parse().ok()?;
        let (end, fits) = (parts.next()?, parts.next()? == "true");
        let end = match end {
            "accepted" => End::Accepted { fits },
            _ => End::Refused { fits },
        };
        let mut text: String = parts.next()?.chars().take(110).collect();
        text.retain(|char| !char.is_control());
        Some(Self {
            took,
            memory,
            gap,
            end,
            text,
        })
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            took,
            memory,
            gap,
            end,
            text,
        } = self;
        let took = took.as_secs_f64() * 1000.0;
        let end = match end {
            End::Refused { fits: true } => "error:",
            End::Refused { fits: false } => "ANOTHER ERROR:",
            End::Accepted { fits: true } => "accepted:",
            End::Accepted { fits: false } => "ACCEPTED",
            End::Stalled => "STALLED,",
            End::TooLarge => "MEMORY,",
            End::Died => "DIED,",
        };
        write!(f, "{took:>8.1} {memory:>8} {gap:>8.2}  {end} {text}")
    }
}

/// The maximum resident memory of a process, by its id or `self`, since the last reset, in MiB.
pub(crate) fn resident(id: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = figure.and_then(|figure| figure.parse().ok()).unwrap_or(0);
    kib / 1024
}
