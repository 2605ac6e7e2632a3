use std::io;

use bson::{RawDocumentBuf, rawdoc};

use super::*;
use crate::error::{CommandError, RETRYABLE_WRITE};

fn options(kind: OperationKind) -> RetryOptions {
    RetryOptions::new(kind, &ClientOptions::default())
}

fn server(name: &str) -> ServerAddress {
    name.parse().expect("an address")
}

fn refused(code: i32, labels: &[&'static str], reply: RawDocumentBuf) -> Error {
    let error = Error::from(CommandError {
        code,
        code_name: String::new(),
        message: String::new(),
        reply,
    });
    labels
        .iter()
        .fold(error.at(&server("a:1")), |error, label| {
            error.with_label(*label)
        })
}

fn lost() -> Error {
    Error::network(io::ErrorKind::ConnectionReset.into()).at(&server("a:1"))
}

fn overloaded() -> Error {
    refused(462, &[SYSTEM_OVERLOADED_ERROR, RETRYABLE_ERROR], rawdoc! {})
}

fn is_again(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Again { .. })
}

fn stopped(verdict: Verdict) -> Error {
    match verdict {
        Verdict::Stop(error) => error,
        Verdict::Again { .. } => panic!("it is tried again"),
    }
}

#[test]
fn the_kind_decides_on_retries() {
    use OperationKind::{Command, Read, Write};
    let not_primary = || refused(10107, &[], rawdoc! {});
    let labelled = || refused(10107, &[RETRYABLE_WRITE], rawdoc! {});
    let half = || refused(462, &[SYSTEM_OVERLOADED_ERROR], rawdoc! {});
    let duplicate = || refused(11000, &[], rawdoc! {});
    for (kind, error, expected) in [
        (Command, lost(), false),
        (Command, not_primary(), false),
        (Command, overloaded(), true),
        (Read, lost(), true),
        (Read, not_primary(), true),
        (Read, duplicate(), false),
        (Read, overloaded(), true),
        (Write, not_primary(), false),
        (Write, labelled(), true),
        (Write, lost(), true),
        (Write, overloaded(), true),
        (Write, half(), false),
    ] {
        let text = format!("{kind:?} {error}");
        let verdict = Retry::new(options(kind)).failed(Failure::of_command(error));
        assert_eq!(is_again(&verdict), expected, "{text}");
    }
}

#[test]
fn retryreads_and_retrywrites_are_heeded() {
    use OperationKind::{Command, Read, Write};
    for (kind, reads, writes, expected) in [
        (Command, true, false, false),
        (Command, false, true, false),
        (Read, false, true, false),
        (Read, true, false, true),
        (Write, true, false, false),
        (Write, false, true, true),
    ] {
        let mut client = ClientOptions::default();
        (client.retry_reads, client.retry_writes) = (reads, writes);
        for error in [
            overloaded(),
            refused(1, &[RETRYABLE_WRITE], rawdoc! {}),
            lost(),
        ] {
            let is_overload = error.code() == Some(462);
            if kind == Command && !is_overload || kind == Read && error.code() == Some(1) {
                continue;
            }
            let mut retry = Retry::new(RetryOptions::new(kind, &client));
            let verdict = retry.failed(Failure::of_command(error));
            assert_eq!(is_again(&verdict), expected, "{kind:?}");
        }
    }
}

#[test]
fn without_a_time_limit_there_is_one_retry() {
    let mut retry = Retry::new(options(OperationKind::Read));
    assert!(is_again(&retry.failed(Failure::of_command(lost()))));
    assert!(!is_again(&retry.failed(Failure::of_command(lost()))));
    let limited = RetryOptions {
        has_timeout: true,
        ..options(OperationKind::Read)
    };
    let mut retry = Retry::new(limited);
    for _ in 0..50 {
        assert!(is_again(&retry.failed(Failure::of_command(lost()))));
    }
}

#[test]
fn an_overload_limits_all_retries() {
    for has_timeout in [false, true] {
        let limited = RetryOptions {
            has_timeout,
            ..options(OperationKind::Read)
        };
        let mut retry = Retry::new(limited);
        assert!(is_again(&retry.failed(Failure::of_command(overloaded()))));
        assert!(is_again(&retry.failed(Failure::of_command(lost()))));
        assert!(!is_again(&retry.failed(Failure::of_command(lost()))));
        // An overload after the only other retry gives one more.
        let mut retry = Retry::new(limited);
        assert!(is_again(&retry.failed(Failure::of_command(lost()))));
        assert!(is_again(&retry.failed(Failure::of_command(overloaded()))));
        assert!(!is_again(&retry.failed(Failure::of_command(overloaded()))));
    }
    let none = RetryOptions {
        max_adaptive_retries: 0,
        ..options(OperationKind::Read)
    };
    assert!(!is_again(
        &Retry::new(none).failed(Failure::of_command(overloaded()))
    ));
}

#[test]
fn only_an_overload_has_a_pause_which_doubles() {
    let mut retry = Retry::new(RetryOptions {
        max_adaptive_retries: 20,
        ..options(OperationKind::Command)
    });
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let failure = Failure {
            jitter: 0.5,
            ..Failure::of_command(overloaded())
        };
        if let Verdict::Again { pause } = retry.failed(failure) {
            pauses.push(pause.as_millis());
        }
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    let mut retry = Retry::new(options(OperationKind::Read));
    let lost = retry.failed(Failure::of_command(lost()));
    assert!(matches!(
        lost,
        Verdict::Again {
            pause: Duration::ZERO
        }
    ));
}

#[test]
fn the_server_may_set_the_base_of_the_pause() {
    let labels = [SYSTEM_OVERLOADED_ERROR, RETRYABLE_ERROR];
    for (reply, expected) in [
        (rawdoc! { "baseBackoffMS": 10 }, 20),
        (rawdoc! { "baseBackoffMS": 10_i64 }, 20),
        (rawdoc! { "baseBackoffMS": 10.0 }, 20),
        (rawdoc! { "baseBackoffMS": 0 }, 200),
        (rawdoc! { "baseBackoffMS": -5 }, 200),
        (rawdoc! { "baseBackoffMS": "10" }, 200),
        (rawdoc! { "baseBackoffMS": 1_000_000 }, 10_000),
    ] {
        let mut retry = Retry::new(options(OperationKind::Write));
        match retry.failed(Failure::of_command(refused(462, &labels, reply))) {
            Verdict::Again { pause } => assert_eq!(pause.as_millis(), expected),
            Verdict::Stop(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_pause_beyond_the_time_limit_ends_the_operation() {
    for (left, expected) in [(150, false), (250, true)] {
        let failure = Failure {
            remaining: Some(Duration::from_millis(left)),
            ..Failure::of_command(overloaded())
        };
        let verdict = Retry::new(options(OperationKind::Read)).failed(failure);
        assert_eq!(is_again(&verdict), expected);
    }
}

#[test]
fn servers_are_avoided_in_sharded_clusters_and_after_an_overload_if_enabled() {
    for (is_sharded, retargets, error, expected) in [
        (true, false, lost(), true),
        (true, false, overloaded(), true),
        (false, false, lost(), false),
        (false, false, overloaded(), false),
        (false, true, overloaded(), true),
        (false, true, lost(), false),
    ] {
        let mut retry = Retry::new(RetryOptions {
            enable_overload_retargeting: retargets,
            ..options(OperationKind::Read)
        });
        let failure = Failure {
            is_sharded,
            ..Failure::of_command(error)
        };
        assert!(is_again(&retry.failed(failure)));
        assert_eq!(!retry.deprioritized().is_empty(), expected);
    }
}

/// The error that the caller gets of two: by what each says about an attempt.
#[test]
fn the_last_error_of_an_attempt_counts_or_else_the_first() {
    let effect = |code| refused(code, &[RETRYABLE_WRITE], rawdoc! {});
    let none = |code| refused(code, &[RETRYABLE_WRITE, NO_WRITES_PERFORMED], rawdoc! {});
    let unsent = || Failure::of_check_out(ErrorKind::PoolCleared.into());
    for (first, second, expected) in [
        (
            Failure::of_command(effect(1)),
            Failure::of_command(effect(2)),
            Some(2),
        ),
        (
            Failure::of_command(effect(1)),
            Failure::of_command(none(2)),
            Some(1),
        ),
        (
            Failure::of_command(none(1)),
            Failure::of_command(none(2)),
            Some(1),
        ),
        (
            Failure::of_command(none(1)),
            Failure::of_command(effect(2)),
            Some(2),
        ),
        (Failure::of_command(effect(1)), unsent(), Some(1)),
        (Failure::of_command(none(1)), unsent(), Some(1)),
        (unsent(), Failure::of_command(effect(2)), Some(2)),
        (unsent(), unsent(), None),
    ] {
        let mut retry = Retry::new(options(OperationKind::Write));
        assert!(is_again(&retry.failed(first)));
        assert_eq!(stopped(retry.failed(second)).code(), expected);
    }
}

#[test]
fn a_write_without_a_number_is_retried_only_after_an_overload() {
    let mut retry = Retry::new(options(OperationKind::Write));
    retry.forbid();
    assert!(!is_again(
        &retry.clone().failed(Failure::of_command(lost()))
    ));
    assert!(is_again(&retry.failed(Failure::of_command(overloaded()))));
}
