//! Fail points alone.

use super::*;

fn with(mode: impl Into<Bson>) -> FailPoint {
    let point = FailPoint::default();
    let command = doc! {
        "configureFailPoint": "failCommand",
        "mode": mode.into(),
        "data": {"failCommands": ["find", "configureFailPoint"], "appName": "a", "errorCode": 91},
    };
    point.configure(&command, false).unwrap();
    point
}

fn hit(point: &FailPoint, command: Document, app_name: Option<&str>) -> Option<Vec<Action>> {
    point.hit(&Target {
        command: &command,
        database: "db",
        app_name,
        has_labels: true,
    })
}

fn hits(point: &FailPoint) -> Vec<bool> {
    let is_hit = |_| hit(point, doc! {"find": 1}, Some("a")).is_some();
    (0..5).map(is_hit).collect()
}

#[test]
fn each_mode_hits_the_right_commands() {
    assert_eq!(hits(&with("alwaysOn")), [true; 5]);
    assert_eq!(hits(&with("off")), [false; 5]);
    let times = [true, true, false, false, false];
    assert_eq!(hits(&with(doc! {"times": 2})), times);
    let skip = [false, false, true, true, true];
    assert_eq!(hits(&with(doc! {"skip": 2.0})), skip);
}

#[test]
fn only_the_configured_commands_are_hit() {
    let point = with(doc! {"times": 1});
    assert!(hit(&point, doc! {"insert": 1}, Some("a")).is_none());
    assert!(hit(&point, doc! {"find": 1}, Some("b")).is_none());
    assert!(hit(&point, doc! {"find": 1}, None).is_none());
    assert!(hit(&point, doc! {"configureFailPoint": 1}, Some("a")).is_none());
    assert!(hit(&point, doc! {"FIND": 1}, Some("a")).is_some());
    let again = doc! {"configureFailPoint": "failCommand", "mode": "off"};
    assert_eq!(point.configure(&again, false).unwrap(), doc! {"count": 1});
}

#[test]
fn an_error_is_labelled_unless_labels_are_set() {
    let labels = |data: Document, command: Document| {
        let mut whole = doc! {"failCommands": ["insert"]};
        whole.extend(data);
        let point = FailPoint::default();
        let command_of_it = doc! {
            "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": whole,
        };
        point.configure(&command_of_it, false).unwrap();
        let actions = hit(&point, command, None).unwrap();
        let is_label = |action: &Action| matches!(action, Action::Merge(fields) if fields.contains_key("errorLabels"));
        actions.iter().any(is_label)
    };
    let (write, plain) = (doc! {"insert": 1, "txnNumber": 1_i64}, doc! {"insert": 1});
    let concern = doc! {"writeConcernError": {"code": 91}};
    assert!(labels(doc! {"errorCode": 91}, write.clone()));
    assert!(labels(concern.clone(), write.clone()));
    assert!(!labels(concern, plain));
    assert!(!labels(doc! {"errorCode": 2}, write.clone()));
    assert!(!labels(
        doc! {"errorCode": 91, "errorLabels": []},
        write.clone()
    ));
    assert!(!labels(doc! {"closeConnection": true}, write));
}

#[test]
fn the_label_depends_on_whether_a_transaction_is_open() {
    let (write, transient) = ("RetryableWriteError", "TransientTransactionError");
    let of = |code, name: &str| {
        error_label(
            code,
            &doc! {name: 1, "txnNumber": 1_i64, "autocommit": false},
        )
    };
    assert_eq!(of(10107, "insert"), Some(transient));
    assert_eq!(of(112, "insert"), Some(transient));
    assert_eq!(of(10107, "commitTransaction"), Some(write));
    assert_eq!(of(112, "commitTransaction"), Some(transient));
    assert_eq!(of(251, "commitTransaction"), Some(transient));
    assert_eq!(of(2, "commitTransaction"), None);
    assert_eq!(of(2, "insert"), None);
    assert_eq!(error_label(112, &doc! {"insert": 1, "txnNumber": 1}), None);
}

#[test]
fn a_block_ends_with_the_time_limit_of_the_command() {
    let point = FailPoint::default();
    let command = doc! {
        "configureFailPoint": "failCommand",
        "mode": "alwaysOn",
        "data": {"failCommands": ["find", "getMore"], "blockConnection": true, "blockTimeMS": 20},
    };
    point.configure(&command, false).unwrap();
    let blocked = |command: Document| {
        let actions = hit(&point, command, None).unwrap();
        match actions.as_slice() {
            [Action::Delay(time), Action::Error(_)] => (time.as_millis(), true),
            [Action::Delay(time)] => (time.as_millis(), false),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(blocked(doc! {"find": 1}), (20, false));
    assert_eq!(blocked(doc! {"find": 1, "maxTimeMS": 21}), (20, false));
    assert_eq!(blocked(doc! {"find": 1, "maxTimeMS": 20}), (20, true));
    assert_eq!(blocked(doc! {"find": 1, "maxTimeMS": 5}), (5, true));
    assert_eq!(blocked(doc! {"getMore": 1, "maxTimeMS": 5}), (20, false));
}

#[test]
fn overload_errors_carry_the_base_backoff_that_is_set() {
    let point = FailPoint::default();
    let label = "SystemOverloadedError";
    let command = doc! {
        "configureFailPoint": "failCommand",
        "mode": "alwaysOn",
        "data": {
            "failCommands": ["find"], "namespace": "db.c",
            "errorCode": 462, "errorLabels": [label],
        },
    };
    point.configure(&command, false).unwrap();
    let backoff = || {
        let actions = hit(&point, doc! {"find": "c"}, None).unwrap();
        actions.iter().any(|action| {
            matches!(action, Action::Merge(fields) if fields.get("baseBackoffMS") == Some(&50.into()))
        })
    };
    assert!(!backoff());
    let set = |millis| doc! {"setParameter": 1, BASE_BACKOFF: millis};
    let was = point.set_parameter(&set(50)).unwrap().unwrap();
    assert_eq!((was, backoff()), (doc! {"was": 0}, true));
    point.set_parameter(&set(0)).unwrap().unwrap();
    assert!(!backoff());
    assert!(hit(&point, doc! {"find": "d"}, None).is_none());
    assert!(point.set_parameter(&doc! {"setParameter": 1}).is_none());
}

#[test]
fn only_a_data_bearing_server_spoils_writes() {
    let point = FailPoint::default();
    let command = |data| {
        let mode = doc! {"times": 1};
        doc! {"configureFailPoint": "onPrimaryTransactionalWrite", "mode": mode, "data": data}
    };
    assert!(point.configure(&command(doc! {}), true).is_err());
    point.configure(&command(doc! {}), false).unwrap();
    assert!(point.spoils_writes());
    let spoil = point.hit_write().unwrap();
    assert_eq!((spoil.code, spoil.closes), (None, true));
    assert!(!point.spoils_writes() && point.hit_write().is_none());
    let data = doc! {"failBeforeCommitExceptionCode": 1, "closeConnection": false};
    let count = point.configure(&command(data), false).unwrap();
    assert_eq!(count, doc! {"count": 1});
    let spoil = point.hit_write().unwrap();
    assert_eq!((spoil.code, spoil.closes), (Some(1), false));
}

#[test]
fn invalid_fail_points_are_refused() {
    let point = FailPoint::default();
    for command in [
        doc! {"configureFailPoint": "other", "mode": "off"},
        doc! {"configureFailPoint": "failCommand"},
        doc! {"configureFailPoint": "failCommand", "mode": {"activationProbability": 0.5}},
        doc! {"configureFailPoint": "failCommand", "mode": "alwaysOn"},
        doc! {"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": {}},
    ] {
        assert!(point.configure(&command, false).is_err(), "{command}");
    }
}
