//! The official `mongodb` crate and PyMongo run cursors, sessions, retried writes and transactions
//! on deployments. Nothing is skipped: if PyMongo is missing, the test fails with instructions.

use std::time::Duration;

use bson::doc;
use futures_util::TryStreamExt;
use mongo_testkit::{Authority, Deployment, RealServer, Seen, ServerTls, User};
use mongodb::bson::{Document, doc as their_doc};
use mongodb::error::Result;
use mongodb::options::{
    Acknowledgment, ClientOptions, CursorType, ReadPreference, ReturnDocument, SelectionCriteria,
    SessionOptions, WriteConcern,
};
use mongodb::{Client, ClientSession, Collection};
use tokio::time::timeout;

use crate::foreign::pymongo;
use crate::members::{Members, over_both};

/// The time limit for a client.
const BOUND: Duration = Duration::from_secs(30);

over_both! {
    official_crate_runs_transactions_on_every_topology,
    pymongo_runs_transactions_on_every_topology,
    official_crate_runs_cursors_on_every_topology,
    pymongo_runs_cursors_on_every_topology,
    official_crate_retries_writes_that_a_fail_point_spoils,
    pymongo_retries_writes_that_a_fail_point_spoils,
    official_crate_reads_its_own_writes,
    pymongo_reads_its_own_writes,
    official_crate_repeats_a_transaction_after_a_failover,
}

async fn replica_set(members: Members) -> Deployment {
    members
        .start(Deployment::replica_set("rs").members(3))
        .await
}

/// One deployment of each topology with sessions.
async fn every_topology(members: Members) -> [Deployment; 3] {
    [
        replica_set(members).await,
        members.start(Deployment::sharded(2)).await,
        members.start(Deployment::load_balanced(2)).await,
    ]
}

async fn official(uri: &str) -> Client {
    let mut options = ClientOptions::parse(uri).await.expect("a valid URI");
    options.app_name = Some("official".to_owned());
    options.server_selection_timeout = Some(Duration::from_secs(10));
    Client::with_options(options).expect("a client")
}

/// Runs a check with the official crate, and ends its sessions.
async fn with_official<F>(deployment: &Deployment, check: impl FnOnce(Client) -> F)
where
    F: Future<Output = Result<()>>,
{
    let uri = deployment.uri();
    let client = official(&uri).await;
    let outcome = timeout(BOUND, check(client.clone())).await;
    let outcome = outcome.unwrap_or_else(|_| panic!("over {BOUND:?} with {uri}"));
    outcome.unwrap_or_else(|error| panic!("{uri}: {error}"));
    timeout(BOUND, client.shutdown()).await.expect("an end");
    is_clean(deployment);
}

/// Nothing is left of a client's work.
fn is_clean(deployment: &Deployment) {
    for server in 0..deployment.len() {
        let server = deployment.server(server);
        assert_eq!(server.open_cursors(), 0);
        assert_eq!(server.open_transactions(), 0);
        let errors = server.look(|seen| seen.protocol_errors.clone());
        assert_eq!(errors, [""; 0]);
    }
}

fn count(deployment: &Deployment, name: &str) -> u64 {
    let count = |server| {
        deployment
            .server(server)
            .look(|seen: &Seen| seen.count(name))
    };
    (0..deployment.len()).map(count).sum()
}

fn numbers(client: &Client) -> Collection<Document> {
    client.database("kit").collection("numbers")
}

fn balances(deployment: &Deployment) -> Vec<i32> {
    let documents = deployment.documents("kit.numbers").into_iter();
    documents.map(|one| one.get_i32("n").unwrap_or(0)).collect()
}

async fn add(
    numbers: &Collection<Document>,
    session: &mut ClientSession,
    id: i32,
    step: i32,
) -> Result<()> {
    let update = numbers.update_one(their_doc! {"_id": id}, their_doc! {"$inc": {"n": step}});
    let done = update.session(session).await?;
    assert_eq!(done.modified_count, 1);
    Ok(())
}

async fn transfer(session: &mut ClientSession, numbers: &Collection<Document>) -> Result<()> {
    add(numbers, session, 1, -30).await?;
    add(numbers, session, 2, 30).await
}

async fn official_crate_runs_transactions_on_every_topology(members: Members) {
    for deployment in every_topology(members).await {
        deployment.insert(
            "kit.numbers",
            [doc! {"_id": 1, "n": 100}, doc! {"_id": 2, "n": 0}],
        );
        with_official(&deployment, |client| async move {
            let numbers = numbers(&client);
            let mut session = client.start_session().await?;
            let start = session.start_transaction();
            let work = async |session: &mut ClientSession| transfer(session, &numbers).await;
            start.and_run2(work).await?;
            session.start_transaction().await?;
            transfer(&mut session, &numbers).await?;
            session.abort_transaction().await?;

            // A rival's write makes it run again.
            let mut attempts = 0;
            let start = session.start_transaction();
            let work = async |session: &mut ClientSession| {
                attempts += 1;
                contested(session, &numbers, attempts).await
            };
            start.and_run2(work).await?;
            Ok(())
        })
        .await;
        assert_eq!(balances(&deployment), [72, 30], "{}", deployment.uri());
        // The conflict's too.
        assert_eq!(count(&deployment, "abortTransaction"), 2);
        let ended = count(&deployment, "endSessions");
        assert!(ended >= 1, "{ended} endSessions");
    }
}

async fn contested(
    session: &mut ClientSession,
    numbers: &Collection<Document>,
    attempt: u32,
) -> Result<()> {
    let find = numbers.find_one(their_doc! {"_id": 1});
    find.session(&mut *session).await?;
    if attempt == 1 {
        let step = their_doc! {"$inc": {"n": 1}};
        numbers.update_one(their_doc! {"_id": 1}, step).await?;
    }
    add(numbers, session, 1, 1).await?;
    assert!(attempt > 1, "the first attempt conflicts");
    Ok(())
}

async fn pymongo_runs_transactions_on_every_topology(members: Members) {
    for deployment in every_topology(members).await {
        pymongo("transactions", &deployment.uri(), &[]).await;
        is_clean(&deployment);
        assert_eq!(balances(&deployment), [72, 30, 1]);
    }
}

async fn official_crate_runs_cursors_on_every_topology(members: Members) {
    let deployments = [
        replica_set(members).await,
        // Version 3.9.1 sends the killCursors of a dropped cursor to any mongos.
        members.start(Deployment::sharded(1)).await,
        members.start(Deployment::load_balanced(2)).await,
    ];
    for deployment in deployments {
        deployment.insert("kit.numbers", (0..20).map(|n| doc! {"_id": n}));
        let shared = &deployment;
        with_official(&deployment, |client| async move {
            let numbers = numbers(&client);
            let find = numbers.find(their_doc! {}).batch_size(3).await?;
            assert_eq!(find.try_collect::<Vec<_>>().await?.len(), 20);
            let stages = [their_doc! {"$match": {"_id": {"$gt": 4}}}];
            let aggregate = numbers.aggregate(stages).batch_size(4).await?;
            assert_eq!(aggregate.try_collect::<Vec<_>>().await?.len(), 15);
            let update = their_doc! {"$set": {"x": 5}};
            let modify = numbers.find_one_and_update(their_doc! {"_id": 1}, update);
            let modified = modify.return_document(ReturnDocument::After).await?;
            assert_eq!(modified, Some(their_doc! {"_id": 1, "x": 5}));
            assert_eq!(numbers.distinct("x", their_doc! {}).await?.len(), 1);
            assert_eq!(numbers.list_index_names().await?, ["_id_"]);

            let database = client.database("kit");
            let create = database.create_collection("capped");
            create.capped(true).size(4096).await?;
            let capped: Collection<Document> = database.collection("capped");
            capped.insert_one(their_doc! {"_id": 1}).await?;
            let tail = capped
                .find(their_doc! {})
                .cursor_type(CursorType::TailableAwait);
            let mut tail = tail.max_await_time(Duration::from_millis(50)).await?;
            assert_eq!(tail.try_next().await?, Some(their_doc! {"_id": 1}));
            let insert = async { capped.insert_one(their_doc! {"_id": 2}).await };
            let (next, inserted) = tokio::join!(tail.try_next(), insert);
            inserted?;
            assert_eq!(next?, Some(their_doc! {"_id": 2}));
            drop(tail);
            // Its killCursors has no other sign of its end.
            let open = || {
                let open = |server| shared.server(server).open_cursors();
                (0..shared.len()).map(open).sum::<usize>()
            };
            let killed = async {
                while open() > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(BOUND, killed).await.expect("killCursors");
            Ok(())
        })
        .await;
    }
}

async fn pymongo_runs_cursors_on_every_topology(members: Members) {
    for deployment in every_topology(members).await {
        pymongo("cursors", &deployment.uri(), &[]).await;
        is_clean(&deployment);
        assert_eq!(count(&deployment, "killCursors"), 2);
    }
}

async fn official_crate_retries_writes_that_a_fail_point_spoils(members: Members) {
    let set = replica_set(members).await;
    set.insert("kit.numbers", [doc! {"_id": 1, "n": 0}]);
    with_official(&set, |client| async move {
        let numbers = numbers(&client);
        for code in [None, Some(1)] {
            let mut data = their_doc! {};
            data.extend(code.map(|code| ("failBeforeCommitExceptionCode".to_owned(), code.into())));
            let point = their_doc! {
                "configureFailPoint": "onPrimaryTransactionalWrite",
                "mode": {"times": 1},
                "data": data,
            };
            client.database("admin").run_command(point).await?;
            let step = their_doc! {"$inc": {"n": 1}};
            let update = numbers.update_one(their_doc! {"_id": 1}, step).await?;
            assert_eq!(update.modified_count, 1);
        }
        Ok(())
    })
    .await;
    assert_eq!(balances(&set), [2]);
    assert_eq!(count(&set, "update"), 4, "each is sent twice");
}

async fn pymongo_retries_writes_that_a_fail_point_spoils(members: Members) {
    let set = replica_set(members).await;
    pymongo("lost-replies", &set.uri(), &[]).await;
    assert_eq!(balances(&set), [2]);
    assert_eq!(count(&set, "update"), 4, "each is sent twice");
}

async fn official_crate_reads_its_own_writes(members: Members) {
    let set = replica_set(members).await;
    with_official(&set, |client| async move {
        let numbers = numbers(&client);
        let options = SessionOptions::builder().causal_consistency(true).build();
        let mut session = client.start_session().with_options(options).await?;
        let anywhere =
            SelectionCriteria::ReadPreference(ReadPreference::Secondary { options: None });
        for id in 0..5 {
            let majority = WriteConcern::builder().w(Acknowledgment::Majority).build();
            let insert = numbers.insert_one(their_doc! {"_id": id});
            insert.write_concern(majority).session(&mut session).await?;
            let find = numbers.find_one(their_doc! {"_id": id});
            let find = find.selection_criteria(anywhere.clone());
            assert!(find.session(&mut session).await?.is_some());
        }
        assert!(session.cluster_time().is_some());
        Ok(())
    })
    .await;
    let after = |seen: &Seen| {
        let finds = seen.commands("find").filter(|find| {
            let concern = find.command.get_document("readConcern");
            concern.is_ok_and(|concern| concern.contains_key("afterClusterTime"))
        });
        finds.count()
    };
    let read: usize = (0..3).map(|server| set.server(server).look(after)).sum();
    assert_eq!(read, 5);
}

async fn pymongo_reads_its_own_writes(members: Members) {
    let set = replica_set(members).await;
    pymongo("causality", &set.uri(), &[]).await;
    is_clean(&set);
}

async fn official_crate_repeats_a_transaction_after_a_failover(members: Members) {
    let set = replica_set(members).await;
    set.insert(
        "kit.numbers",
        [doc! {"_id": 1, "n": 100}, doc! {"_id": 2, "n": 0}],
    );
    let shared = &set;
    with_official(&set, |client| async move {
        let mut session = client.start_session().await?;
        let mut attempts = 0;
        let start = session.start_transaction();
        start
            .and_run2(async |session: &mut ClientSession| {
                attempts += 1;
                let numbers = numbers(&client);
                add(&numbers, session, 1, -30).await?;
                if attempts == 1 {
                    shared.elect(1);
                }
                add(&numbers, session, 2, 30).await
            })
            .await?;
        assert!(attempts > 1);
        Ok(())
    })
    .await;
    assert_eq!(balances(&set), [70, 30]);
}

#[tokio::test]
async fn both_clients_read_snapshots() {
    let set = replica_set(Members::Scripted).await;
    pymongo("snapshot", &set.uri(), &[]).await;
    let set = replica_set(Members::Scripted).await;
    set.insert("kit.numbers", [doc! {"_id": 1, "n": 1}]);
    with_official(&set, |client| async move {
        let numbers = numbers(&client);
        let options = SessionOptions::builder().snapshot(true).build();
        let mut session = client.start_session().with_options(options).await?;
        for _ in 0..3 {
            let find = numbers
                .find_one(their_doc! {"_id": 1})
                .session(&mut session);
            assert_eq!(find.await?, Some(their_doc! {"_id": 1, "n": 1}));
            let step = their_doc! {"$inc": {"n": 1}};
            numbers.update_one(their_doc! {"_id": 1}, step).await?;
        }
        Ok(())
    })
    .await;
    assert_eq!(balances(&set), [4]);
}

#[tokio::test]
async fn both_clients_use_tls_and_users_of_the_real_server() {
    let authority = Authority::new();
    let file = std::env::temp_dir().join(format!("mongo-testkit-{}.pem", std::process::id()));
    std::fs::write(&file, authority.pem()).expect("write the authority's certificate");
    let real = RealServer::builder()
        .user(User::new("app", "pencil"))
        .start();
    let set = Deployment::replica_set("rs").members(2);
    let set = set
        .tls(ServerTls::new(authority.server()))
        .backed_by(real)
        .start()
        .await;
    let uri = format!(
        "{}&tls=true&tlsCAFile={}",
        set.uri_for("app", "pencil"),
        file.display()
    );
    pymongo("transactions", &uri, &[]).await;
    let client = official(&uri).await;
    let insert = numbers(&client);
    let insert = timeout(BOUND, async {
        insert.insert_one(their_doc! {"_id": 9}).await
    })
    .await;
    insert.expect("in time").expect("an insert");
    std::fs::remove_file(&file).expect("remove the certificate");
    is_clean(&set);
}
