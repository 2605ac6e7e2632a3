//! After: on `Pools` of `mongo-bb8` or `mongo-deadpool`.

use bson::doc;
use serde::Serialize;

use crate::Order;
use crate::backend::mongo_core::Result;
use crate::backend::{OperationKind, Pools, SessionOptions, TransactionOptions};

const DATABASE: &str = "shop";

#[derive(Serialize)]
struct Insert<'o> {
    insert: &'static str,
    documents: [&'o Order; 1],
}

impl<'o> Insert<'o> {
    fn orders(documents: [&'o Order; 1]) -> Self {
        Self {
            insert: "orders",
            documents,
        }
    }
}

/// One topology with one set of monitors, and a pool for each server. A clone is cheap.
#[derive(Clone)]
pub struct Shop {
    pools: Pools,
}

impl Shop {
    /// Connects: a wrong password is an error here, at once. Without `verify` it is the error of the
    /// first operation, as soon.
    ///
    /// # Errors
    /// The connection string can't be used, or there is no connection.
    pub async fn connect(uri: &str) -> Result<Self> {
        // `maxPoolSize` and the other options apply; there is no second configuration.
        let pools = Pools::new(uri)?;
        pools.verify().await?;
        Ok(Self { pools })
    }

    /// Inserts an order. A command is any value that serializes to a document. `Write` applies the
    /// write concern of the connection string and retries; `check_write` gives the error of a
    /// duplicate key.
    ///
    /// # Errors
    /// `mongo_core`'s.
    pub async fn add(&self, order: &Order) -> Result<()> {
        let insert = self.pools.command(DATABASE, &Insert::orders([order]));
        insert.kind(OperationKind::Write).await?.check_write()
    }

    /// The open orders, by the batches of a cursor. `Read` stands for the read concern and the read
    /// preference of the connection string, and for the retry.
    ///
    /// # Errors
    /// `mongo_core`'s.
    pub async fn open(&self) -> Result<Vec<Order>> {
        let find = doc! { "find": "orders", "filter": { "paid": false }, "sort": { "_id": 1 } };
        let find = self
            .pools
            .command(DATABASE, &find)
            .kind(OperationKind::Read);
        let mut cursor = find.cursor().await?;
        let mut orders = Vec::new();
        while let Some(order) = cursor.next().await? {
            orders.push(order);
        }
        Ok(orders)
    }

    /// Marks an order as paid, with a payment, in a transaction, which is run again after a
    /// transient error.
    ///
    /// # Errors
    /// `mongo_core`'s.
    pub async fn pay(&self, id: i32) -> Result<()> {
        let paid = doc! { "q": { "_id": id }, "u": { "$set": { "paid": true } } };
        let update = doc! { "update": "orders", "updates": [paid] };
        let insert = doc! { "insert": "payments", "documents": [{ "_id": id }] };
        let mut session = self.pools.start_session(SessionOptions::default())?;
        session
            .with_transaction(TransactionOptions::default(), async |session| {
                for write in [&update, &insert] {
                    let write = self.pools.command(DATABASE, write);
                    let write = write.kind(OperationKind::Write).session(session);
                    write.await?.check_write()?;
                }
                Ok(())
            })
            .await
    }

    /// One connection for several commands: a check-out, and a guard that `run_command` borrows
    /// mutably, so that two tasks can't use one connection at once. A reply borrows it too, until
    /// it is made into a document.
    ///
    /// # Errors
    /// `mongo_core`'s.
    pub async fn server_and_count(&self) -> Result<(String, i32)> {
        let mut connection = self.pools.get().await?;
        let count = doc! { "count": "orders" };
        let reply = connection.run_command(DATABASE, &count).await?;
        let count = reply.to_document()?.get_i32("n").unwrap_or_default();
        Ok((connection.server().to_string(), count))
    }

    /// Waits for connections in use, and closes all.
    pub async fn close(&self) {
        self.pools.close().await;
    }
}
