//! Counts the instructions of one operation: this binary runs itself under `valgrind` with one and
//! with two helpings of operations, whose difference is free of all that is done only once.

use std::process::Command;

const ARGUMENT: &str = "--callgrind";
const HELPING: usize = 1000;

/// What this process was asked to run, and how often: `--callgrind NAME N`.
pub(crate) fn asked() -> Option<(String, usize)> {
    let mut arguments = std::env::args().skip_while(|argument| argument != ARGUMENT);
    let (_, name, count) = (arguments.next()?, arguments.next()?, arguments.next()?);
    Some((name, count.parse().expect("a number")))
}

/// Instructions for each operation of the subject called `name`; `None` without valgrind.
pub(crate) fn instructions(name: &str) -> Option<f64> {
    let (one, two) = (collect(name, HELPING)?, collect(name, 2 * HELPING)?);
    Some((two - one) / HELPING as f64)
}

fn collect(name: &str, count: usize) -> Option<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().ok()?)
        .args([ARGUMENT, name, &count.to_string()])
        .output()
        .ok()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let (_, collected) = stderr.split_once("Collected : ")?;
    collected.split_whitespace().next()?.parse().ok()
}
