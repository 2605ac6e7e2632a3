//! Sessions, retryable writes, snapshot reads and cursors, by wire commands.

use std::time::Duration;

use bson::{Bson, Document, Timestamp, Uuid, doc};
use mongo_testkit::{Deployment, SimNetwork};
use tokio::time::{Instant, timeout};

use crate::members::{Members, over_both};
use crate::wire::Wire;

over_both! {
    a_retried_write_returns_the_first_outcome,
    a_read_waits_for_no_time_that_its_server_does_not_know,
    cursors_stay_with_their_server,
}

/// A client session.
pub(crate) struct Session {
    lsid: Document,
}

impl Session {
    pub(crate) fn new() -> Self {
        let lsid = doc! {"id": Uuid::new()};
        Self { lsid }
    }

    /// A retryable write.
    pub(crate) fn write(&self, number: i64, command: Document) -> Document {
        let mut command = command;
        command.extend(doc! {"lsid": self.lsid.clone(), "txnNumber": number});
        command
    }

    /// A part of a transaction.
    pub(crate) fn part(&self, number: i64, command: Document) -> Document {
        let mut command = self.write(number, command);
        command.insert("autocommit", false);
        command
    }

    pub(crate) fn start(&self, number: i64, command: Document) -> Document {
        let mut command = self.part(number, command);
        command.insert("startTransaction", true);
        command
    }

    pub(crate) fn commit(&self, number: i64) -> Document {
        self.part(number, doc! {"commitTransaction": 1, "$db": "admin"})
    }

    pub(crate) fn abort(&self, number: i64) -> Document {
        self.part(number, doc! {"abortTransaction": 1, "$db": "admin"})
    }
}

pub(crate) fn insert(id: i32) -> Document {
    doc! {"insert": "c", "documents": [{"_id": id, "n": 0}]}
}

pub(crate) fn increment(id: i32) -> Document {
    doc! {"update": "c", "updates": [{"q": {"_id": id}, "u": {"$inc": {"n": 1}}}]}
}

pub(crate) fn find() -> Document {
    doc! {"find": "c", "filter": {}, "sort": {"_id": 1}}
}

pub(crate) fn ids(reply: &Document) -> Vec<i32> {
    let cursor = reply
        .get_document("cursor")
        .unwrap_or_else(|_| panic!("{reply}"));
    let batch = cursor
        .get_array("firstBatch")
        .or_else(|_| cursor.get_array("nextBatch"));
    let documents = batch.expect("a batch").iter();
    let id = |one: &Bson| one.as_document().and_then(|one| one.get_i32("_id").ok());
    documents.filter_map(id).collect()
}

pub(crate) fn cursor_id(reply: &Document) -> i64 {
    let cursor = reply.get_document("cursor");
    cursor
        .and_then(|cursor| cursor.get_i64("id"))
        .expect("a cursor")
}

pub(crate) fn labels(reply: &Document) -> Vec<&str> {
    let labels = reply.get_array("errorLabels").into_iter().flatten();
    labels.filter_map(Bson::as_str).collect()
}

pub(crate) fn code(reply: &Document) -> i32 {
    reply.get_i32("code").unwrap_or(0)
}

/// The value of `n` in the documents.
pub(crate) fn counters(deployment: &Deployment) -> Vec<i32> {
    let documents = deployment.documents("test.c").into_iter();
    documents.map(|one| one.get_i32("n").unwrap_or(0)).collect()
}

pub(crate) async fn set(members: Members) -> Deployment {
    members
        .start(Deployment::replica_set("rs").members(3))
        .await
}

async fn a_retried_write_returns_the_first_outcome(members: Members) {
    let set = set(members).await;
    let session = Session::new();
    let mut client = Wire::connect(&set, 0).await;
    assert_eq!(client.code(session.write(1, insert(1))).await, 0);
    let write = session.write(2, increment(1));
    let first = client.run(write.clone()).await;
    let again = client.run(write.clone()).await;
    assert_eq!(first.get("nModified"), again.get("nModified"));
    assert_eq!(again.get_array("retriedStmtIds").unwrap(), &vec![0.into()]);
    assert!(!first.contains_key("retriedStmtIds"));

    set.elect(1);
    let mut client = Wire::connect(&set, 1).await;
    let after = client.run(write).await;
    assert_eq!(first.get("nModified"), after.get("nModified"));
    assert_eq!(counters(&set), [1]);

    let modify = doc! {"findAndModify": "c", "query": {"_id": 1}, "update": {"$inc": {"n": 1}}};
    let modify = session.write(3, modify);
    let first = client.run(modify.clone()).await;
    let again = client.run(modify).await;
    assert_eq!(first.get("value"), again.get("value"));
    assert_eq!(counters(&set), [2]);
    assert_eq!(client.code(session.write(2, increment(1))).await, 225);
    let other = Session::new();
    assert_eq!(client.code(other.write(3, increment(1))).await, 0);
    assert_eq!(counters(&set), [3]);
}

async fn a_read_waits_for_no_time_that_its_server_does_not_know(members: Members) {
    let set = set(members).await;
    let mut client = Wire::connect(&set, 0).await;
    let written = client.run(insert(1)).await;
    let time = written.get_timestamp("operationTime").expect("a time");
    let after = |time: Timestamp| {
        let mut find = find();
        find.insert("readConcern", doc! {"afterClusterTime": time});
        find
    };
    let read = client.run(after(time)).await;
    assert_eq!(ids(&read), [1]);
    assert!(read.get_timestamp("operationTime").expect("a time") >= time);
    let future = Timestamp {
        time: time.time + 1000,
        increment: 1,
    };
    assert_eq!(client.code(after(future)).await, 72);
}

async fn cursors_stay_with_their_server(members: Members) {
    let sharded = members.start(Deployment::sharded(2)).await;
    sharded.insert("test.c", (0..5).map(|id| doc! {"_id": id}));
    let session = Session::new();
    let mut clients = [
        Wire::connect(&sharded, 0).await,
        Wire::connect(&sharded, 1).await,
    ];
    let of_session = |mut command: Document| {
        command.insert("lsid", session.lsid.clone());
        command
    };
    let mut first = find();
    first.insert("batchSize", 2);
    let reply = clients[0].run(of_session(first)).await;
    assert_eq!(ids(&reply), [0, 1]);
    let id = cursor_id(&reply);
    let more = of_session(doc! {"getMore": id, "collection": "c", "batchSize": 2});
    assert_eq!(clients[1].code(more.clone()).await, 43);
    assert_eq!(ids(&clients[0].run(more.clone()).await), [2, 3]);
    let kill = of_session(doc! {"killCursors": "c", "cursors": [id]});
    let elsewhere = clients[1].run(kill.clone()).await;
    assert_eq!(elsewhere.get_array("cursorsNotFound").unwrap().len(), 1);
    let killed = clients[0].run(kill).await;
    assert_eq!(killed.get_array("cursorsKilled").unwrap().len(), 1);
    assert_eq!(clients[0].code(more).await, 43);
    assert_eq!(sharded.server(0).open_cursors(), 0);
    let check = clients[0].run(doc! {"checkMetadataConsistency": 1}).await;
    assert_eq!((ids(&check).len(), cursor_id(&check)), (0, 0));
}

#[tokio::test]
async fn snapshot_reads_see_their_time() {
    let set = set(Members::Scripted).await;
    set.insert("test.c", [doc! {"_id": 1, "n": 0}]);
    let mut client = Wire::connect(&set, 0).await;
    let at = |command: &str, time: Option<Timestamp>| {
        let mut concern = doc! {"level": "snapshot"};
        concern.extend(time.map(|time| ("atClusterTime".to_owned(), time.into())));
        match command {
            "find" => doc! {"find": "c", "readConcern": concern},
            "distinct" => doc! {"distinct": "c", "key": "n", "readConcern": concern},
            _ => doc! {"aggregate": "c", "pipeline": [], "cursor": {}, "readConcern": concern},
        }
    };
    let first = client.run(at("find", None)).await;
    let cursor = first.get_document("cursor").expect("a cursor");
    let time = cursor.get_timestamp("atClusterTime").expect("its time");
    for id in 2..4 {
        assert_eq!(client.code(insert(id)).await, 0);
        assert_eq!(client.code(increment(1)).await, 0);
    }
    for _ in 0..2 {
        let again = client.run(at("find", Some(time))).await;
        assert_eq!(again.get("cursor"), first.get("cursor"));
        assert_eq!(ids(&client.run(at("aggregate", Some(time))).await), [1]);
        let values = client.run(at("distinct", Some(time))).await;
        assert_eq!(values.get_timestamp("atClusterTime").unwrap(), time);
        assert_eq!(values.get_array("values").unwrap(), &vec![0.into()]);
    }
    assert_eq!(ids(&client.run(at("find", None)).await), [1, 2, 3]);
    let old = Timestamp {
        time: 1,
        increment: 0,
    };
    assert_eq!(client.code(at("find", Some(old))).await, 239);
    let count = doc! {"count": "c", "readConcern": {"level": "snapshot"}};
    assert_eq!(client.code(count).await, 72);
}

#[tokio::test(start_paused = true)]
async fn a_tailable_cursor_awaits_data() {
    let network = SimNetwork::new(1);
    network.set_latency(Duration::ZERO, Duration::ZERO);
    let set = Deployment::replica_set("rs").members(1).network(&network);
    let _set = set.start().await;
    let connect = || async { Wire::over(network.connect("m0.test:27017").await.expect("m0")) };
    let (mut reader, mut writer) = (connect().await, connect().await);
    let create = doc! {"create": "c", "capped": true, "size": 4096};
    assert_eq!(writer.code(create).await, 0);
    assert_eq!(writer.code(insert(1)).await, 0);
    let find = doc! {"find": "c", "tailable": true, "awaitData": true};
    let id = cursor_id(&reader.run(find).await);
    let more = doc! {"getMore": id, "collection": "c", "maxTimeMS": 2000};
    let begun = Instant::now();
    let empty = reader.run(more.clone()).await;
    assert_eq!((ids(&empty).len(), begun.elapsed().as_millis()), (0, 2000));
    reader.send(more, 0).await;
    assert_eq!(writer.code(insert(2)).await, 0);
    assert_eq!(ids(&reader.receive().await.body), [2]);
    assert_eq!(begun.elapsed().as_millis(), 2000);
    let slow = doc! {"find": "c", "filter": {"$where": "sleep(700) || true"}};
    assert_eq!(ids(&writer.run(slow.clone()).await), [1, 2]);
    let mut limited = slow;
    limited.insert("maxTimeMS", 300);
    assert_eq!(writer.code(limited).await, 50);
    assert_eq!(begun.elapsed().as_millis(), 3000);
}

#[tokio::test(start_paused = true)]
async fn an_isolated_primary_loses_writes_without_a_majority() {
    let network = SimNetwork::new(1);
    network.set_latency(Duration::ZERO, Duration::ZERO);
    let set = Deployment::replica_set("rs").members(3).network(&network);
    let set = set.start().await;
    let connect = async |address| Wire::over(network.connect(address).await.expect("a member"));
    let mut former = connect("m0.test:27017").await;
    let mut next = connect("m1.test:27017").await;
    let session = Session::new();
    let by_majority = |number, id| {
        let mut write = session.write(number, insert(id));
        write.insert("writeConcern", doc! {"w": "majority"});
        write
    };
    assert_eq!(former.code(by_majority(1, 1)).await, 0);
    set.change_set(|set| set.isolate(0));
    set.elect(1);
    assert_eq!(former.code(insert(2)).await, 0);
    let mut limited = by_majority(2, 3);
    limited.insert("writeConcern", doc! {"w": "majority", "wtimeout": 100});
    let reply = former.run(limited).await;
    let concern = reply
        .get_document("writeConcernError")
        .expect("no majority");
    assert_eq!(concern.get_i32("code").unwrap(), 64);
    former.send(by_majority(4, 4), 0).await;
    let early = timeout(Duration::from_secs(5), former.try_receive()).await;
    assert!(early.is_err(), "it waits");
    assert_eq!(next.code(by_majority(3, 5)).await, 0);
    let own = |server: usize| {
        let documents = set.server(server).documents("test.c").into_iter();
        documents
            .map(|one| one.get_i32("_id").unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (own(0), own(1), own(2)),
        (vec![1, 2, 3], vec![1, 5], vec![1, 5])
    );

    set.change_set(|set| set.rejoin(0));
    assert_eq!(code(&former.receive().await.body), 10107);
    assert_eq!((own(0), own(1)), (vec![1, 5], vec![1, 5]));
    // The retry of what was lost is executed, and the retry of what a majority has is not.
    assert_eq!(next.code(by_majority(4, 4)).await, 0);
    let again = next.run(by_majority(4, 4)).await;
    assert!(again.contains_key("retriedStmtIds"), "{again}");
    assert_eq!(own(2), [1, 5, 4]);

    // Without a successor nothing is lost.
    set.change_set(|set| set.isolate(1));
    assert_eq!(next.code(insert(6)).await, 0);
    assert_eq!(own(2), [1, 5, 4]);
    set.change_set(|set| set.rejoin(1));
    assert_eq!(own(2), [1, 5, 4, 6]);
}

#[tokio::test(start_paused = true)]
async fn a_session_expires_after_half_an_hour_without_use() {
    let network = SimNetwork::new(1);
    let set = Deployment::replica_set("rs").members(1).network(&network);
    let set = set.start().await;
    set.insert("test.c", [doc! {"_id": 1, "n": 0}]);
    let mut client = Wire::over(network.connect("m0.test:27017").await.expect("m0"));
    let session = Session::new();
    for (minutes, after) in [(0, 1), (29, 1), (29, 1), (31, 2)] {
        tokio::time::sleep(Duration::from_secs(minutes * 60)).await;
        assert_eq!(client.code(session.write(1, increment(1))).await, 0);
        assert_eq!(counters(&set), [after], "{minutes}");
    }
    assert_eq!(set.server(0).sessions(), 1);
    assert_eq!(
        client
            .code(doc! {"endSessions": [session.lsid.clone()]})
            .await,
        0
    );
    assert_eq!(set.server(0).sessions(), 0);
}
