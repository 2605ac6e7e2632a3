//! Transfers between accounts while the replica set fails over. Each transfer is a transaction of
//! three writes: it is applied once or not at all, and the balances are checked to the cent.
//!
//! Needs no server: the test kit's embedded replica set is started unless `MONGODB_URI` is set,
//! loses its primary twice, and regains a member. All documents in `bank.accounts` and
//! `bank.transfers` are deleted first.
//!
//! ```sh
//! cargo run --example transaction
//! cargo run --example transaction --no-default-features --features bb8
//! MONGODB_URI='mongodb://localhost/?replicaSet=rs0&w=majority' cargo run --example transaction
//! ```

use std::collections::BTreeMap;

use bson::{Document, doc};
use futures_util::future::try_join_all;
use mongo_examples::Fatal;
// The one line that names a backend: `use mongo_deadpool::…` or `use mongo_bb8::…` in your code.
use mongo_examples::backend::{
    Config, Error, OperationKind, Pools, Session, SessionOptions, TransactionOptions,
};
use mongo_testkit::Deployment;
use serde::Deserialize;
use tokio::sync::watch;

const DATABASE: &str = "bank";
const ACCOUNTS: i64 = 8;
/// The balance of each account at the start, in cents.
const CENTS: i64 = 10_000;
/// How many tasks transfer at the same time.
const TELLERS: i64 = 4;
/// Of each teller.
const TRANSFERS: i64 = 30;

#[tokio::main]
async fn main() -> Result<(), Fatal> {
    let (uri, embedded) = match std::env::var("MONGODB_URI") {
        Ok(uri) => (uri, None),
        Err(_) => {
            let set = Deployment::replica_set("embedded").members(3).start().await;
            // A commit is acknowledged once a majority has it: no failover can undo it.
            (format!("{}&w=majority", set.uri()), Some(set))
        }
    };
    let pools = Config::from_url(uri).create_pools()?;
    open_accounts(&pools).await?;

    let (progress, watch) = watch::channel(0);
    let tellers = (0..TELLERS).map(|teller| serve(&pools, teller, &progress));
    let failover = async {
        match &embedded {
            Some(set) => fail_over(set, watch).await,
            None => Ok(()),
        }
    };
    let (done, ()) = tokio::try_join!(async { Ok(try_join_all(tellers).await?) }, failover)?;
    let made: usize = done.iter().map(|done| done.made).sum();
    let refused: usize = done.iter().map(|done| done.refused).sum();
    let repeated: usize = done.iter().map(|done| done.repeated).sum();
    println!("{made} transfers, {refused} refused, {repeated} repeated after an error");

    check(&pools, made).await?;
    pools.close().await;
    if let Some(set) = embedded {
        set.shutdown().await;
    }
    Ok(())
}

/// What a teller has done.
#[derive(Default)]
struct Done {
    made: usize,
    /// The account had too little.
    refused: usize,
    repeated: usize,
}

/// Makes a teller's transfers, one after the other.
async fn serve(pools: &Pools, teller: i64, progress: &watch::Sender<usize>) -> Result<Done, Error> {
    let mut session = pools.start_session(SessionOptions::default())?;
    let mut done = Done::default();
    for number in 0..TRANSFERS {
        let transfer = Transfer {
            id: teller * TRANSFERS + number,
            from: (3 * teller + number) % ACCOUNTS,
            to: (3 * teller + number + 1 + number % (ACCOUNTS - 1)) % ACCOUNTS,
            cents: 1 + 1_237 * (teller + number) % 4_999,
        };
        let mut runs = 0;
        let is_made = session
            .with_transaction(TransactionOptions::default(), async |session| {
                runs += 1;
                transfer.make(pools, session).await
            })
            .await?;
        match is_made {
            true => done.made += 1,
            false => done.refused += 1,
        }
        done.repeated += runs - 1;
        progress.send_modify(|count| *count += 1);
    }
    Ok(done)
}

#[derive(Deserialize)]
struct Transfer {
    #[serde(rename = "_id")]
    id: i64,
    from: i64,
    to: i64,
    cents: i64,
}

impl Transfer {
    /// Returns whether the account had enough. Errors end the transaction, and are returned, so that
    /// `with_transaction` can run it again.
    async fn make(&self, pools: &Pools, session: &mut Session) -> Result<bool, Error> {
        let has_enough = doc! { "_id": self.from, "cents": { "$gte": self.cents } };
        if add(pools, session, has_enough, -self.cents).await? == 0 {
            session.abort_transaction().await?;
            return Ok(false);
        }
        add(pools, session, doc! { "_id": self.to }, self.cents).await?;
        let entry = doc! {
            "_id": self.id, "from": self.from, "to": self.to, "cents": self.cents
        };
        let insert = doc! { "insert": "transfers", "documents": [entry] };
        let insert = pools.command(DATABASE, &insert).kind(OperationKind::Write);
        insert.session(session).await?.check_write()?;
        Ok(true)
    }
}

/// Adds to the balance of an account, and returns how many accounts matched.
async fn add(
    pools: &Pools,
    session: &mut Session,
    account: Document,
    cents: i64,
) -> Result<u64, Error> {
    #[derive(Deserialize)]
    struct Updated {
        n: u64,
    }
    let update = doc! { "q": account, "u": { "$inc": { "cents": cents } } };
    let update = doc! { "update": "accounts", "updates": [update] };
    let update = pools.command(DATABASE, &update).kind(OperationKind::Write);
    let reply = update.session(session).await?;
    reply.check_write()?;
    let updated: Updated = reply.deserialize()?;
    Ok(updated.n)
}

async fn open_accounts(pools: &Pools) -> Result<(), Error> {
    for collection in ["accounts", "transfers"] {
        let delete = doc! { "delete": collection, "deletes": [{ "q": {}, "limit": 0 }] };
        // A write that affects many documents can't be retried after an error.
        let delete = pools
            .command(DATABASE, &delete)
            .kind(OperationKind::Write)
            .not_retryable();
        delete.await?.check_write()?;
    }
    let accounts = (0..ACCOUNTS).map(|id| doc! { "_id": id, "cents": CENTS });
    let insert = doc! { "insert": "accounts", "documents": accounts.collect::<Vec<Document>>() };
    let insert = pools.command(DATABASE, &insert).kind(OperationKind::Write);
    insert.await?.check_write()
}

/// A step-down and an election, a kill of the primary and an election, a restart.
async fn fail_over(set: &Deployment, mut progress: watch::Receiver<usize>) -> Result<(), Fatal> {
    progress.wait_for(|count| *count >= 20).await?;
    set.step_down(0);
    set.elect(1);
    println!("the primary steps down, and member 1 is elected");
    progress.wait_for(|count| *count >= 60).await?;
    set.kill(1).await;
    set.elect(2);
    println!("the primary dies, and member 2 is elected");
    progress.wait_for(|count| *count >= 100).await?;
    set.restart(1).await;
    println!("member 1 is back");
    Ok(())
}

/// Compares the balances with the transfers.
async fn check(pools: &Pools, made: usize) -> Result<(), Fatal> {
    #[derive(Deserialize)]
    struct Account {
        #[serde(rename = "_id")]
        id: i64,
        cents: i64,
    }
    let mut expected: BTreeMap<i64, i64> = (0..ACCOUNTS).map(|id| (id, CENTS)).collect();
    let find = pools.command(DATABASE, &doc! { "find": "transfers" });
    let mut transfers = find.kind(OperationKind::Read).cursor().await?;
    let mut count = 0;
    while let Some(transfer) = transfers.next::<Transfer>().await? {
        count += 1;
        *expected.entry(transfer.from).or_default() -= transfer.cents;
        *expected.entry(transfer.to).or_default() += transfer.cents;
    }
    let find = pools.command(DATABASE, &doc! { "find": "accounts" });
    let mut accounts = find.kind(OperationKind::Read).cursor().await?;
    let mut balances = BTreeMap::new();
    while let Some(account) = accounts.next::<Account>().await? {
        println!(
            "account {}: {:>4}.{:02}",
            account.id,
            account.cents / 100,
            account.cents % 100
        );
        balances.insert(account.id, account.cents);
    }
    let total: i64 = balances.values().sum();
    println!("total: {}.{:02}", total / 100, total % 100);
    if count != made || balances != expected || total != ACCOUNTS * CENTS {
        let text = format!("{count} of {made} transfers in the books; expected {expected:?}");
        return Err(std::io::Error::other(text).into());
    }
    println!("all balances are right");
    Ok(())
}
