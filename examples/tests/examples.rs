//! The examples, run as programs: those that `cargo test` has built beside this test, on the same
//! backend.

use std::path::PathBuf;
use std::process::Command;

/// Runs an example against its embedded deployment, and gives what it printed.
fn run(name: &str) -> String {
    let test = std::env::current_exe().expect("this program's path");
    let target = test.ancestors().nth(2).expect("the target directory");
    let program: PathBuf = target
        .join("examples")
        .join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let output = Command::new(&program).env_remove("MONGODB_URI").output();
    let output = output.unwrap_or_else(|error| {
        panic!(
            "{}: {error}; `cargo test -p mongo-examples` builds it, and so does \
             `cargo build -p mongo-examples --examples`",
            program.display()
        )
    });
    let text = String::from_utf8(output.stdout).expect("text");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{name}: {}\n{text}\n{errors}",
        output.status
    );
    text
}

/// The wanted parts are in the text, one after the other.
fn assert_in_order(text: &str, wanted: &[&str]) {
    let mut rest = text;
    for part in wanted {
        let at = rest.find(part);
        let at = at.unwrap_or_else(|| panic!("{part:?} is missing, or too early, in:\n{text}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn quickstart_inserts_and_finds() {
    let text = run("quickstart");
    assert_eq!(text.matches("inserted ").count(), 12, "{text}");
    for number in [9, 10, 11] {
        assert!(text.contains(&format!("\"number\": {number} }}")), "{text}");
    }
    assert_in_order(
        &text,
        &[
            "found:",
            "an error reads: ",
            "no such command",
            "the pool: ",
        ],
    );
}

#[test]
fn connector_needs_no_socket() {
    let text = run("connector");
    assert_in_order(
        &text,
        &["asked for memory.example:27017", "answered: hello"],
    );
}

#[test]
fn topology_follows_a_failover() {
    let text = run("topology");
    let title = "ReplicaSetWithPrimary, embedded";
    assert_in_order(
        &text,
        &[
            "topology opened",
            "ReplicaSetNoPrimary, embedded",
            title,
            // The step-down, and the election after it.
            "topology ReplicaSetWithPrimary -> ReplicaSetNoPrimary",
            "ReplicaSetNoPrimary, embedded",
            "RSSecondary -> RSPrimary",
            title,
            // The kill, and the election after it.
            "check failed: ",
            "RSPrimary -> Unknown",
            "ReplicaSetNoPrimary, embedded",
            "RSSecondary -> RSPrimary",
            title,
            // The return.
            "Unknown -> RSSecondary",
            title,
            "topology closed",
        ],
    );
    assert!(text.contains("RSArbiter"), "{text}");
    assert!(text.contains("dc=sf"), "{text}");
    assert!(!text.contains('\x1b'), "no terminal, no control sequences");
    // In the order of members: who was primary, table by table, without repetitions.
    let mut primaries: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("  RSPrimary  "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    primaries.dedup();
    assert_eq!(primaries.len(), 3, "{primaries:?} in:\n{text}");
}
