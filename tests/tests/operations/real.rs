//! Operations on the real server.

use mongo_core::bson::{Document, doc};
use mongo_core::operation::{OperationKind, SessionOptions, TransactionOptions};
use mongo_core::pools::{Backend, Pools, Session};
use mongo_testkit::RealServer;
use serde::Deserialize;

macro_rules! on_both_really {
    ($($name:ident),* $(,)?) => {
        on_both_really!(@instance deadpool, mongo_deadpool::Pool, $($name)*);
        on_both_really!(@instance bb8, mongo_bb8::Pool, $($name)*);
    };
    (@instance $module:ident, $backend:ty, $($name:ident)*) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $name() {
                    let run = super::$name::<$backend>(stringify!($module));
                    tokio::time::timeout(crate::support::LIMIT, run).await.expect("in time");
                }
            )*
        }
    };
}

on_both_really! {
    a_large_result_comes_through_a_cursor,
    a_transaction_is_whole_or_absent,
    sessions_end_with_their_pools,
}

#[derive(Deserialize)]
struct Number {
    _id: i32,
}

fn pools<B: Backend<Config: Default>>(server: &RealServer, options: &str) -> Pools<B> {
    let uri = format!("{}{options}", server.uri());
    Pools::new(&uri).expect("pools")
}

async fn insert<B: Backend>(
    pools: &Pools<B>,
    (database, name): (&str, &str),
    documents: Vec<Document>,
) {
    let insert = doc! { "insert": name, "documents": documents };
    let write = pools.command(database, &insert).kind(OperationKind::Write);
    let reply = write.await.expect("a reply");
    reply.check_write().expect("a write");
}

async fn ids<B: Backend>(pools: &Pools<B>, (database, name): (&str, &str)) -> Vec<i32> {
    let find = doc! { "find": name, "sort": { "_id": 1 }, "batchSize": 7 };
    let find = pools.command(database, &find).kind(OperationKind::Read);
    let mut numbers = find.batch_size(50).cursor().await.expect("a cursor");
    let mut ids = Vec::new();
    while let Some(number) = numbers.next::<Number>().await.expect("a number") {
        ids.push(number._id);
    }
    ids
}

async fn a_large_result_comes_through_a_cursor<B: Backend<Config: Default>>(backend: &str) {
    let server = RealServer::shared();
    let pools = pools::<B>(&server, "&w=majority&readConcernLevel=local");
    let (database, name) = (server.database("operations"), format!("large_{backend}"));
    let large = (&*database, &*name);
    let documents = (0..500).map(|id| doc! { "_id": id }).collect();
    insert(&pools, large, documents).await;
    assert_eq!(ids(&pools, large).await, Vec::from_iter(0..500));
    let find = doc! { "find": &name, "batchSize": 2 };
    let numbers = pools
        .command(&database, &find)
        .cursor()
        .await
        .expect("a cursor");
    numbers.close().await;
    pools.close().await;
}

async fn a_transaction_is_whole_or_absent<B: Backend<Config: Default>>(backend: &str) {
    let server = RealServer::shared();
    let pools = pools::<B>(&server, "&w=majority");
    let database = server.database("operations");
    let name = format!("transactions_{backend}");
    let (database, name) = (&*database, &*name);
    insert(&pools, (database, name), vec![doc! { "_id": 0 }]).await;
    let session = pools.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    for (first, is_commit) in [(1, true), (3, false)] {
        session
            .start_transaction(TransactionOptions::default())
            .expect("a transaction");
        for id in [first, first + 1] {
            let insert = doc! { "insert": name, "documents": [{ "_id": id }] };
            let write = pools.command(database, &insert).kind(OperationKind::Write);
            write
                .session(&mut session)
                .await
                .expect("a reply")
                .check_write()
                .expect("a write");
        }
        match is_commit {
            true => session.commit_transaction().await.expect("a commit"),
            false => session.abort_transaction().await.expect("an abort"),
        }
    }
    assert_eq!(ids(&pools, (database, name)).await, [0, 1, 2]);
    let pools = &pools;
    let run = async |session: &mut Session<B>| {
        let insert = doc! { "insert": name, "documents": [{ "_id": 5 }] };
        pools
            .command(database, &insert)
            .session(session)
            .await?
            .check_write()
    };
    let options = TransactionOptions::default();
    session
        .with_transaction(options, run)
        .await
        .expect("a commit");
    assert_eq!(ids(pools, (database, name)).await, [0, 1, 2, 5]);
    session.end().await;
    pools.close().await;
}

async fn sessions_end_with_their_pools<B: Backend<Config: Default>>(_backend: &str) {
    let server = RealServer::shared();
    let pools = pools::<B>(&server, "");
    let session = pools.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    for _ in 0..2 {
        let ping = pools.command("admin", &doc! { "ping": 1 });
        ping.session(&mut session).await.map(drop).expect("a reply");
    }
    assert!(!session.is_dirty());
    drop(session);
    pools.close().await;
}
