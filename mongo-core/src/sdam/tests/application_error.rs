use std::time::Duration;

use bson::rawdoc;

use super::*;
use crate::auth::AuthError;
use crate::error::{CommandError, ErrorKind, Wait};

fn replica_set() -> Run {
    let mut run = Run::connected(seeds(&["a"]));
    run.hello("a", &member("primary"));
    run.take();
    run
}

fn refusal(code: i32, message: &str) -> Error {
    CommandError {
        code,
        code_name: String::new(),
        message: message.to_owned(),
        reply: rawdoc! { "ok": 0 },
    }
    .into()
}

fn timeout() -> Error {
    Error::timeout(Wait::Command, Duration::from_secs(1))
}

/// The effects of an error on the primary a: whether it stays known, and the effects in short.
fn effects(error: Error, phase: ErrorPhase) -> (bool, String) {
    let mut run = replica_set();
    let error = ApplicationError::new(address("a"), error, phase);
    run.apply(Input::ApplicationError(error));
    let known = run.server("a").server_type != ServerType::Unknown;
    assert_eq!(known, run.server("a").error.is_none());
    let shown: Vec<String> = run.effects.iter().map(short).collect();
    (known, shown.join(" "))
}

fn short(effect: &Effect) -> String {
    match effect {
        Effect::ClearPool { service_id, .. } => match service_id {
            Some(_) => "clear-service".to_owned(),
            None => "clear".to_owned(),
        },
        Effect::CancelCheck { .. } => "cancel".to_owned(),
        Effect::RequestCheck { reason, .. } => format!("request-{reason:?}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn the_consequence_of_an_error_depends_on_the_phase() {
    use ErrorPhase::{Authentication, Completed, Establishment, Resolution};
    let nothing = (true, String::new());
    let lost = (false, "clear cancel".to_owned());
    for error in [network_error, timeout] {
        assert_eq!(effects(error(), Establishment), nothing, "backpressure");
        assert_eq!(effects(error(), Resolution), lost);
        assert_eq!(effects(error(), Authentication), lost);
    }
    assert_eq!(effects(network_error(), Completed), lost);
    assert_eq!(effects(timeout(), Completed), nothing);
    let auth = || Error::from(AuthError::Arbiter);
    assert_eq!(effects(auth(), Authentication), lost);
    assert_eq!(effects(auth(), Completed), nothing);
    let own = Error::from(AuthError::OutOfOrder);
    assert_eq!(
        effects(own, Authentication),
        nothing,
        "no fault of the server"
    );
    assert_eq!(effects(refusal(18, "no"), Authentication), lost);
    assert_eq!(effects(refusal(18, "no"), Completed), nothing);
    for phase in [Resolution, Establishment, Authentication, Completed] {
        let own = Error::timeout(Wait::WaitQueue, Duration::ZERO);
        assert_eq!(effects(own, phase), nothing);
        assert_eq!(effects(ErrorKind::PoolClosed.into(), phase), nothing);
        let overloaded = refusal(462, "busy").with_label(SYSTEM_OVERLOADED_ERROR);
        assert_eq!(effects(overloaded, phase), nothing);
    }
}

#[test]
fn state_changes_by_code_else_by_text() {
    use ErrorPhase::Completed;
    let cases = [
        (11600, "", "clear request-ShuttingDown"),
        (91, "", "clear request-ShuttingDown"),
        (11602, "", "request-Recovering"),
        (13436, "", "request-Recovering"),
        (189, "", "request-Recovering"),
        (10107, "", "request-NotWritablePrimary"),
        (13435, "", "request-NotWritablePrimary"),
        (10058, "", "request-NotWritablePrimary"),
        (0, "so node is recovering now", "request-Recovering"),
        (0, "not master or secondary", "request-Recovering"),
        (0, "not master", "request-NotWritablePrimary"),
    ];
    for (code, text, expected) in cases {
        let found = effects(refusal(code, text), Completed);
        assert_eq!(found, (false, expected.to_owned()), "{code} {text}");
    }
    let nothing = (true, String::new());
    assert_eq!(effects(refusal(1, "not master"), Completed), nothing);
    assert_eq!(effects(refusal(0, "something else"), Completed), nothing);
    // Any failure of a handshake clears the pool.
    let during = effects(refusal(10107, ""), ErrorPhase::Authentication);
    assert_eq!(
        during,
        (false, "clear request-NotWritablePrimary".to_owned())
    );
}

#[test]
fn an_error_sets_the_topology_version_unless_it_is_not_newer() {
    let version = |process: u8, counter: i64| {
        rawdoc! { "processId": id(process), "counter": counter }
    };
    let error = |process: u8, counter: i64| {
        let reply = rawdoc! { "ok": 0, "topologyVersion": version(process, counter) };
        let error = CommandError {
            code: 10107,
            code_name: String::new(),
            message: String::new(),
            reply,
        };
        ApplicationError::new(address("a"), error.into(), ErrorPhase::Completed)
    };
    let mut hello = member("primary");
    hello.append(bson::raw::cstr!("topologyVersion"), version(1, 5));
    for (process, counter, ignored) in [(1, 4, true), (1, 5, true), (1, 6, false), (2, 1, false)] {
        let mut run = Run::connected(seeds(&["a"]));
        run.hello("a", &hello);
        run.apply(Input::ApplicationError(error(process, counter)));
        let found = run.server("a");
        assert_eq!(found.error.is_none(), ignored, "{process} {counter}");
        if !ignored {
            assert_eq!(found.topology_version.map(|own| own.counter), Some(counter));
        }
    }
    // A version that can't be read is ignored.
    let mut odd = error(1, 1);
    odd.error = Error::from(CommandError {
        code: 10107,
        code_name: String::new(),
        message: String::new(),
        reply: rawdoc! { "ok": 0, "topologyVersion": 7 },
    });
    let mut run = replica_set();
    run.apply(Input::ApplicationError(odd));
    assert!(run.server("a").error.is_some());
}

#[test]
fn errors_of_old_generations_and_unknown_servers_are_ignored() {
    let error = || ApplicationError::new(address("a"), network_error(), ErrorPhase::Completed);
    let mut run = replica_set();
    run.apply(Input::ApplicationError(error().with_generations(1, 2)));
    assert_eq!(run.take(), (vec![], vec![]));
    run.apply(Input::ApplicationError(error().with_generations(2, 2)));
    assert_eq!(run.take().1.len(), 2);
    let mut gone = error();
    gone.server = address("z");
    run.apply(Input::ApplicationError(gone));
    assert_eq!(run.take(), (vec![], vec![]));
}

#[test]
fn write_concern_errors_count_and_write_errors_do_not() {
    let from =
        |reply: RawDocumentBuf| ApplicationError::from_write_concern_error(address("a"), &reply);
    let reply = rawdoc! { "ok": 1, "writeConcernError": { "code": 91, "errmsg": "bye" } };
    let mut run = replica_set();
    run.apply(Input::ApplicationError(from(reply).expect("an error")));
    assert_eq!(run.take().1.len(), 2);
    let reply = rawdoc! { "ok": 1, "writeErrors": [{ "code": 91, "errmsg": "bye" }] };
    assert!(from(reply).is_none());
}

#[test]
fn behind_a_load_balancer_only_the_service_is_cleared() {
    let mut settings = seeds(&["a"]);
    settings.load_balanced = true;
    let mut run = Run::connected(settings);
    run.take();
    for error in [network_error(), refusal(91, "")] {
        let error = ApplicationError::new(address("a"), error, ErrorPhase::Completed);
        run.apply(Input::ApplicationError(error.clone()));
        assert_eq!(run.take(), (vec![], vec![]), "no service is known");
        let named = error.with_service_id(Some(id(3)));
        run.apply(Input::ApplicationError(named));
        let (events, effects) = run.take();
        let shown: Vec<String> = effects.iter().map(short).collect();
        assert_eq!((events, shown), (vec![], vec!["clear-service".to_owned()]));
    }
    assert_eq!(run.shown(), "LoadBalanced a=LoadBalancer");
}

#[test]
fn only_errors_of_a_busy_server_are_labelled() {
    let labels = |error: Error, phase: ErrorPhase| {
        let error = phase.label(error);
        let both = [SYSTEM_OVERLOADED_ERROR, RETRYABLE_ERROR];
        both.map(|label| error.has_label(label))
    };
    assert_eq!(
        labels(network_error(), ErrorPhase::Establishment),
        [true; 2]
    );
    assert_eq!(labels(timeout(), ErrorPhase::Establishment), [true; 2]);
    assert_eq!(
        labels(refusal(1, ""), ErrorPhase::Establishment),
        [false; 2]
    );
    for phase in [
        ErrorPhase::Resolution,
        ErrorPhase::Authentication,
        ErrorPhase::Completed,
    ] {
        assert_eq!(labels(network_error(), phase), [false; 2]);
    }
}

#[test]
fn a_process_without_room_for_a_socket_blames_no_server() {
    for code in [23, 24] {
        let full = || std::sync::Arc::new(std::io::Error::from_raw_os_error(code));
        for kind in [
            ErrorKind::Connect(full()),
            ErrorKind::Network(full()),
            ErrorKind::Dns(full()),
        ] {
            let error = ErrorPhase::Establishment.label(kind.into());
            assert_eq!(error.labels().count(), 0, "{error}");
            assert!(!error.is_retryable_read(), "{error}");
            let mut run = Run::connected(seeds(&["a"]));
            run.hello("a", &member("primary"));
            let before = run.shown();
            let told = ApplicationError::new(address("a"), error, ErrorPhase::Establishment);
            run.apply(Input::ApplicationError(told));
            assert_eq!(run.shown(), before);
        }
    }
    let refused = std::io::Error::from_raw_os_error(111);
    let refused =
        ErrorPhase::Establishment.label(ErrorKind::Connect(std::sync::Arc::new(refused)).into());
    assert!(refused.has_label(SYSTEM_OVERLOADED_ERROR));
}

/// Nor does one that can't open a socket to its proxy.
#[test]
fn a_process_without_room_for_a_socket_to_its_proxy_blames_no_server() {
    use crate::socks5::{ProxyError, ProxyProblem};
    for code in [23, 24] {
        let full = std::sync::Arc::new(std::io::Error::from_raw_os_error(code));
        let error = ErrorKind::Proxy(ProxyError {
            proxy: "proxy:1080".into(),
            problem: ProxyProblem::Connect(full),
        });
        let mut run = Run::connected(seeds(&["a"]));
        run.hello("a", &member("primary"));
        let before = run.shown();
        let told = ApplicationError::new(address("a"), error.into(), ErrorPhase::Establishment);
        run.apply(Input::ApplicationError(told));
        assert_eq!(run.shown(), before);
    }
}
