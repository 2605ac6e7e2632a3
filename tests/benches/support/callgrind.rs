//! Counts the instructions of one operation: this binary runs itself under `valgrind` with one and
//! with two batches of operations. Their difference excludes one-time work.

use std::process::Command;

const ARGUMENT: &str = "--callgrind";
/// Operations of each task.
const HELPING: usize = 1000;

/// A subject to run alone, to count its instructions: `--callgrind NAME N [TASKS CONNECTIONS]`.
pub(crate) struct Asked {
    pub(crate) name: String,
    /// Operations of each task.
    pub(crate) count: usize,
    pub(crate) load: Load,
}

/// The number of tasks and connections.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) tasks: usize,
    pub(crate) connections: usize,
}

impl Load {
    pub(crate) const ALONE: Self = Self {
        tasks: 1,
        connections: 1,
    };
}

/// The subject that this process was asked to run.
pub(crate) fn asked() -> Option<Asked> {
    let mut arguments = std::env::args().skip_while(|argument| argument != ARGUMENT);
    let (_, name, count) = (arguments.next()?, arguments.next()?, arguments.next()?);
    let number = |text: String| text.parse().expect("a number");
    let load = match (arguments.next(), arguments.next()) {
        (Some(tasks), Some(connections)) => Load {
            tasks: number(tasks),
            connections: number(connections),
        },
        _ => Load::ALONE,
    };
    let count = number(count);
    Some(Asked { name, count, load })
}

/// Instructions for each operation of the subject called `name`; `None` without valgrind.
pub(crate) fn instructions(name: &str, load: Load) -> Option<f64> {
    let (one, two) = (
        collect(name, HELPING, load)?,
        collect(name, 2 * HELPING, load)?,
    );
    Some((two - one) / (HELPING * load.tasks) as f64)
}

fn collect(name: &str, count: usize, load: Load) -> Option<f64> {
    let numbers = [count, load.tasks, load.connections].map(|number| number.to_string());
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().ok()?)
        .args([ARGUMENT, name])
        .args(numbers)
        .output()
        .ok()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let (_, collected) = stderr.split_once("Collected : ")?;
    collected.split_whitespace().next()?.parse().ok()
}
