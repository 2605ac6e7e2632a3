//! Runs an attack in a process of its own, and keeps an eye on it.

use std::fmt;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cases::STALLED;
use crate::client::Job;
use crate::mib;

/// Bytes: more is not waited for.
const MOST: u64 = 3 * 1024 * 1024 * 1024;

pub(crate) enum End {
    Refused { fits: bool },
    Accepted { fits: bool },
    Stalled,
    TooLarge,
    Died,
}

pub(crate) struct Watched {
    pub(crate) took: Duration,
    /// The most that it had over what it had before, in bytes.
    pub(crate) memory: u64,
    /// The longest that others had to wait, in milliseconds.
    pub(crate) gap: f64,
    pub(crate) end: End,
    text: String,
}

/// Runs it to its end, or to one of the bounds.
pub(crate) fn watch(who: &str, case: usize, uri: &str, bound: Duration) -> Watched {
    let (name, value) = Job::variable(who, case, uri);
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .env(name, value)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    // It takes a while to get ready, and then says so.
    let mut stdout = child.stdout.take().expect("piped");
    let _ = stdout.read_exact(&mut [0]);
    let (begin, id) = (Instant::now(), child.id().to_string());
    let (before, mut memory) = (resident(&id), 0);
    let broken = loop {
        memory = memory.max(greatest(&id).saturating_sub(before));
        if child.try_wait().expect("a status").is_some() {
            break None;
        }
        if begin.elapsed() > bound + STALLED {
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
    /// What the child has said.
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
        let memory = mib(*memory);
        // A process that was killed can't say.
        let gap = match gap {
            0.0 => "-".to_owned(),
            gap => format!("{gap:.2}"),
        };
        write!(f, "{took:>8.1} {memory:>8.1} {gap:>8}  {end} {text}")
    }
}

/// The resident memory of a process, by its id or `self`, in bytes.
pub(crate) fn resident(id: &str) -> u64 {
    status(id, "VmRSS:")
}

/// The greatest since it was counted anew.
pub(crate) fn greatest(id: &str) -> u64 {
    status(id, "VmHWM:")
}

fn status(id: &str, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = figure.and_then(|figure| figure.parse().ok()).unwrap_or(0);
    kib * 1024
}
