//! The server's replies and records.

use std::time::Duration;

use crate::client::{BOUND, BareClient};
use bson::{Bson, doc};
use mongo_testkit::codec::{self, MORE_TO_COME, Reply};
use mongo_testkit::{ScriptedServer, User, payload};
use tokio::time::{Instant, timeout};

fn ping() -> bson::Document {
    doc! {"ping": 1}
}

#[tokio::test]
async fn hello_in_all_its_forms() {
    let server = ScriptedServer::start().await;
    let mut client = BareClient::connect(&server.address()).await;
    let reply = client.hello().await;
    assert!(reply.get_bool("isWritablePrimary").unwrap());
    assert!(!reply.contains_key("helloOk"));
    let reply = client
        .run(doc! {"isMaster": 1, "helloOk": true, "$db": "admin"})
        .await;
    assert!(reply.get_bool("ismaster").unwrap() && reply.get_bool("helloOk").unwrap());

    let query = codec::encode_query(77, "admin", &doc! {"ismaster": 1, "client": {"driver": {}}});
    client.write(&query).await;
    let message = client.message().await.unwrap().unwrap();
    assert_eq!(message[12..16], codec::OP_REPLY.to_le_bytes());
    let reply = Reply::decode(&message).unwrap();
    assert_eq!(
        (reply.response_to, reply.body.get_f64("ok").unwrap()),
        (77, 1.0)
    );

    assert_eq!(server.look(|seen| seen.hellos()), 3);
    assert!(server.look(|seen| seen.log[2].legacy && !seen.log[1].legacy));
    assert!(server.look(|seen| seen.connections[&1].client.is_some()));
    let again = client
        .run(doc! {"hello": 1, "client": {}, "$db": "admin"})
        .await;
    assert_eq!(again.get_i32("code").unwrap(), 186);
}

#[tokio::test]
async fn an_awaitable_hello_is_refused() {
    let server = ScriptedServer::start().await;
    let mut client = BareClient::connect(&server.address()).await;
    let reply = client
        .run(doc! {"hello": 1, "maxAwaitTimeMS": 10_000_i64})
        .await;
    assert_eq!(reply.get_i32("code").unwrap(), 72);
}

#[tokio::test]
async fn commands_need_authentication_when_there_are_users() {
    let server = ScriptedServer::builder()
        .user(User::new("u", "p"))
        .start()
        .await;
    let mut client = BareClient::connect(&server.address()).await;
    assert_eq!(client.run(ping()).await.get_f64("ok").unwrap(), 1.0);
    for command in [doc! {"find": "c"}, doc! {"echo": 1}, doc! {"nonsense": 1}] {
        assert_eq!(client.run(command).await.get_i32("code").unwrap(), 13);
    }
}

#[tokio::test]
async fn unknown_commands_and_echo() {
    let server = ScriptedServer::start().await;
    let mut client = BareClient::connect(&server.address()).await;
    assert_eq!(
        client
            .run(doc! {"nonsense": 1})
            .await
            .get_i32("code")
            .unwrap(),
        59
    );
    let reply = client.run(doc! {"echo": {"n": 7}}).await;
    assert_eq!(reply, doc! {"echo": {"n": 7}, "ok": 1.0});
}

#[tokio::test(start_paused = true)]
async fn echo_delays_by_the_paused_clock() {
    let server = ScriptedServer::start().await;
    let mut client = BareClient::connect(&server.address()).await;
    let start = Instant::now();
    client.run(doc! {"echo": 1, "delayMS": 5000}).await;
    assert!(start.elapsed() >= Duration::from_secs(5));
}

#[tokio::test]
async fn a_unix_socket_serves_too() {
    let server = ScriptedServer::builder().unix().start().await;
    let path = server.address();
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream
        .write_all(&codec::encode_command(1, 0, &doc! {"ping": 1, "$db": "x"}))
        .await
        .unwrap();
    let mut buffer = [0; 16];
    timeout(BOUND, stream.read_exact(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(buffer[8..12], 1_i32.to_le_bytes());
    assert!(server.uri().starts_with("mongodb://%2F") && server.port().is_none());
    server.shutdown().await;
    assert!(!std::path::Path::new(&path).exists());
}

#[tokio::test]
async fn documents_are_stored_and_cursors_iterate() {
    let server = ScriptedServer::start().await;
    let mut client = BareClient::connect(&server.address()).await;
    let documents: Vec<Bson> = (0..7)
        .map(|n| doc! {"_id": n, "even": n % 2 == 0}.into())
        .collect();
    let reply = client
        .run(doc! {"insert": "c", "documents": documents})
        .await;
    assert_eq!(reply.get_i32("n").unwrap(), 7);
    let reply = client
        .run(doc! {"insert": "c", "documents": [{"_id": 3}, {"_id": 9}]})
        .await;
    assert_eq!(reply.get_i32("n").unwrap(), 0);
    let error = reply.get_array("writeErrors").unwrap()[0]
        .as_document()
        .unwrap();
    assert_eq!(error.get_i32("code").unwrap(), 11000);

    let reply = client
        .run(doc! {"find": "c", "filter": {"_id": {"$gt": 0}}, "batchSize": 4})
        .await;
    let cursor = reply.get_document("cursor").unwrap();
    assert_eq!(cursor.get_array("firstBatch").unwrap().len(), 4);
    let id = cursor.get_i64("id").unwrap();
    assert_eq!(server.open_cursors(), 1);
    let reply = client.run(doc! {"getMore": id, "collection": "c"}).await;
    let cursor = reply.get_document("cursor").unwrap();
    assert_eq!(cursor.get_array("nextBatch").unwrap().len(), 2);
    assert_eq!(
        (cursor.get_i64("id").unwrap(), server.open_cursors()),
        (0, 0)
    );
    let reply = client.run(doc! {"getMore": id, "collection": "c"}).await;
    assert_eq!(reply.get_i32("code").unwrap(), 43);

    let update = doc! {"q": {"even": true}, "u": {"$set": {"x": 1}}, "multi": true};
    let reply = client.run(doc! {"update": "c", "updates": [update]}).await;
    assert_eq!(reply.get_i32("nModified").unwrap(), 4);
    let delete = doc! {"q": {"x": 1}, "limit": 1};
    assert_eq!(
        client
            .run(doc! {"delete": "c", "deletes": [delete]})
            .await
            .get_i32("n")
            .unwrap(),
        1
    );
    assert_eq!(server.documents("test.c").len(), 6);
}

#[tokio::test]
async fn unacknowledged_writes_get_no_reply() {
    let server = ScriptedServer::start().await;
    let mut client = BareClient::connect(&server.address()).await;
    let insert = doc! {"insert": "c", "documents": [{"_id": 1}], "$db": "test"};
    client
        .write(&codec::encode_command(50, MORE_TO_COME, &insert))
        .await;
    client.run(ping()).await;
    assert_eq!(server.documents("test.c").len(), 1);
}

#[tokio::test]
async fn malformed_requests_end_the_connection() {
    let server = ScriptedServer::start().await;
    for bytes in [
        &[0xff; 16][..],
        &[5, 0, 0, 0][..],
        &payload::random_bytes(3, 400),
    ] {
        let mut client = BareClient::connect(&server.address()).await;
        client.write(bytes).await;
        client.rest().await.1.unwrap_or_default();
    }
    server
        .wait_for("the closed connections", |seen| seen.open == 0)
        .await;
    assert_eq!(server.look(|seen| seen.protocol_errors.len()), 3);
}

#[tokio::test]
async fn the_server_records_commands_and_connections() {
    let server = ScriptedServer::builder().record_bytes().start().await;
    let mut first = BareClient::connect(&server.address()).await;
    first.hello().await;
    let mut second = BareClient::connect(&server.address()).await;
    second.run(ping()).await;
    second.run(ping()).await;
    server.look(|seen| {
        assert_eq!((seen.open, seen.accepted), (2, 2));
        assert_eq!((seen.count("PING"), seen.count("hello")), (2, 1));
        assert_eq!(seen.names_on(2), ["ping", "ping"]);
        let sent = codec::encode_command(1, 0, &doc! {"hello": 1, "$db": "admin"});
        assert_eq!(seen.connections[&1].received, sent);
    });
    drop(first);
    server
        .wait_for("one closed connection", |seen| seen.open == 1)
        .await;
    assert!(server.look(|seen| !seen.connections[&1].open && seen.connections[&2].open));
}

#[tokio::test]
async fn no_task_or_connection_outlives_the_server() {
    let server = ScriptedServer::start().await;
    let address = server.address();
    let mut client = BareClient::connect(&address).await;
    client.run(ping()).await;
    server.shutdown().await;
    assert!(client.rest().await.0.is_empty());
    tokio::net::TcpStream::connect(&address).await.unwrap_err();

    let server = ScriptedServer::start().await;
    let mut client = BareClient::connect(&server.address()).await;
    client.run(ping()).await;
    drop(server);
    assert!(client.rest().await.0.is_empty());
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "has not seen the impossible")]
async fn waiting_is_bounded() {
    let server = ScriptedServer::start().await;
    server.wait_for("the impossible", |_| false).await;
}
