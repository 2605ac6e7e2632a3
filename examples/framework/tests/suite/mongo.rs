//! A replica set of the test kit, and what is true of MongoDB alone.

use bson::doc;
use framework::visits::visit;
use framework::{Config, Database};
use mongo_testkit::{Deployment, User};
use tokio::task::JoinSet;

use crate::{BETWEEN_LOOKS, Server, open};

/// A set of one member.
pub(crate) struct Mongo(Deployment);

impl Server for Mongo {
    async fn start() -> Self {
        let set = Deployment::replica_set("rs").members(1);
        Self(set.user(User::new("app", "pencil")).start().await)
    }

    /// The primary is soon found again after an error that denies that it is one.
    fn url(&self, password: &str) -> String {
        format!(
            "{}&heartbeatFrequencyMS=500",
            self.0.uri_for("app", password)
        )
    }

    /// Without those of monitors, which do not authenticate.
    async fn connections(&self) -> usize {
        self.0.server(0).look(|seen| {
            let open = seen.connections.values().filter(|seen| seen.open);
            open.filter(|seen| seen.user.is_some()).count()
        })
    }

    async fn end_connections(&self) {
        self.0.server(0).close_connections().await;
        while self.connections().await > 0 {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// By a read that the server holds back: a session has a connection only during a command.
    async fn occupy(&self, database: &dyn Database) -> Box<dyn Send> {
        let server = self.0.server(0);
        let finds = server.look(|seen| seen.count("find"));
        let block = doc! {
            "failCommands": ["find"], "blockConnection": true, "blockTimeMS": 30_000
        };
        self.0.fail_commands(0, doc! { "times": 1 }, block);
        let mut session = database.acquire().await.expect("a session");
        let mut task = JoinSet::new();
        task.spawn(async move { drop(session.get("held back").await) });
        let arrived = |seen: &mongo_testkit::Seen| seen.count("find") > finds;
        server.wait_for("the read", arrived).await;
        Box::new(task)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_value_is_not_taken_for_none() {
    for (value, wanted) in [
        (doc! { "_id": "visits", "value": "many" }, "visits: "),
        (
            doc! { "_id": "visits", "value": 7 },
            "could not read the reply",
        ),
    ] {
        let server = Mongo::start().await;
        server.0.insert("framework.values", [value.clone()]);
        let database = open(&server.config()).await;
        let error = visit(&*database).await.expect_err("a bad value");
        assert!(error.to_string().contains(wanted), "{error}");
        assert_eq!(server.0.documents("framework.values"), [value]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_transactions_is_named() {
    let server = Deployment::standalones(1).start().await;
    let database = open(&Config::from_url(server.uri())).await;
    let error = visit(&*database).await.expect_err("no transactions");
    let wanted = "Transaction numbers are only allowed on a replica set member or mongos";
    assert!(error.to_string().contains(wanted), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_run_again() {
    for command in ["find", "update", "commitTransaction"] {
        let server = Mongo::start().await;
        let failure = doc! { "failCommands": [command], "errorCode": 10107 };
        server.0.fail_commands(0, doc! { "times": 2 }, failure);
        let database = open(&server.config()).await;
        assert_eq!(visit(&*database).await.expect("a visit"), 1, "{command}");
        let notes = server.0.documents("framework.values");
        assert_eq!(notes.len(), 2, "{command}: {notes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_with_an_unknown_result_is_not_run_again() {
    let server = Mongo::start().await;
    let failure = doc! { "failCommands": ["commitTransaction"], "errorCode": 10107 };
    server.0.fail_commands(0, "alwaysOn", failure);
    let database = open(&server.config()).await;
    let error = visit(&*database).await.expect_err("an unknown result");
    assert!(!error.is_transient, "{error}");
    assert_eq!(server.0.server(0).look(|seen| seen.count("update")), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_that_may_pass_are_transient() {
    for (command, code, may_pass) in [
        ("find", 10107, true),
        ("update", 91, true),
        ("find", 13, false),
    ] {
        let server = Mongo::start().await;
        let failure = doc! { "failCommands": [command], "errorCode": code };
        server.0.fail_commands(0, "alwaysOn", failure);
        let database = open(&server.config()).await;
        let error = visit(&*database).await.expect_err("a failure");
        assert!(error.to_string().contains("failpoint"), "{error}");
        assert_eq!(error.is_transient, may_pass, "{error}");
    }
}
