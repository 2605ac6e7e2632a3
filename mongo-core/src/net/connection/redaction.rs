//! Redaction of commands that carry secrets.
//!
//! Specification: command logging and monitoring, security.

use bson::{RawDocument, RawDocumentBuf};

use crate::error::{CommandError, Error, ErrorKind};

/// The commands that are always sensitive.
const SENSITIVE: [&str; 9] = [
    "authenticate",
    "saslStart",
    "saslContinue",
    "getnonce",
    "createUser",
    "updateUser",
    "copydbgetnonce",
    "copydbsaslstart",
    "copydb",
];

/// The commands that are sensitive if they authenticate.
const HELLO: [&str; 2] = ["hello", "isMaster"];

/// The fields of a server's error that may be reported.
const TOLD: [&str; 3] = ["code", "codeName", "errorLabels"];

/// How many fields of the error are searched for those.
const LOOKED_AT: usize = 1024;

/// Whether a command, or its reply, may carry a secret. Ignores letter case: the server accepts the
/// legacy hello in two.
pub(super) fn is_sensitive(name: &str, command: &RawDocument) -> bool {
    let is_one_of = |names: &[&str]| names.iter().any(|own| own.eq_ignore_ascii_case(name));
    // A malformed command is treated as sensitive.
    let speculates = || !matches!(command.get("speculativeAuthenticate"), Ok(None));
    is_one_of(&SENSITIVE) || is_one_of(&HELLO) && speculates()
}

/// The error of a sensitive command, redacted for reports: of the server's reply, only the code,
/// its name and the labels are kept.
pub(super) fn redacted(error: &Error) -> Error {
    let Some(told) = error.command() else {
        return error.clone();
    };
    let mut reply = RawDocumentBuf::new();
    for (key, value) in told.reply.iter().take(LOOKED_AT).flatten() {
        if TOLD.contains(&key.as_str()) {
            reply.append(key, value);
        }
    }
    let mut redacted = Error::new(ErrorKind::Command(CommandError {
        code: told.code,
        code_name: told.code_name.clone(),
        message: "REDACTED".to_owned(),
        reply,
    }));
    if let Some(server) = error.server() {
        redacted = redacted.at(server);
    }
    if let Some(user) = error.user() {
        redacted = redacted.for_user(Some(&user.into()));
    }
    error.labels().fold(redacted, |redacted, label| {
        redacted.with_label(label.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::ServerAddress;
    use crate::reply::check_ok;

    #[test]
    fn every_sensitive_command_is_known() {
        let plain = rawdoc! { "$db": "admin" };
        for name in SENSITIVE {
            assert!(is_sensitive(name, &plain), "{name}");
            assert!(is_sensitive(&name.to_uppercase(), &plain), "{name}");
        }
        let speculates = rawdoc! { "speculativeAuthenticate": {} };
        for name in ["ping", "find", "usersInfo", "saslStartup", ""] {
            assert!(!is_sensitive(name, &speculates), "{name}");
        }
    }

    #[test]
    fn a_hello_is_sensitive_where_it_authenticates() {
        let speculates = rawdoc! { "$db": "admin", "speculativeAuthenticate": { "saslStart": 1 } };
        for name in ["hello", "isMaster", "ismaster"] {
            assert!(!is_sensitive(name, &rawdoc! { "$db": "admin" }), "{name}");
            assert!(is_sensitive(name, &speculates), "{name}");
        }
    }

    #[test]
    fn of_an_error_only_code_name_and_labels_are_left() {
        let reply = rawdoc! {
            "ok": 0, "errmsg": "secret", "code": 51003, "codeName": "Location51003",
            "errorLabels": ["RetryableWriteError"], "details": "secret",
        };
        let error = check_ok(&reply).expect_err("not ok");
        let error = error
            .at(&ServerAddress::tcp("db.example", 27017))
            .for_user(Some(&"app".into()));
        let redacted = redacted(&error);
        let shown = format!("{redacted} {redacted:?}");
        assert!(!shown.contains("secret"), "{shown}");
        let told = redacted.command().expect("the server's");
        assert_eq!((told.code, &*told.code_name), (51003, "Location51003"));
        assert_eq!(
            told.reply,
            rawdoc! {
                "code": 51003, "codeName": "Location51003",
                "errorLabels": ["RetryableWriteError"],
            }
        );
        assert!(redacted.has_label("RetryableWriteError"));
        assert_eq!(redacted.server(), error.server());
        assert_eq!(redacted.user(), Some("app"));
    }
}
