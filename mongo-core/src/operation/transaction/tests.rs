use std::io;

use bson::rawdoc;

use super::*;
use crate::error::CommandError;

fn in_state(state: TransactionState) -> Transaction {
    Transaction {
        state,
        ..Transaction::default()
    }
}

#[test]
fn the_table_of_states() {
    use TransactionState::{Aborted, Committed, InProgress, None, Starting};
    let ended = |empty| Committed { empty };
    for (state, ending, expected) in [
        (None, Ending::Commit, Err("No transaction started")),
        (None, Ending::Abort, Err("No transaction started")),
        (Starting, Ending::Commit, Ok((false, ended(true)))),
        (Starting, Ending::Abort, Ok((false, Aborted))),
        (InProgress, Ending::Commit, Ok((true, ended(false)))),
        (InProgress, Ending::Abort, Ok((true, Aborted))),
        (ended(true), Ending::Commit, Ok((false, ended(true)))),
        (ended(false), Ending::Commit, Ok((true, ended(false)))),
        (
            ended(false),
            Ending::Abort,
            Err("Cannot call abortTransaction after calling commitTransaction"),
        ),
        (
            Aborted,
            Ending::Commit,
            Err("Cannot call commitTransaction after calling abortTransaction"),
        ),
        (
            Aborted,
            Ending::Abort,
            Err("Cannot call abortTransaction twice"),
        ),
    ] {
        let mut transaction = in_state(state);
        match (transaction.end(ending), expected) {
            (Ok(is_sent), Ok(expected)) => assert_eq!((is_sent, transaction.state), expected),
            (Err(error), Err(text)) => {
                assert!(error.to_string().contains(text), "{error}");
                assert_eq!(transaction.state, state, "unchanged");
            }
            (outcome, _) => panic!("{state:?} {ending:?}: {outcome:?}"),
        }
        let starts = in_state(state).start(TransactionOptions::default());
        assert_eq!(starts.is_ok(), !matches!(state, Starting | InProgress));
        let mut transaction = in_state(state);
        let is_part = transaction.enter();
        assert_eq!(is_part, matches!(state, Starting | InProgress));
        assert_eq!(transaction.state, if is_part { state } else { None });
    }
}

#[test]
fn only_a_commit_that_may_have_been_done_waits_for_a_majority() {
    let own = WriteConcern::nodes(1).with_journal(true);
    let majority = |own: WriteConcern, limit| WriteConcern {
        w: Some(Acknowledgment::MAJORITY),
        w_timeout: Some(limit),
        ..own
    };
    let ten = Duration::from_secs(10);
    let limited = own.clone().with_w_timeout(Duration::from_secs(3));
    for (concern, overloads, expected) in [
        (None, None, None),
        (None, Some(vec![true]), None),
        (
            None,
            Some(vec![false]),
            Some(majority(WriteConcern::default(), ten)),
        ),
        (
            None,
            Some(vec![false, true]),
            Some(majority(WriteConcern::default(), ten)),
        ),
        (Some(own.clone()), None, Some(own.clone())),
        (
            Some(own.clone()),
            Some(vec![true, false]),
            Some(majority(own, ten)),
        ),
        (
            Some(limited.clone()),
            Some(vec![false]),
            Some(majority(limited, Duration::from_secs(3))),
        ),
    ] {
        let mut transaction = in_state(TransactionState::InProgress);
        transaction.options.write_concern = concern.clone();
        transaction.end(Ending::Commit).expect("a commit");
        for is_overload in overloads.into_iter().flatten() {
            let error = match is_overload {
                true => command(462)
                    .with_label("SystemOverloadedError")
                    .with_label("RetryableError"),
                false => lost(),
            };
            transaction.failed(error, Some(Ending::Commit));
        }
        assert_eq!(transaction.write_concern(Ending::Commit), expected);
        assert_eq!(transaction.write_concern(Ending::Abort), concern);
    }
    // So does one that the application repeats.
    let mut transaction = in_state(TransactionState::Committed { empty: false });
    transaction.end(Ending::Commit).expect("a commit");
    let repeated = transaction.write_concern(Ending::Commit);
    assert_eq!(repeated, Some(majority(WriteConcern::default(), ten)));
}

fn command(code: i32) -> Error {
    Error::from(CommandError {
        code,
        code_name: String::new(),
        message: String::new(),
        reply: rawdoc! {},
    })
}

fn lost() -> Error {
    Error::network(io::ErrorKind::ConnectionReset.into())
}

#[test]
fn labels_of_errors() {
    let write = || lost().with_label(RETRYABLE_WRITE);
    for (error, is_transient) in [
        (write(), true),
        (ErrorKind::PoolCleared.into(), true),
        (command(11000), false),
        (Error::configuration("no"), false),
    ] {
        let labelled = label_transient(error);
        assert_eq!(
            labelled.has_label(TRANSIENT_TRANSACTION_ERROR),
            is_transient,
            "{labelled}"
        );
        assert!(!labelled.has_label(RETRYABLE_WRITE));
    }
    for (error, is_of_write_concern, is_unknown) in [
        (lost(), false, true),
        (command(50), false, true),
        (command(251), false, false),
        (command(91).with_label(RETRYABLE_WRITE), false, true),
        (command(64), true, true),
        (command(79), true, false),
        (command(100), true, false),
        (Error::configuration("no"), false, false),
    ] {
        let labelled = label_commit(error, is_of_write_concern);
        assert_eq!(
            labelled.has_label(UNKNOWN_COMMIT_RESULT),
            is_unknown,
            "{labelled}"
        );
        assert!(!labelled.has_label(TRANSIENT_TRANSACTION_ERROR));
    }
}

#[test]
fn the_pause_before_another_run_grows_to_half_a_second() {
    let pauses = [1, 2, 3, 20].map(|attempt| transaction_backoff(attempt, 1.0).as_micros());
    assert_eq!(pauses, [7_500, 11_250, 16_875, 500_000]);
    assert_eq!(transaction_backoff(5, 0.0), Duration::ZERO);
}
