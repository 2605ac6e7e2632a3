//! Proxies in front of a real server. For tests of both kinds of members, see
//! [`over_both`](crate::members::over_both).

use std::time::Duration;

use bson::{Document, doc};
use futures_util::future::join_all;
use mongo_testkit::{Compressor, Deployment, Matcher, RealServer, Seen, SeenCommand, User};
use mongodb::Client;
use mongodb::bson::{Document as TheirDocument, doc as their_doc};
use mongodb::error::ErrorKind;
use mongodb::options::ClientOptions;
use tokio::time::{Instant, timeout};

use crate::foreign::pymongo;
use crate::wire::{BOUND, Wire, first_hello, is_primary};

/// The time limit for a client.
const LIMIT: Duration = Duration::from_secs(30);

async fn set(members: usize) -> Deployment {
    let real = RealServer::start();
    let set = Deployment::replica_set("rs").members(members);
    set.backed_by(real).start().await
}

async fn official(uri: &str) -> Client {
    let mut options = ClientOptions::parse(uri).await.expect("a valid URI");
    options.app_name = Some("official".to_owned());
    options.server_selection_timeout = Some(Duration::from_secs(10));
    Client::with_options(options).expect("a client")
}

async fn insert(client: &Client, id: i32) -> mongodb::error::Result<()> {
    let numbers = client
        .database("kit")
        .collection::<TheirDocument>("numbers");
    let insert = timeout(LIMIT, numbers.insert_one(their_doc! {"_id": id})).await;
    insert.expect("an insert in time").map(|_| ())
}

/// The URI for a client that soon rechecks an unknown server.
fn soon(set: &Deployment) -> String {
    format!("{}&heartbeatFrequencyMS=500", set.uri())
}

fn count(set: &Deployment, server: usize, name: &str) -> u64 {
    set.server(server).look(|seen| seen.count(name))
}

fn refused(set: &Deployment) -> usize {
    let refused = |server| {
        set.server(server)
            .look(|seen: &Seen| seen.refused_writes.len())
    };
    (0..set.len()).map(refused).sum()
}

#[tokio::test]
async fn a_hello_combines_the_played_role_with_the_limits_of_the_real_server() {
    let real = std::sync::Arc::new(RealServer::start());
    let set = Deployment::replica_set("rs").members(2);
    let set = set.backed_by(real.clone()).start().await;
    let truth = real.run_command("admin", doc! {"hello": 1});
    let hello = doc! {"hello": 1, "compression": ["zlib"], "loadBalanced": true, "$db": "admin"};
    let mut clients = [Wire::connect(&set, 0).await, Wire::connect(&set, 1).await];
    let mut replies = Vec::new();
    for client in &mut clients {
        replies.push(client.run(hello.clone()).await);
    }
    for (server, reply) in replies.iter().enumerate() {
        assert_eq!(reply.get_str("setName").unwrap(), "rs");
        assert_eq!(reply.get_str("me").unwrap(), set.address(server));
        assert_eq!(reply.get_str("primary").unwrap(), set.address(0));
        assert_eq!(is_primary(reply), server == 0);
        assert!(!reply.contains_key("compression") && !reply.contains_key("serviceId"));
        for same in [
            "maxWireVersion",
            "maxBsonObjectSize",
            "logicalSessionTimeoutMinutes",
        ] {
            assert_eq!(reply.get(same), truth.get(same), "{same}");
        }
    }
    for unlike in ["connectionId", "topologyVersion"] {
        assert_ne!(replies[0].get(unlike), replies[1].get(unlike), "{unlike}");
    }
    assert_ne!(
        replies[0].get("topologyVersion"),
        truth.get("topologyVersion")
    );
    let status = clients[0]
        .run(doc! {"serverStatus": 1, "$db": "admin"})
        .await;
    assert_eq!(
        status.get_f64("ok").unwrap(),
        1.0,
        "a command that the kit does not know"
    );
}

#[tokio::test]
async fn waiting_hellos_of_all_members_are_released_at_once() {
    let set = set(3).await;
    let mut clients = Vec::new();
    for server in 0..3 {
        let mut client = Wire::connect(&set, server).await;
        let hello = client.hello().await;
        client.await_hello(&hello, LIMIT, server == 1).await;
        set.server(server)
            .wait_for("the hello", |seen| seen.hellos() == 2)
            .await;
        clients.push(client);
    }
    let start = Instant::now();
    set.elect(1);
    let replies = join_all(clients.iter_mut().map(Wire::receive)).await;
    let took = start.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
    let primaries: Vec<bool> = replies
        .iter()
        .map(|reply| is_primary(&reply.body))
        .collect();
    assert_eq!(primaries, [false, true, false]);
}

#[tokio::test]
async fn users_of_the_real_server_are_recorded_per_connection() {
    let real = RealServer::builder()
        .user(User::new("app", "pencil"))
        .user(User::new("other", "ruler").database("shop"))
        .start();
    let set = Deployment::replica_set("rs").members(2);
    let set = set.backed_by(real).start().await;
    for (id, (source, name, password)) in
        (1..).zip([("admin", "app", "pencil"), ("shop", "other", "ruler")])
    {
        let uri = set.uri_for(name, password);
        let client = official(&format!("{uri}&authSource={source}")).await;
        insert(&client, id).await.expect("an insert");
        let users = set.server(0).look(|seen| {
            let users = seen.connections.values().filter_map(|one| one.user.clone());
            users.collect::<Vec<_>>()
        });
        assert!(users.contains(&format!("{source}.{name}")), "{users:?}");
        timeout(LIMIT, client.shutdown()).await.expect("in time");
    }
    let wrong = official(&set.uri_for("app", "wrong")).await;
    let error = insert(&wrong, 0).await.unwrap_err();
    let kind = error.kind.as_ref();
    assert!(matches!(kind, ErrorKind::Authentication { .. }), "{kind:?}");
    let mut nobody = Wire::connect(&set, 0).await;
    assert_eq!(nobody.code(doc! {"find": "c"}).await, 13);
}

#[tokio::test]
async fn connections_are_counted_with_their_peak_and_their_application() {
    let set = set(1).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Wire::connect(&set, 0).await;
        client.run(first_hello("counted")).await;
        clients.push(client);
    }
    drop(clients);
    let server = set.server(0);
    server.wait_for("none open", |seen| seen.open == 0).await;
    let (most, named) = server.look(|seen| {
        let client = |one: &mongo_testkit::SeenConnection| one.client.clone();
        let named = seen
            .connections
            .values()
            .filter_map(client)
            .filter(|client| {
                let application = client.get_document("application");
                application
                    .and_then(|one| one.get_str("name"))
                    .is_ok_and(|name| name == "counted")
            });
        (seen.most_open, named.count())
    });
    assert_eq!((most, named), (4, 4));
}

#[tokio::test]
async fn a_blocked_connection_blocks_no_other() {
    let set = set(2).await;
    let data = doc! {
        "failCommands": ["insert", "hello"],
        "appName": "blocked",
        "blockConnection": true,
        "blockTimeMS": 600_000,
    };
    set.fail_commands(0, doc! {"skip": 1}, data);
    let (mut blocked, mut free) = (Wire::connect(&set, 0).await, Wire::connect(&set, 0).await);
    for (client, name) in [(&mut blocked, "blocked"), (&mut free, "free")] {
        client.run(first_hello(name)).await;
    }
    let write = |id: i32| doc! {"insert": "c", "documents": [{"_id": id}]};
    blocked.send(write(1), 0).await;
    set.server(0)
        .wait_for("the insert", |seen| seen.count("insert") == 1)
        .await;
    assert_eq!(free.code(write(2)).await, 0);
    assert_eq!(set.documents("test.c"), [doc! {"_id": 2}]);
    assert!(
        timeout(Duration::from_millis(50), blocked.try_receive())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn unacknowledged_and_large_writes_reach_the_server() {
    let set = set(1).await;
    let mut client = Wire::connect(&set, 0).await;
    let write = |id: i32| {
        let concern = doc! {"w": 0};
        doc! {"insert": "c", "documents": [{"_id": id}], "writeConcern": concern}
    };
    client
        .send(write(1), mongo_testkit::codec::MORE_TO_COME)
        .await;
    // The first one got no reply, so this is the second one's.
    assert_eq!(client.code(doc! {"ping": 1}).await, 0);
    assert_eq!(set.documents("test.c").len(), 1);

    // More than a single document can hold, as a document sequence.
    let official = official(&set.uri()).await;
    let text = "x".repeat(1_000_000);
    let many = (0..20).map(|id| their_doc! {"_id": id, "text": &text});
    let large = official
        .database("kit")
        .collection::<TheirDocument>("large");
    let insert = timeout(LIMIT, large.insert_many(many))
        .await
        .expect("in time");
    assert_eq!(insert.expect("an insert").inserted_ids.len(), 20);
    assert_eq!(count(&set, 0, "insert"), 2, "one message each");
}

#[tokio::test]
async fn compression_ends_at_the_proxies() {
    let set = Deployment::replica_set("rs").members(1);
    let set = set.compressors([Compressor::Zlib]);
    let set = set.backed_by(RealServer::start()).start().await;
    let uri = format!("{}&compressors=zlib", set.uri());
    pymongo("read-and-write", &uri, &[]).await;
    let is_compressed = |seen: &SeenCommand| seen.compressor == Some(Compressor::Zlib);
    let inserts = set.server(0).look(|seen| {
        let inserts: Vec<bool> = seen.commands("insert").map(is_compressed).collect();
        inserts
    });
    assert_eq!(inserts, [true]);
}

/// Faults that a retryable write survives, and how often the write is sent.
fn survivable() -> [(Document, u64); 3] {
    [
        (doc! {"closeConnection": true}, 2),
        (doc! {"errorCode": 91}, 2),
        (
            doc! {"errorCode": 11600, "writeConcernError": {"code": 91}},
            2,
        ),
    ]
}

#[tokio::test]
async fn official_crate_retries_a_write_that_a_fail_point_spoils() {
    let set = set(1).await;
    let client = official(&soon(&set)).await;
    insert(&client, 0).await.expect("an insert");
    let mut expected = 1;
    for (id, (mut data, times)) in survivable().into_iter().enumerate() {
        data.insert("failCommands", vec!["insert"]);
        data.insert("appName", "official");
        set.fail_commands(0, doc! {"times": 1}, data);
        let id = i32::try_from(id).unwrap() + 1;
        insert(&client, id).await.expect("a retried insert");
        expected += times;
        assert_eq!(count(&set, 0, "insert"), expected);
    }
    assert_eq!(set.documents("kit.numbers").len(), 4);
    let data = doc! {"failCommands": ["insert"], "appName": "other", "errorCode": 2};
    set.fail_commands(0, "alwaysOn", data);
    insert(&client, 9)
        .await
        .expect("another application's fail point");
    let data = doc! {"failCommands": ["insert"], "errorCode": 2};
    set.fail_commands(0, "alwaysOn", data);
    assert!(insert(&client, 10).await.is_err());
    timeout(LIMIT, client.shutdown()).await.expect("in time");
}

#[tokio::test]
async fn pymongo_retries_a_write_that_a_fail_point_spoils() {
    let set = set(1).await;
    pymongo("fail-point", &soon(&set), &[]).await;
    assert_eq!(set.documents("kit.numbers").len(), 4);
}

#[tokio::test]
async fn a_write_at_a_secondary_is_refused_and_kept() {
    let set = set(2).await;
    let mut client = Wire::connect(&set, 1).await;
    client.hello().await;
    let write = doc! {
        "insert": "c",
        "documents": [{"_id": 1}],
        "lsid": {"id": bson::Uuid::new()},
        "txnNumber": 1_i64,
    };
    let reply = client.run(write.clone()).await;
    assert_eq!(reply.get_i32("code").unwrap(), 10107);
    assert_eq!(
        reply.get_array("errorLabels").unwrap(),
        &vec!["RetryableWriteError".into()]
    );
    let mut in_transaction = write;
    in_transaction.extend(doc! {"autocommit": false, "startTransaction": true});
    let reply = client.run(in_transaction).await;
    let transient = vec!["TransientTransactionError".into()];
    assert_eq!(reply.get_array("errorLabels").unwrap(), &transient);
    assert_eq!(refused(&set), 2);
    let kept = set.server(1).look(|seen| seen.refused_writes[0].clone());
    assert_eq!(
        (kept.name.as_str(), kept.database.as_str()),
        ("insert", "test")
    );
    assert!(set.documents("test.c").is_empty());
}

#[tokio::test]
async fn transactions_commit_and_abort() {
    let set = set(2).await;
    let client = official(&set.uri()).await;
    insert(&client, 0).await.expect("the collection is there");
    let numbers = client
        .database("kit")
        .collection::<TheirDocument>("numbers");
    let mut session = client.start_session().await.expect("a session");
    let work = async {
        for (id, commits) in [(1, true), (2, false)] {
            session.start_transaction().await?;
            let insert = numbers.insert_one(their_doc! {"_id": id});
            insert.session(&mut session).await?;
            assert_eq!(set.documents("kit.numbers").len(), 1 + (id as usize - 1));
            match commits {
                true => session.commit_transaction().await?,
                false => session.abort_transaction().await?,
            }
        }
        mongodb::error::Result::Ok(())
    };
    timeout(LIMIT, work).await.expect("in time").expect("works");
    assert_eq!(set.documents("kit.numbers").len(), 2);
}

#[tokio::test]
async fn a_transaction_ends_with_its_primary() {
    let set = set(2).await;
    let mut clients = [Wire::connect(&set, 0).await, Wire::connect(&set, 1).await];
    let lsid = doc! {"id": bson::Uuid::new()};
    let part = |number: i64, command: Document| {
        let mut part = command;
        part.extend(doc! {"lsid": lsid.clone(), "txnNumber": number, "autocommit": false});
        part
    };
    let insert = |id: i32| doc! {"insert": "c", "documents": [{"_id": id}]};
    let start = |number, id| {
        let mut start = part(number, insert(id));
        start.insert("startTransaction", true);
        start
    };
    let commit = |number| part(number, doc! {"commitTransaction": 1, "$db": "admin"});
    // A committed transaction stays committed, and a retried commit succeeds.
    assert_eq!(clients[0].code(start(1, 1)).await, 0);
    assert_eq!(clients[0].code(commit(1)).await, 0);
    set.elect(1);
    assert_eq!(clients[1].code(commit(1)).await, 0);

    assert_eq!(clients[1].code(start(2, 2)).await, 0);
    assert_eq!(clients[1].code(part(2, insert(3))).await, 0);
    set.elect(0);
    let lost = clients[0].run(part(2, insert(4))).await;
    assert_eq!(lost.get_i32("code").unwrap(), 251, "{lost}");
    let transient = vec!["TransientTransactionError".into()];
    assert_eq!(lost.get_array("errorLabels").unwrap(), &transient);
    assert_eq!(clients[0].code(commit(2)).await, 251);
    // Its locks are released.
    assert_eq!(clients[0].code(insert(2)).await, 0);
    assert_eq!(set.documents("test.c").len(), 2);
}

#[tokio::test]
async fn each_reply_can_be_scripted() {
    let set = set(1).await;
    set.server(0).script().add(
        Matcher::command("find")
            .once()
            .then(mongo_testkit::Action::Remove("cursor".to_owned())),
    );
    let mut client = Wire::connect(&set, 0).await;
    for has_cursor in [false, true] {
        let reply = client.run(doc! {"find": "c"}).await;
        assert_eq!(reply.get_f64("ok").unwrap(), 1.0);
        assert_eq!(reply.contains_key("cursor"), has_cursor);
    }
}

#[tokio::test]
async fn no_connection_is_left_open_after_shutdown() {
    let real = std::sync::Arc::new(RealServer::start());
    let set = Deployment::replica_set("rs").members(2);
    let set = set.backed_by(real.clone()).start().await;
    let mut client = Wire::connect(&set, 0).await;
    client.hello().await;
    timeout(BOUND, set.shutdown()).await.expect("an end");
    assert!(client.try_receive().await.is_none());
    real.run_command("admin", doc! {"ping": 1});
}
