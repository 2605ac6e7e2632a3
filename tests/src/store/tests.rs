//! The store alone, without a role.

use bson::{Bson, Uuid, doc};

use super::*;

/// Runs commands without a role.
struct Alone {
    store: Store,
    fail_point: FailPoint,
}

impl Alone {
    fn new() -> Self {
        Self {
            store: Store::default(),
            fail_point: FailPoint::default(),
        }
    }

    fn step(&self, command: &Document, waited: u64) -> Step {
        let name = command.keys().next().unwrap().to_ascii_lowercase();
        self.store.run(&Call {
            name: &name,
            database: "db",
            command,
            user: None,
            seat: None,
            fail_point: &self.fail_point,
            waited: Duration::from_millis(waited),
        })
    }

    fn run(&self, command: Document) -> Document {
        match self.step(&command, 0) {
            Ok(Progress::Done(reply)) => reply,
            other => panic!("{command}: {other:?}"),
        }
    }

    fn code(&self, command: Document) -> i32 {
        match self.step(&command, 0) {
            Err(error) => error.into_document().get_i32("code").unwrap(),
            other => panic!("{command}: {other:?}"),
        }
    }
}

fn insert(ids: &[i32]) -> Document {
    let documents = ids.iter().map(|id| Bson::from(doc! {"_id": *id}));
    doc! {"insert": "c", "documents": documents.collect::<Vec<_>>()}
}

fn batch(reply: &Document) -> (Vec<Document>, i64) {
    let cursor = reply.get_document("cursor").unwrap();
    let batch = cursor.get_array("firstBatch");
    let batch = batch.or_else(|_| cursor.get_array("nextBatch")).unwrap();
    let documents = batch.iter().map(|one| one.as_document().unwrap().clone());
    (documents.collect(), cursor.get_i64("id").unwrap())
}

#[test]
fn find_and_modify_returns_the_document_before_or_after() {
    let alone = Alone::new();
    alone.run(insert(&[1, 2]));
    let modify = |fields: Document| {
        let mut command = doc! {"findAndModify": "c"};
        command.extend(fields);
        let reply = alone.run(command);
        let about = reply.get_document("lastErrorObject").unwrap().clone();
        (reply.get("value").unwrap().clone(), about)
    };
    let step = doc! {"$inc": {"n": 1}};
    let (value, about) = modify(doc! {"query": {"_id": 1}, "update": step.clone()});
    assert_eq!(value, doc! {"_id": 1}.into());
    assert_eq!(about, doc! {"n": 1, "updatedExisting": true});
    let (value, _) = modify(doc! {"query": {"_id": 1}, "update": step.clone(), "new": true});
    assert_eq!(value, doc! {"_id": 1, "n": 2}.into());
    let (value, about) = modify(doc! {"query": {"_id": 7}, "update": step.clone()});
    assert_eq!(
        (value, about),
        (Bson::Null, doc! {"n": 0, "updatedExisting": false})
    );
    let upsert = doc! {"query": {"_id": 7}, "update": step, "upsert": true, "fields": {"_id": 0}};
    let (value, about) = modify(upsert);
    let created = doc! {"n": 1, "updatedExisting": false, "upserted": 7};
    assert_eq!((value, about), (Bson::Null, created));
    let (value, about) = modify(doc! {"sort": {"_id": -1}, "remove": true});
    assert_eq!(
        (value, about),
        (doc! {"_id": 7, "n": 1}.into(), doc! {"n": 1})
    );
    assert_eq!(alone.store.documents("db.c", None).len(), 2);
}

#[test]
fn collections_and_indexes_are_listed() {
    let alone = Alone::new();
    let capped = doc! {"create": "c", "capped": true, "size": 4096};
    alone.run(capped.clone());
    alone.run(capped);
    assert_eq!(alone.code(doc! {"create": "c"}), 48);
    let listed = batch(&alone.run(doc! {"listCollections": 1, "filter": {"name": "c"}})).0;
    let options = doc! {"capped": true, "size": 4096};
    assert_eq!(listed[0].get_document("options").unwrap(), &options);
    let index = doc! {"key": {"x": 1}, "name": "x_1"};
    let create = doc! {"createIndexes": "c", "indexes": [index]};
    let counts = doc! {"numIndexesBefore": 1, "numIndexesAfter": 2};
    assert_eq!(alone.run(create), counts);
    let names = || {
        let listed = batch(&alone.run(doc! {"listIndexes": "c"})).0;
        let names = listed
            .iter()
            .map(|one| one.get_str("name").unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(), ["_id_", "x_1"]);
    assert_eq!(alone.code(doc! {"dropIndexes": "c", "index": "y_1"}), 27);
    alone.run(doc! {"dropIndexes": "c", "index": "*"});
    assert_eq!(names(), ["_id_"]);
    assert_eq!(alone.code(doc! {"listIndexes": "other"}), 26);
    let reply = alone.run(doc! {"listDatabases": 1, "nameOnly": true});
    assert_eq!(reply, doc! {"databases": [{"name": "db"}]});
}

#[test]
fn reads_project_and_find_distinct_values() {
    let alone = Alone::new();
    let documents = vec![
        doc! {"_id": 1, "x": [1, 2]},
        doc! {"_id": 2, "x": 2},
        doc! {"_id": 3},
    ];
    alone.run(doc! {"insert": "c", "documents": documents});
    let values = alone.run(doc! {"distinct": "c", "key": "x", "query": {"_id": {"$lt": 3}}});
    assert_eq!(values, doc! {"values": [1, 2]});
    let find = doc! {"find": "c", "filter": {"_id": 2}, "projection": {"_id": 0, "x": 1}};
    assert_eq!(batch(&alone.run(find)).0, [doc! {"x": 2}]);
    let stages = vec![
        doc! {"$match": {"_id": 2}},
        doc! {"$addFields": {"y": "text"}},
        doc! {"$out": "d"},
    ];
    alone.run(doc! {"aggregate": "c", "pipeline": stages, "cursor": {}});
    let written = alone.store.documents("db.d", None);
    assert_eq!(written, [doc! {"_id": 2, "x": 2, "y": "text"}]);
}

#[test]
fn a_tailable_cursor_waits_for_new_documents() {
    let alone = Alone::new();
    assert_eq!(alone.code(doc! {"find": "c", "tailable": true}), 2);
    alone.run(doc! {"create": "c", "capped": true, "size": 4096});
    alone.run(insert(&[1, 2, 3]));
    let find = doc! {"find": "c", "tailable": true, "awaitData": true, "batchSize": 2};
    let (first, id) = batch(&alone.run(find));
    assert_eq!(first.len(), 2);
    let more = doc! {"getMore": id, "collection": "c", "maxTimeMS": 500};
    assert_eq!(batch(&alone.run(more.clone())), (vec![doc! {"_id": 3}], id));
    let waits = |waited| match alone.step(&more, waited) {
        Ok(Progress::Waits(limit)) => limit.as_millis(),
        other => panic!("{other:?}"),
    };
    assert_eq!((waits(0), waits(400)), (500, 100));
    let Ok(Progress::Done(reply)) = alone.step(&more, 500) else {
        panic!("it waits longer than maxTimeMS");
    };
    assert_eq!(batch(&reply), (Vec::new(), id));
    alone.run(insert(&[4]));
    assert_eq!(batch(&alone.run(more)), (vec![doc! {"_id": 4}], id));
}

#[test]
fn a_cursor_belongs_to_its_session_and_collection() {
    let alone = Alone::new();
    alone.run(insert(&[1, 2, 3]));
    let lsid = doc! {"id": Uuid::from_bytes([1; 16])};
    let find = doc! {"find": "c", "batchSize": 1, "lsid": lsid.clone()};
    let id = batch(&alone.run(find)).1;
    let more = |fields: Document| {
        let mut command = doc! {"getMore": id, "batchSize": 1};
        command.extend(fields);
        command
    };
    assert_eq!(alone.code(more(doc! {"collection": "c"})), 50738);
    assert_eq!(
        alone.code(more(doc! {"collection": "d", "lsid": lsid.clone()})),
        13
    );
    let timed = doc! {"collection": "c", "lsid": lsid.clone(), "maxTimeMS": 5};
    assert_eq!(alone.code(more(timed)), 2);
    let own = more(doc! {"collection": "c", "lsid": lsid.clone()});
    assert_eq!(batch(&alone.run(own.clone())).0, [doc! {"_id": 2}]);
    let other = Store::share(&alone.store);
    let other = Alone {
        store: other,
        fail_point: FailPoint::default(),
    };
    assert_eq!(other.code(own), 43);
    assert_eq!(alone.store.sessions(), 1);
    alone.run(doc! {"endSessions": [lsid]});
    assert_eq!(alone.store.sessions(), 0);
}

#[test]
fn a_standalone_has_no_transaction_numbers() {
    let alone = Alone::new();
    let mut write = insert(&[1]);
    write.extend(doc! {"lsid": {"id": Uuid::from_bytes([1; 16])}, "txnNumber": 1_i64});
    assert_eq!(alone.code(write.clone()), 20);
    write.extend(doc! {"autocommit": false, "startTransaction": true});
    assert_eq!(alone.code(write.clone()), 20);
    write.remove("lsid");
    assert_eq!(alone.code(write), 72);
    let snapshot = doc! {"find": "c", "readConcern": {"level": "snapshot"}};
    assert_eq!(alone.code(snapshot), 123);
}

#[test]
fn a_change_stream_tells_of_inserts_and_resumes() {
    let alone = Alone::new();
    let watch = |options: Document| {
        let stage = doc! {"$changeStream": options};
        batch_and_token(&alone.run(doc! {"aggregate": "c", "pipeline": [stage], "cursor": {}}))
    };
    let (first, id, _) = watch(doc! {});
    assert_eq!(first, Vec::<Document>::new());
    let more = |id| {
        let reply = alone.run(doc! {"getMore": id, "collection": "c"});
        let (events, _, token) = batch_and_token(&reply);
        let key = |event: &Document| event.get_document("documentKey").unwrap().get_i32("_id");
        (
            events
                .iter()
                .map(|event| key(event).unwrap())
                .collect::<Vec<_>>(),
            token,
        )
    };
    alone.run(insert(&[1]));
    alone.run(doc! {"insert": "d", "documents": [{"_id": 9}]});
    let (events, token) = more(id);
    assert_eq!(events, [1]);
    alone.run(doc! {"delete": "c", "deletes": [{"q": {}, "limit": 0}]});
    alone.run(insert(&[2, 3]));
    assert_eq!(more(id).0, [2, 3]);
    let resumed = watch(doc! {"resumeAfter": token}).1;
    assert_eq!(more(resumed).0, [2, 3]);
    let waits = alone.step(&doc! {"getMore": id, "collection": "c"}, 0);
    assert!(matches!(waits, Ok(Progress::Waits(_))), "{waits:?}");
}

fn batch_and_token(reply: &Document) -> (Vec<Document>, i64, Document) {
    let (events, id) = batch(reply);
    let cursor = reply.get_document("cursor").unwrap();
    let token = cursor.get_document("postBatchResumeToken").unwrap();
    (events, id, token.clone())
}
