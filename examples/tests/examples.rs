//! The examples, run as programs, which `cargo test` has built beside this test, on the same
//! backend.

#[path = "support/mod.rs"]
mod support;

use std::process::Command;

use bson::doc;
use mongo_testkit::{Action, Matcher, ScriptedServer};
use support::program;

/// Runs an example against its embedded deployment, and returns its output.
fn run(name: &str) -> String {
    let mut command = Command::new(program(name));
    let output = command.env_remove("MONGODB_URI").output();
    let output = output.expect("the example");
    let text = String::from_utf8(output.stdout).expect("text");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{name}: {}\n{text}\n{errors}",
        output.status
    );
    text
}

/// Asserts that the wanted parts are in the text, in this order.
fn assert_in_order(text: &str, wanted: &[&str]) {
    let mut rest = text;
    for part in wanted {
        let at = rest.find(part);
        let at = at.unwrap_or_else(|| panic!("{part:?} is missing, or too early, in:\n{text}"));
        rest = &rest[at + part.len()..];
    }
}

/// Runs an example that must fail, on a deployment, and returns its one line of error output.
fn fails(name: &str, uri: &str) -> String {
    let output = Command::new(program(name)).env("MONGODB_URI", uri).output();
    let output = output.expect("the example");
    let errors = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success(), "{name}: {}", output.status);
    assert_eq!(errors.lines().count(), 1, "{errors}");
    errors
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
fn an_error_is_one_line() {
    for name in ["quickstart", "topology"] {
        let error = fails(name, "mongodb://app:s3cret@host:0/");
        assert!(error.contains("its port is not a number"), "{error}");
        assert!(!error.contains("Error {"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quickstart_tells_of_a_write_that_was_refused() {
    let server = ScriptedServer::start().await;
    let refused = doc! { "index": 0, "code": 11000, "errmsg": "E11000 duplicate key" };
    let reply = doc! { "ok": 1, "n": 0, "writeErrors": [refused] };
    let insert = Matcher::command("insert").then(Action::Reply(reply));
    server.script().add(insert);
    let error = fails("quickstart", &server.uri());
    assert!(error.contains("E11000 duplicate key"), "{error}");
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
            // The restart.
            "Unknown -> RSSecondary",
            title,
            "topology closed",
        ],
    );
    assert!(text.contains("RSArbiter"), "{text}");
    assert!(text.contains("dc=sf"), "{text}");
    assert!(!text.contains('\x1b'), "no terminal, no control sequences");
    // The primary of each table, without repetitions.
    let mut primaries: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("  RSPrimary  "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    primaries.dedup();
    assert_eq!(primaries.len(), 3, "{primaries:?} in:\n{text}");
}

#[test]
fn multi_tenant_keeps_to_the_cap() {
    let text = run("multi_tenant");
    assert_in_order(&text, &["200 tenants were served in ", "MOST  CAP"]);
    let (_, rows) = text.split_once("MONITOR'S\n").expect("a table");
    let rows: Vec<Vec<u32>> = rows
        .lines()
        .map(|row| {
            let numbers = row.split_whitespace().skip(1);
            numbers
                .map(|number| number.parse().expect("a number"))
                .collect()
        })
        .collect();
    assert_eq!(rows.len(), 3, "{text}");
    for row in &rows {
        let &[_, _, open, most, cap, monitors] = &row[..] else {
            panic!("{text}");
        };
        assert!(open <= most && most <= cap, "{text}");
        // One for heartbeats, one for round trip times.
        assert!((1..=2).contains(&monitors), "{text}");
    }
    // All tenants wrote to the primary, and the cap limited their connections.
    let [tenants, made, _, most, cap, _] = rows[0][..] else {
        panic!("{text}");
    };
    assert!(tenants == 200 && made >= 200 && most == cap, "{text}");
}

#[test]
fn cursor_is_held_back_by_its_consumer() {
    let text = run("cursor");
    let cents = (0..2_000).map(|id| id % 1000).sum::<i64>();
    assert_in_order(
        &text,
        &[
            " 10 %, ",
            " 50 %, ",
            "100 %, ",
            &format!("exported {cents}, received {cents} cents"),
            "at most ",
            &format!("as a stream: {cents} cents"),
            "the first 3 alone",
            "cursors left on the servers: 0",
        ],
    );
    let (_, most) = text.split_once("at most ").expect("a number");
    let (most, _) = most.split_once(' ').expect("a number");
    let most: usize = most.parse().expect("a number");
    // A batch of 50, and 1 KiB in the pipe and in the consumer's reader, 14 bytes a line at least.
    assert!((50..=200).contains(&most), "{text}");
}

#[test]
fn transaction_keeps_the_balances_right_during_failovers() {
    let text = run("transaction");
    assert_in_order(
        &text,
        &[
            "the primary steps down, and member 1 is elected",
            "the primary dies, and member 2 is elected",
            "member 1 is back",
            " transfers, ",
            "account 0: ",
            "account 7: ",
            "total: 800.00",
            "all balances are right",
        ],
    );
    let counts = text.lines().find(|line| line.contains(" refused, "));
    let words = counts.expect("counts").split_whitespace();
    let counts: Vec<u32> = words.filter_map(|word| word.parse().ok()).collect();
    let &[made, refused, repeated] = &counts[..] else {
        panic!("{text}");
    };
    assert!(made + refused == 120 && refused > 0, "{text}");
    assert!(repeated > 0, "no transaction was run again:\n{text}");
}
