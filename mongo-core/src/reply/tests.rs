use bson::raw::RawArrayBuf;
use bson::{RawDocumentBuf, rawdoc};

use super::*;

#[test]
fn replies_tell_whether_they_are_ok() {
    assert!(check_ok(&rawdoc! { "ok": 1.0 }).is_ok());
    assert!(check_ok(&rawdoc! { "ok": 1_i32, "n": 3 }).is_ok());
    assert!(check_ok(&rawdoc! { "ok": 1_i64 }).is_ok());
    assert!(check_ok(&rawdoc! { "ok": true }).is_ok());
    let missing = check_ok(&rawdoc! { "n": 1 }).expect_err("no ok");
    assert!(missing.to_string().contains("`ok`"));

    let failed = check_ok(&rawdoc! {
        "ok": 0.0, "errmsg": "not primary", "code": 10107, "codeName": "NotWritablePrimary",
        "errorLabels": ["RetryableWriteError", "Another"],
    })
    .expect_err("ok: 0");
    let command = failed.command().expect("a command error");
    assert_eq!(command.code, 10107);
    assert_eq!(command.code_name, "NotWritablePrimary");
    assert_eq!(command.message, "not primary");
    assert!(command.reply.get_array("errorLabels").is_ok());
    assert!(failed.has_label("RetryableWriteError") && failed.has_label("Another"));
}

#[test]
fn write_concern_errors_are_visible() {
    let reply = rawdoc! {
        "ok": 1, "n": 1, "errorLabels": ["RetryableWriteError"],
        "writeConcernError": { "code": 91, "codeName": "ShutdownInProgress", "errmsg": "bye", "errorLabels": ["Own"] },
    };
    assert!(check_ok(&reply).is_ok());
    let error = write_concern_error(&reply).expect("an error");
    assert_eq!(
        (error.code, &*error.code_name, &*error.message),
        (91, "ShutdownInProgress", "bye")
    );
    assert_eq!(error.labels, ["RetryableWriteError", "Own"]);
    assert_eq!(write_concern_error(&rawdoc! { "ok": 1 }), None);
}

#[test]
fn a_write_that_was_not_done_is_an_error() {
    let refused = |reply: &RawDocumentBuf| {
        let error = check_write(reply).expect_err("refused");
        let command = error.command().expect("the server's answer").clone();
        (command.code, command.message, error)
    };
    assert!(check_write(&rawdoc! { "ok": 1, "n": 1 }).is_ok());
    assert!(check_write(&rawdoc! { "ok": 1, "writeErrors": [] }).is_ok());
    let concern = rawdoc! {
        "ok": 1, "errorLabels": ["RetryableWriteError"],
        "writeConcernError": { "code": 91, "errmsg": "bye" },
    };
    let (code, message, error) = refused(&concern);
    assert_eq!((code, &*message), (91, "bye"));
    assert!(error.has_label("RetryableWriteError"));
    // A failed write takes precedence over one that was not acknowledged.
    let both = rawdoc! {
        "ok": 1, "n": 1, "writeConcernError": { "code": 91, "errmsg": "bye" },
        "writeErrors": [
            { "index": 1, "code": 11000, "errmsg": "duplicate key" },
            { "index": 2, "code": 121, "errmsg": "not valid" },
        ],
    };
    let (code, message, error) = refused(&both);
    assert_eq!((code, &*message), (11000, "duplicate key"));
    assert!(!error.is_retryable_write());
    assert_eq!(error.command().map(|own| own.reply.clone()), Some(both));
    // An error that can't be read is not a success.
    for errors in [
        rawdoc! { "ok": 1, "writeErrors": [5] },
        rawdoc! { "ok": 1, "writeErrors": [{}] },
    ] {
        assert_eq!(refused(&errors).0, 0);
    }
}

/// A hostile server's message and labels, in a failed command and in the errors of a write.
fn hostile(labels: usize, message: usize) -> [RawDocumentBuf; 3] {
    let labels: bson::RawArrayBuf = (0..labels)
        .map(|number| {
            format!(
                "{number:0>7}{}",
                "l".repeat(1000 * usize::from(number < 20))
            )
        })
        .collect();
    let text = "\u{1b}[2Jfake\n".repeat(message.div_ceil(9));
    let own = rawdoc! {
        "code": 91, "codeName": &*text, "errmsg": &*text, "errorLabels": labels.clone(),
    };
    let mut failed = rawdoc! { "ok": 0, "topologyVersion": { "counter": 1_i64 } };
    for (key, value) in own.iter().flatten() {
        failed.append(key, value);
    }
    [
        failed,
        rawdoc! { "ok": 1, "writeConcernError": own.clone(), "errorLabels": labels },
        rawdoc! { "ok": 1, "writeErrors": [own] },
    ]
}

/// Without bounds, 100,000 labels took 10.8 s, and a message of megabytes was copied and shown
/// whole.
#[test]
fn the_reply_in_an_error_is_bounded_and_printable() {
    for reply in hostile(100_000, 4_000_000) {
        let error = check_ok(&reply).and_then(|()| check_write(&reply));
        let error = error.expect_err("an error");
        let command = error.command().expect("a command error");
        assert_eq!(command.code, 91);
        assert!(command.message.len() <= 1024, "{}", command.message.len());
        assert!(command.message.starts_with("\\u{1b}[2Jfake\\n"));
        assert!(
            command.code_name.len() <= 128,
            "{}",
            command.code_name.len()
        );
        assert!(error.labels().count() <= 16, "{}", error.labels().count());
        assert!(error.labels().all(|label| label.len() <= 128));
        assert!(error.labels().next().is_some());
        let kept = command.reply.as_bytes().len();
        assert!(kept <= 64 * 1024, "{kept}");
        assert!(command.reply.get("ok").expect("BSON").is_some());
        for shown in [
            error.to_string(),
            format!("{error:?}"),
            format!("{error:#?}"),
        ] {
            assert!(shown.len() < 5 * 1024, "{}", shown.len());
            assert!(
                !shown.contains('\u{1b}') && !shown.contains("fake\n"),
                "{shown}"
            );
        }
    }
    let [failed, ..] = hostile(1, 4_000_000);
    let error = check_ok(&failed).expect_err("not ok");
    let reply = error
        .command()
        .map(|own| own.reply.clone())
        .expect("a reply");
    assert!(reply.get_document("topologyVersion").is_ok());
}

#[test]
fn the_labels_of_a_reply_and_of_the_error_in_it_have_one_bound() {
    let labels = |of: &str| -> RawArrayBuf { (0..16).map(|n| format!("{of}{n}")).collect() };
    let own = rawdoc! { "code": 91, "errmsg": "no", "errorLabels": labels("own") };
    let outer = labels("outer");
    let replies = [
        rawdoc! { "ok": 1, "errorLabels": outer.clone(), "writeConcernError": own.clone() },
        rawdoc! { "ok": 1, "errorLabels": outer, "writeErrors": [own] },
    ];
    for reply in replies {
        let error = check_write(&reply).expect_err("an error");
        assert_eq!(error.labels().count(), 16);
    }
}

#[test]
fn labels_within_the_bounds_are_kept() {
    let label = "x".repeat(128);
    let reply = rawdoc! { "ok": 0, "errorLabels": ["a", 5, &*label, "a"] };
    let error = check_ok(&reply).expect_err("not ok");
    assert_eq!(error.labels().collect::<Vec<_>>(), ["a", &*label]);
}
