//! Exports a large collection through a cursor. A slow consumer holds the export back, so that only
//! a batch or two are in memory. The same collection is then read as a `Stream`.
//!
//! Needs no server: the test kit's embedded replica set is started unless `MONGODB_URI` is set. All
//! documents in `export.orders` are deleted first.
//!
//! ```sh
//! cargo run --example cursor
//! cargo run --example cursor --no-default-features --features bb8
//! MONGODB_URI='mongodb://localhost/?replicaSet=rs0' cargo run --example cursor
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc};
use futures_util::{StreamExt, TryStreamExt};
use mongo_core::event::{CommandEvent, EventHandlers};
use mongo_examples::Fatal;
// The one line that names a backend: `use mongo_deadpool::…` or `use mongo_bb8::…` in your code.
use mongo_examples::backend::{
    Config, Cursor, Error, OperationKind, Pools, ReadPreference, ReadPreferenceMode,
};
use mongo_testkit::Deployment;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

const DATABASE: &str = "export";
const ORDERS: i64 = 2_000;
/// Documents in a batch. The default is up to 16 MiB of them.
const BATCH: u32 = 50;
/// How many bytes may wait for the consumer.
const BUFFER: usize = 1024;

#[derive(Deserialize)]
struct Order {
    #[serde(rename = "_id")]
    id: i64,
    customer: String,
    cents: i64,
}

#[tokio::main]
async fn main() -> Result<(), Fatal> {
    let (uri, embedded) = match std::env::var("MONGODB_URI") {
        Ok(uri) => (uri, None),
        Err(_) => {
            let set = Deployment::replica_set("embedded").members(3).start().await;
            (set.uri(), Some(set))
        }
    };
    let load = Load::default();
    let pools = Config::from_url(uri)
        .pools_builder()?
        .event_handlers(load.handlers())
        .build()?;
    fill(&pools).await?;

    let (writer, reader) = tokio::io::duplex(BUFFER);
    let (exported, received) =
        tokio::try_join!(export(&pools, &load, writer), consume(&load, reader))?;
    println!("exported {exported}, received {received} cents");
    let most = load.most.load(Ordering::Relaxed);
    println!("at most {most} orders were in memory");

    println!("as a stream: {} cents", total(&pools).await?);

    // The stream and its cursor are dropped early: the background closes the server's cursor.
    let first: Vec<RawDocumentBuf> = open(&pools).await?.take(3).try_collect().await?;
    println!("the first {} alone", first.len());
    pools.close().await;
    if let Some(set) = embedded {
        let open = (0..set.len()).map(|member| set.server(member).open_cursors());
        println!("cursors left on the servers: {}", open.sum::<usize>());
        set.shutdown().await;
    }
    Ok(())
}

/// Fills the collection.
async fn fill(pools: &Pools) -> Result<(), Error> {
    // A write that affects many documents can't be retried after an error.
    let delete = doc! { "delete": "orders", "deletes": [{ "q": {}, "limit": 0 }] };
    let delete = pools
        .command(DATABASE, &delete)
        .kind(OperationKind::Write)
        .not_retryable();
    delete.await?.check_write()?;
    let ids: Vec<i64> = (0..ORDERS).collect();
    for ids in ids.chunks(500) {
        let orders = ids.iter().map(
            |id| doc! { "_id": *id, "customer": format!("customer {}", id % 97), "cents": id % 1000 },
        );
        let insert = doc! { "insert": "orders", "documents": orders.collect::<Vec<Document>>() };
        let insert = pools.command(DATABASE, &insert).kind(OperationKind::Write);
        insert.await?.check_write()?;
    }
    Ok(())
}

/// A cursor over all orders. It has no time limit as a whole; `timeoutMS` in the connection string,
/// or `timeout`, would be one, unless `timeout_mode` is `TimeoutMode::Iteration`.
async fn open(pools: &Pools) -> Result<Cursor<'static>, Error> {
    let secondary = ReadPreference::new(ReadPreferenceMode::SecondaryPreferred);
    // The command has the size of the first batch, and the builder that of all others.
    let find = doc! { "find": "orders", "batchSize": BATCH };
    pools
        .command(DATABASE, &find)
        .kind(OperationKind::Read)
        .read_preference(secondary)
        .batch_size(BATCH)
        .cursor()
        .await
}

/// Writes each order as a line. While the consumer's buffer is full, the write waits, and no batch
/// is requested.
async fn export(pools: &Pools, load: &Load, mut writer: DuplexStream) -> Result<i64, Fatal> {
    let mut orders = open(pools).await?;
    let (mut count, mut cents) = (0, 0);
    while let Some(order) = orders.next::<Order>().await? {
        let line = format!("{},{},{}\n", order.id, order.customer, order.cents);
        writer.write_all(line.as_bytes()).await?;
        (count, cents) = (count + 1, cents + order.cents);
        if count % (ORDERS / 10) == 0 {
            let percent = 100 * count / ORDERS;
            println!("{percent:>3} %, {:>4} orders in memory", load.waiting());
        }
    }
    Ok(cents)
}

/// Receives the lines slowly, and sums up their cents.
async fn consume(load: &Load, reader: DuplexStream) -> Result<i64, Fatal> {
    let mut lines = BufReader::with_capacity(BUFFER, reader).lines();
    let mut cents = 0;
    while let Some(line) = lines.next_line().await? {
        let (_, last) = line.rsplit_once(',').unwrap_or_default();
        cents += last.parse::<i64>()?;
        let received = load.received.fetch_add(1, Ordering::Relaxed);
        if received.is_multiple_of(10) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(cents)
}

/// The same sum by a `Stream`, whose items are raw documents.
async fn total(pools: &Pools) -> Result<i64, Fatal> {
    let orders = open(pools).await?.map_err(Fatal::from);
    let sum = async |sum, order: RawDocumentBuf| Ok(sum + order.get_i64("cents")?);
    orders.try_fold(0, sum).await
}

/// Counts the orders between the server and the consumer.
#[derive(Clone, Default)]
struct Load {
    fetched: Arc<AtomicUsize>,
    received: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Load {
    /// The orders that were fetched and not received yet.
    fn waiting(&self) -> usize {
        let received = self.received.load(Ordering::Relaxed);
        self.fetched
            .load(Ordering::Relaxed)
            .saturating_sub(received)
    }

    fn handlers(&self) -> EventHandlers {
        let load = self.clone();
        EventHandlers::new().on_command(move |event| {
            if let CommandEvent::Succeeded(event) = event
                && let Some(orders) = batch_length(&event.reply)
            {
                load.fetched.fetch_add(orders, Ordering::Relaxed);
                load.most.fetch_max(load.waiting(), Ordering::Relaxed);
            }
        })
    }
}

/// The number of documents in a reply with a batch of a cursor.
fn batch_length(reply: &RawDocumentBuf) -> Option<usize> {
    let cursor = reply.get_document("cursor").ok()?;
    let batch = cursor.get_array("firstBatch");
    let batch = batch.or_else(|_| cursor.get_array("nextBatch")).ok()?;
    Some(batch.into_iter().count())
}
