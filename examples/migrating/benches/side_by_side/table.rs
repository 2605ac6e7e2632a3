//! The table in Markdown.

use std::fmt::Write as _;

use crate::figures::{Figure, Figures, Measure};
use crate::subject::NAMES;

const HEADER: &str = "\
| | `bb8-mongodb` 1.4 | `mongodb` 3, the official driver | `mongo-bb8` | `mongo-deadpool` |
|---|---|---|---|---|
";

const NOTES: &str = "
Ten slots (`maxPoolSize=10`, for `bb8-mongodb` bb8's `max_size`), a replica set of three members with a user, played by
the test kit's scripted servers in a process of their own; all on one machine, in a release build; medians where a figure has noise. `cargo bench -p mongo-example-migrating --all-features`
writes this file.

- Sockets are those that the three servers accepted, monitors included. `bb8-mongodb` pools whole clients, each with
  monitors of its own. With a wrong password bb8 makes one after another, without a pause, until its time-out.
- The eleventh caller comes while ten commands of 3 s are in progress, with a longest wait of 0.5 s: `waitQueueTimeoutMS`,
  or bb8's `connection_timeout`. The official driver's pool has no such limit, and the caller waits for a slot.
- Memory is the growth of the process from before the pool was made. CPU is that of the client's process for a check-out,
  a ping and the return, with ten tasks. `bb8-mongodb` sends a ping of its own at each check-out, as bb8 does by default.
- The default features of the official driver have TLS and DNS, and `bb8-mongodb` has them always. The second row of crates
  is the least. `-- --builds` counts crates, and adds the CPU of debug builds from nothing.
";

/// How a figure is shown.
pub(crate) type Show = fn(&Figure) -> String;

pub(crate) fn markdown(figures: &Figures) -> String {
    let rows: [(&str, Measure, Show); 10] = [
        ("sockets, one caller", Measure::SocketsOfOne, count),
        ("sockets, ten callers at once", Measure::SocketsOfTen, count),
        (
            "a wrong password is reported after",
            Measure::WrongPassword,
            time,
        ),
        ("sockets until then", Measure::WrongPasswordSockets, count),
        ("the eleventh caller", Measure::Eleventh, wait),
        (
            "memory of the pool and ten connections",
            Measure::Memory,
            memory,
        ),
        ("client CPU of a ping", Measure::Ping, micros),
        ("crates, with TLS and DNS", Measure::CratesWithTls, count),
        ("crates, at least", Measure::Crates, count),
        ("debug build, with TLS and DNS", Measure::Build, seconds),
    ];
    let mut text = HEADER.to_owned();
    for (title, measure, show) in rows {
        let shown = NAMES.map(|name| figures.get(name, measure).map(show));
        if shown.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "| {title} |");
        for shown in shown {
            let _ = write!(text, " {} |", shown.as_deref().unwrap_or("–"));
        }
        text.push('\n');
    }
    text.push_str(NOTES);
    for (title, measure) in [
        (
            "A wrong password, as the error reads",
            Measure::WrongPassword,
        ),
        ("The eleventh caller's error", Measure::Eleventh),
    ] {
        let _ = write!(text, "\n{title}:\n\n");
        for name in NAMES {
            let figure = figures.get(name, measure);
            let error = figure.and_then(|figure| figure.error.as_deref());
            let shown = error.map_or_else(
                || "none".to_owned(),
                |error| format!("`{}`", shortened(error)),
            );
            let _ = writeln!(text, "- `{name}`: {shown}");
        }
    }
    text
}

fn count(figure: &Figure) -> String {
    format!("{:.0}", figure.value)
}

/// Of milliseconds.
pub(crate) fn time(figure: &Figure) -> String {
    match figure.value {
        long if long >= 1000.0 => format!("{:.1} s", long / 1000.0),
        short => format!("{short:.0} ms"),
    }
}

fn wait(figure: &Figure) -> String {
    match &figure.error {
        Some(_) => format!("an error after {}", time(figure)),
        None => format!("a slot after {}", time(figure)),
    }
}

/// Of KiB.
pub(crate) fn memory(figure: &Figure) -> String {
    format!("{:.1} MiB", figure.value / 1024.0)
}

pub(crate) fn micros(figure: &Figure) -> String {
    format!("{:.0} µs", figure.value)
}

fn seconds(figure: &Figure) -> String {
    format!("{:.0} s", figure.value)
}

/// Without ports, which change with each run, and what could end the cell.
fn shortened(error: &str) -> String {
    const MOST: usize = 220;
    let mut text = String::new();
    let mut rest = error;
    while let Some((before, after)) = rest.split_once("127.0.0.1:") {
        text.push_str(before);
        text.push_str("127.0.0.1");
        rest = after.trim_start_matches(|next: char| next.is_ascii_digit());
    }
    text.push_str(rest);
    let text = text.replace(['|', '`'], "'");
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
