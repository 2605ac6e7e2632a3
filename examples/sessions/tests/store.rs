//! The store, on the test kit's servers and on a real one.

use bson::{Document, doc};
use mongo_example_sessions::MongoStore;
use mongo_example_sessions::backend::{OperationKind, Pools};
use mongo_testkit::{Action, Deployment, Matcher, RealServer};
use serde_json::json;
use time::{Duration, OffsetDateTime};
use tower_sessions::session::{Id, Record};
use tower_sessions::{ExpiredDeletion, SessionStore};

fn store(url: &str, database: &str, collection: &str) -> (MongoStore, Pools) {
    let pools = Pools::new(url).expect("a URL");
    (MongoStore::new(pools.clone(), database, collection), pools)
}

fn record(id: i128, user: &str, expires_in: Duration) -> Record {
    let value = json!({
        "name": user, "n": 7_000_000_000_i64, "x": 0.5, "none": null, "a.b": ["c", { "d": true }]
    });
    Record {
        id: Id(id),
        data: [("user".to_owned(), value)].into(),
        expiry_date: OffsetDateTime::now_utc() + expires_in,
    }
}

/// Loads a session and compares it, except for what its time has below milliseconds.
async fn is_stored(store: &MongoStore, record: &Record) -> bool {
    let Some(loaded) = store.load(&record.id).await.expect("it loads") else {
        return false;
    };
    let apart = (loaded.expiry_date - record.expiry_date).abs();
    assert!(apart < Duration::milliseconds(1), "{apart}");
    assert_eq!((loaded.id, &loaded.data), (record.id, &record.data));
    true
}

async fn all_documents(pools: &Pools, database: &str, collection: &str) -> Vec<Document> {
    let find = doc! { "find": collection };
    let find = pools.command(database, &find).kind(OperationKind::Read);
    let mut found = find.cursor().await.expect("a cursor");
    let mut all = Vec::new();
    while let Some(document) = found.next().await.expect("a batch") {
        all.push(document);
    }
    all
}

async fn keeps_sessions(url: &str, database: &str) {
    let (store, pools) = store(url, database, "kept");
    for _ in 0..2 {
        store.create_index().await.expect("an index");
    }
    let indexes = pools.command(database, &doc! { "listIndexes": "kept" });
    let mut indexes = indexes.cursor().await.expect("indexes");
    let mut bounds = Vec::new();
    while let Some(index) = indexes.next::<Document>().await.expect("a batch") {
        bounds.extend(index.get("expireAfterSeconds").cloned());
    }
    let seconds: Vec<_> = bounds.iter().map(|bound| bound.as_i32()).collect();
    assert_eq!(seconds, [Some(0)], "{bounds:?}");

    let mut first = record(1, "first", Duration::hours(1));
    store.create(&mut first).await.expect("a session");
    assert_eq!(first.id, Id(1));
    assert!(is_stored(&store, &first).await);

    // A session of the same id gets another one.
    let mut second = record(1, "second", Duration::hours(1));
    store.create(&mut second).await.expect("a session");
    assert_ne!(second.id, Id(1));
    assert!(is_stored(&store, &first).await && is_stored(&store, &second).await);

    first.data.insert("more".to_owned(), json!("text"));
    first.expiry_date += Duration::hours(1);
    store.save(&first).await.expect("it is saved");
    assert!(is_stored(&store, &first).await && is_stored(&store, &second).await);

    store.delete(&first.id).await.expect("it is deleted");
    store.delete(&first.id).await.expect("it may be absent");
    // A request that was in flight during the logout.
    store.save(&first).await.expect("it is ignored");
    assert!(!is_stored(&store, &first).await && is_stored(&store, &second).await);

    let mut expired = record(3, "expired", Duration::seconds(-1));
    store.create(&mut expired).await.expect("a session");
    assert!(!is_stored(&store, &expired).await);
    assert_eq!(all_documents(&pools, database, "kept").await.len(), 2);
    store.delete_expired().await.expect("it is deleted");
    let left = all_documents(&pools, database, "kept").await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(is_stored(&store, &second).await);
    pools.close().await;
}

#[tokio::test]
async fn sessions_are_kept() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    keeps_sessions(&set.uri(), "web").await;
    // The retry on a duplicate key is one more insert, and no transaction.
    set.server(0).look(|seen| {
        assert_eq!(seen.count("insert"), 4);
        assert_eq!(seen.count("commitTransaction"), 0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_kept_on_a_real_server() {
    let server = RealServer::shared();
    keeps_sessions(&server.uri(), &server.database("web")).await;
}

#[tokio::test]
async fn duplicate_keys_have_an_end() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let (store, _pools) = store(&set.uri(), "web", "sessions");
    let error = doc! { "index": 0, "code": 11000, "errmsg": "E11000 duplicate key" };
    let reply = doc! { "ok": 1, "n": 0, "writeErrors": [error] };
    let insert = Matcher::command("insert").then(Action::Reply(reply));
    set.server(0).script().add(insert);
    let mut record = record(1, "first", Duration::hours(1));
    let error = store.create(&mut record).await.expect_err("no id is free");
    assert!(error.to_string().contains("exist already"), "{error}");
    assert_eq!(set.server(0).look(|seen| seen.count("insert")), 3);
}

#[tokio::test]
async fn a_lost_reply_does_not_make_a_second_session() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let url = format!("{}&heartbeatFrequencyMS=500", set.uri());
    let (store, _pools) = store(&url, "web", "sessions");
    let insert = Matcher::command("insert").once();
    let lost = insert.then(Action::NoReply).then(Action::Close);
    set.server(0).script().add(lost);
    let mut record = record(1, "first", Duration::hours(1));
    store.create(&mut record).await.expect("a session");
    assert_eq!(record.id, Id(1));
    assert!(is_stored(&store, &record).await);
    assert_eq!(set.documents("web.sessions").len(), 1);
    assert_eq!(set.server(0).look(|seen| seen.count("insert")), 2);
}
