//! Before: on the official driver's `Client`.

use std::future::IntoFuture;

use futures_util::TryStreamExt;
use mongodb::bson::doc;
use mongodb::error::Result;
use mongodb::{Client, Collection};

use crate::Order;

/// The client has a pool of its own for each server. A clone is cheap.
#[derive(Clone)]
pub struct Shop {
    client: Client,
}

impl Shop {
    /// Does not connect yet: a wrong password is the error of the first operation.
    ///
    /// # Errors
    /// The connection string can't be used.
    pub async fn connect(uri: &str) -> Result<Self> {
        let client = Client::with_uri_str(uri).await?;
        Ok(Self { client })
    }

    fn orders(&self) -> Collection<Order> {
        self.client.database("shop").collection("orders")
    }

    /// Inserts an order, with the write concern of the connection string, and retries once. A
    /// duplicate key is an error.
    ///
    /// # Errors
    /// The driver's.
    pub async fn add(&self, order: &Order) -> Result<()> {
        self.orders().insert_one(order).await?;
        Ok(())
    }

    /// The open orders, by the batches of a cursor.
    ///
    /// # Errors
    /// The driver's.
    pub async fn open(&self) -> Result<Vec<Order>> {
        let orders = self.orders();
        let find = orders.find(doc! { "paid": false });
        let cursor = find.sort(doc! { "_id": 1 }).await?;
        cursor.try_collect().await
    }

    /// Marks an order as paid, with a payment, in a transaction.
    ///
    /// # Errors
    /// The driver's.
    pub async fn pay(&self, id: i32) -> Result<()> {
        let (orders, database) = (self.orders(), self.client.database("shop"));
        let payments = database.collection("payments");
        let mut session = self.client.start_session().await?;
        session
            .start_transaction()
            .and_run2(async move |session| {
                let paid = doc! { "$set": { "paid": true } };
                let update = orders.update_one(doc! { "_id": id }, paid);
                update.session(&mut *session).await?;
                let insert = payments.insert_one(doc! { "_id": id });
                insert.session(session).await.map(drop)
            })
            .await
    }

    /// Ends the monitors, and waits for cursors and sessions.
    pub async fn close(self) {
        self.client.shutdown().into_future().await;
    }
}
