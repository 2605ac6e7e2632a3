//! Command events, with the scripted server and the real one.

use bson::{Document, doc};
use mongo_core::event::CommandEvent;
use mongo_core::pools::ManagerConfig;
use mongo_testkit::{RealServer, ScriptedServer, User};

use crate::{Told, establish};

/// Commands that succeed and one that fails, after a handshake with authentication, which publishes
/// no events.
async fn each_command_begins_and_ends_once(uri: &str, database: &str) {
    let told = Told::default();
    let factory = told.factory(uri, ManagerConfig::default());
    let mut connection = establish(&factory).await;
    let commands = [
        doc! { "insert": "things", "documents": [{ "_id": 1 }, { "_id": 2 }, { "_id": 3 }] },
        doc! { "find": "things", "batchSize": 2 },
        doc! { "insert": "things", "documents": [{ "_id": 1 }] },
        doc! { "noSuchCommand": 1 },
        doc! { "delete": "things", "deletes": [{ "q": {}, "limit": 0 }] },
    ];
    let mut outcomes = Vec::new();
    for command in &commands {
        let outcome = connection.run_command(database, command).await;
        outcomes.push(outcome.map(|reply| reply.into_owned()));
    }
    let events = told.commands();
    assert_eq!(events.len(), 2 * commands.len());
    let mut last_request = 0;
    for (pair, (command, outcome)) in events.chunks(2).zip(commands.iter().zip(&outcomes)) {
        let CommandEvent::Started(started) = &pair[0] else {
            panic!("{pair:?}");
        };
        let mut sent = command.clone();
        sent.insert("$db", database);
        let told = Document::try_from(&*started.command).expect("a document");
        assert_eq!(told, sent);
        assert_eq!(
            Some(&*started.command_name),
            command.keys().next().map(|name| &**name)
        );
        assert_eq!(&*started.database_name, database);
        assert_eq!(&started.address, connection.server());
        assert_eq!(started.user.as_deref(), connection.user());
        assert_eq!(started.driver_connection_id, connection.id());
        let server_connection_id = connection.description().connection_id;
        assert!(server_connection_id.is_some());
        assert_eq!(started.server_connection_id, server_connection_id);
        assert_eq!(started.service_id, None);
        assert!(started.request_id > last_request);
        last_request = started.request_id;

        assert_eq!(pair[1].request_id(), last_request);
        assert_eq!(pair[1].command_name(), &*started.command_name);
        assert_eq!(pair[1].address(), connection.server());
        match (&pair[1], outcome) {
            (CommandEvent::Succeeded(event), Ok(reply)) => {
                assert_eq!(event.reply.as_bytes(), reply.as_bytes());
                assert!(!event.duration.is_zero());
                assert_eq!(event.server_connection_id, server_connection_id);
                assert_eq!(&*event.database_name, database);
            }
            (CommandEvent::Failed(event), Err(error)) => {
                assert!(event.failure.is_same(error), "{}", event.failure);
                assert!(!event.duration.is_zero());
                assert_eq!(event.server_connection_id, server_connection_id);
                assert_eq!(&*event.database_name, database);
            }
            other => panic!("{other:?}"),
        }
    }
    // The third one has a write error, which counts as success. The fourth one fails.
    assert_eq!(
        outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [true, true, true, false, true]
    );
}

#[tokio::test]
async fn events_of_the_scripted_server() {
    let user = User::new("app", "pencil");
    let server = ScriptedServer::builder().user(user).start().await;
    each_command_begins_and_ends_once(&server.uri_for("app", "pencil"), "events").await;
}

#[tokio::test]
async fn events_of_the_real_server() {
    let server = RealServer::shared();
    each_command_begins_and_ends_once(&server.uri(), &server.database("events")).await;
}

/// End to end: the server refuses all commands, and repeats them in its error.
#[tokio::test]
async fn sensitive_commands_are_redacted() {
    let server = ScriptedServer::builder()
        .rule(
            mongo_testkit::Matcher::any_command()
                .when(|command| format!("{command}").contains("s3cret"))
                .then(mongo_testkit::Action::Error(
                    mongo_testkit::ErrorReply::new(13, "Unauthorized", "not with s3cret")
                        .label("Labelled"),
                )),
        )
        .start()
        .await;
    let told = Told::default();
    let factory = told.factory(&server.uri(), ManagerConfig::default());
    let mut connection = establish(&factory).await;
    let always = [
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
    let hellos = ["hello", "isMaster", "ismaster"];
    let speculates =
        |name: &&str| doc! { *name: 1, "speculativeAuthenticate": { "payload": "s3cret" } };
    let commands: Vec<_> = always
        .iter()
        .map(|name| doc! { *name: 1, "payload": "s3cret" })
        .chain(hellos.iter().map(speculates))
        .collect();
    for command in &commands {
        let refused = connection.run_command("admin", command).await;
        let error = refused.expect_err("refused");
        assert!(error.to_string().contains("s3cret"), "{error}");
        let events = told.commands();
        let shown = format!("{events:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
        let [CommandEvent::Started(started), CommandEvent::Failed(failed)] = &*events else {
            panic!("{shown}");
        };
        assert!(started.command.is_empty());
        assert_eq!(
            Some(&*started.command_name),
            command.keys().next().map(|name| &**name)
        );
        assert_eq!(failed.failure.code(), Some(13));
        assert!(failed.failure.has_label("Labelled"));
        assert!(failed.failure.to_string().contains("Unauthorized"));
    }
    assert_eq!(commands.len(), 12);
    // A hello without authentication is not redacted.
    for name in hellos {
        let answer = connection.run_command("admin", &doc! { name: 1 }).await;
        answer.expect("an answer");
        match &*told.commands() {
            [
                CommandEvent::Started(started),
                CommandEvent::Succeeded(succeeded),
            ] => {
                assert!(started.command.get(name).expect("BSON").is_some());
                assert!(
                    succeeded
                        .reply
                        .get("maxWireVersion")
                        .expect("BSON")
                        .is_some()
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The command is run again after reauthentication, which publishes no events. It is reported
/// again.
#[tokio::test]
async fn a_command_that_is_run_again_has_two_sets_of_events() {
    let refusal = mongo_testkit::ErrorReply::new(391, "ReauthenticationRequired", "again");
    let server = ScriptedServer::builder()
        .user(User::new("app", "pencil"))
        .rule(
            mongo_testkit::Matcher::command("find")
                .once()
                .then(mongo_testkit::Action::Error(refusal)),
        )
        .start()
        .await;
    let told = Told::default();
    let uri = server.uri_for("app", "pencil");
    let factory = told.factory(&uri, ManagerConfig::default());
    let mut connection = establish(&factory).await;
    let found = connection
        .run_command("app", &doc! { "find": "things" })
        .await;
    found.expect("a cursor");
    let events = told.commands();
    let [
        CommandEvent::Started(first),
        CommandEvent::Failed(failed),
        CommandEvent::Started(second),
        CommandEvent::Succeeded(succeeded),
    ] = &*events
    else {
        panic!("{events:?}");
    };
    assert_eq!(failed.failure.code(), Some(391));
    assert_eq!(first.request_id, failed.request_id);
    assert_eq!(second.request_id, succeeded.request_id);
    assert!(second.request_id > first.request_id);
}
