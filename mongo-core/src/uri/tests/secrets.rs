//! No message and no `Debug` shows a part of a password, wherever it is misplaced.

use super::*;

const MARK: &str = "MARKED";

/// All printable output of a connection string.
fn shown(uri: &str) -> String {
    let mut shown = match ConnectionString::parse(uri) {
        Ok(parts) => format!("{parts:?}"),
        Err(error) => format!("{error} {error:?}"),
    };
    match ClientOptions::parse(uri) {
        Ok(options) => {
            shown += &format!("{options:?}");
            for warning in options.warnings() {
                shown += &format!("{warning} {warning:?}");
            }
        }
        Err(error) => {
            shown += &format!("{error} {error:?} {:?}", crate::Error::from(error.clone()))
        }
    }
    shown
}

#[test]
fn errors_and_warnings_show_no_password() {
    // Each tail fails in a different way, gives a warning, or is valid.
    let tails = [
        "h",
        "h/db?w=1",
        "",
        "h:0",
        "a,,b",
        "[::1",
        "h%zz",
        "h/a b",
        "h/?w",
        "h/?w=-1",
        "h/?w=0&journal=true",
        "h/?nope=1&appname=%ff",
        "h/?authSource=",
        "h/?authMechanism=NOPE",
        "h/?authMechanism=MONGODB-X509",
        "h/?authMechanism=MONGODB-AWS",
        "h/?authMechanism=GSSAPI&authSource=db",
        "h/?authMechanismProperties=A:b",
        "h/?readPreferenceTags=a:b",
        "h/?tls=true&ssl=false",
        "a,b/?directConnection=true",
        "h/?proxyHost=a&proxyHost=b",
        "h/?proxyPort=1",
        "h/?srvMaxHosts=1",
    ];
    let passwords = [
        "MARKED",
        "MARKED:MARKED",
        "MARKED@MARKED",
        "MARKED/MARKED",
        "MARKED%MARKED",
        "%MARKED",
        "MARKED%f",
        "MARKED%ff",
        "MARKED,MARKED:MARKED/MARKED",
        "1/MARKED",
        "1,MARKED:x/MARKED",
        "MARKED:MARKED@MARKED/MARKED%MARKED",
    ];
    for scheme in ["mongodb", "mongodb+srv", "mongo"] {
        for password in passwords {
            for tail in tails {
                let uri = format!("{scheme}://user:{password}@{tail}");
                let shown = shown(&uri);
                assert!(!shown.contains(MARK), "{uri}: {shown}");
            }
        }
    }
}

#[test]
fn an_unescaped_question_mark_shows_no_secret() {
    for uri in [
        "mongodb://user:MARKED?MARKED@h/db",
        "mongodb://user:MARKED?MARKED=MARKED@h/db",
        "mongodb://user:1?MARKED=MARKED@h/db",
        "mongodb://user:1?MARKED=x@h/db?nope=1",
    ] {
        let shown = shown(uri);
        assert!(!shown.contains(MARK), "{uri}: {shown}");
    }
}

#[test]
fn a_missing_at_sign_shows_no_secret() {
    for uri in [
        "mongodb://user:MARKED",
        "mongodb://user:1,MARKED:x",
        "mongodb://user:MARKED/db",
        "mongodb+srv://user:MARKED",
    ] {
        let shown = shown(uri);
        assert!(!shown.contains(MARK), "{uri}: {shown}");
    }
}

#[test]
fn secret_options_are_not_shown() {
    for query in [
        "tlsCertificateKeyFilePassword=MARKED",
        "proxyHost=p&proxyUsername=u&proxyPassword=MARKED",
        "proxyPassword=MARKED",
        "authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:MARKED",
        "authMechanismProperties=MARKED",
        "authMechanismProperties=AWS_SESSION_TOKEN:a,MARKED",
        "appname=%MARKED",
        "nope=MARKED",
        "maxPoolSize=MARKED",
        "tls=MARKED",
        "authMechanism=MARKED",
        "readPreference=MARKED",
    ] {
        let shown = shown(&format!("mongodb://h/?{query}"));
        assert!(!shown.contains(MARK), "{query}: {shown}");
    }
}

#[test]
fn the_password_itself_arrives() {
    let options = parse("mongodb://us%40er:p%3A%2F%25%40w@h/");
    let credential = options.credential.expect("a credential");
    assert_eq!(credential.username().map(|name| &**name), Some("us@er"));
    let password = credential.password().map(|password| password.expose());
    assert_eq!(password, Some("p:/%@w"));
}
