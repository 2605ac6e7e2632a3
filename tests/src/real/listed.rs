//! The list of tests that use the real server.

use std::thread;

/// For each test what it needs of a deployment that the kit did not start.
const LIST: &str = include_str!("../../real-server.txt");

/// Keeps the list complete: `tests/run` runs the listed tests on a deployment of the user's, and
/// skips by name those whose needs it does not meet.
///
/// # Panics
/// On the thread of a test that is not listed.
pub(super) fn assert_listed() {
    let current = thread::current();
    // Conformance cases run on threads without a name, and benches on the main thread.
    let Some(test) = current.name().filter(|name| is_test(name)) else {
        return;
    };
    assert!(
        is_listed(test),
        "{test} uses the real server, so it has to be in tests/real-server.txt"
    );
}

fn is_test(thread: &str) -> bool {
    thread != "main" && !thread.starts_with("tokio-")
}

fn is_listed(test: &str) -> bool {
    LIST.lines()
        .any(|line| line.split_whitespace().next() == Some(test))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_not_listed_is_named() {
        let outcome = thread::Builder::new()
            .name("no::such_test".to_owned())
            .spawn(assert_listed)
            .expect("a thread")
            .join();
        let panic = outcome.expect_err("it is not listed");
        let text = panic.downcast_ref::<String>().expect("a message");
        assert!(text.starts_with("no::such_test uses"), "{text}");
    }
}
