//! Before: on `bb8-mongodb`, a pool of whole clients.

use bb8::{Pool, RunError};
use bb8_mongodb::{Error, MongodbConnectionManager};
use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::doc;
use mongodb::options::ClientOptions;

use crate::Order;

/// The errors of bb8, around those of the manager, around those of the driver.
pub type Result<T> = std::result::Result<T, RunError<Error>>;

/// Each "connection" is a database of a client of its own, with a pool and monitors of its own.
#[derive(Clone)]
pub struct Shop {
    pool: Pool<MongodbConnectionManager>,
}

impl Shop {
    /// Does not connect yet. A wrong password is a time-out of the first check-out.
    ///
    /// # Errors
    /// The connection string can't be used.
    pub async fn connect(uri: &str) -> Result<Self> {
        let options = ClientOptions::parse(uri).await.map_err(failed)?;
        let manager = MongodbConnectionManager::new(options, "shop");
        // The connection string's `maxPoolSize` is that of each client.
        let pool = Pool::builder().max_size(10).build(manager).await?;
        Ok(Self { pool })
    }

    /// Inserts an order. A duplicate key is an error.
    ///
    /// # Errors
    /// bb8's and the driver's.
    pub async fn add(&self, order: &Order) -> Result<()> {
        let database = self.pool.get().await?;
        let orders = database.collection::<Order>("orders");
        orders.insert_one(order).await.map_err(failed)?;
        Ok(())
    }

    /// The open orders, by the batches of a cursor.
    ///
    /// # Errors
    /// bb8's and the driver's.
    pub async fn open(&self) -> Result<Vec<Order>> {
        let database = self.pool.get().await?;
        let orders = database.collection::<Order>("orders");
        let find = orders.find(doc! { "paid": false });
        let cursor = find.sort(doc! { "_id": 1 }).await.map_err(failed)?;
        cursor.try_collect().await.map_err(failed)
    }

    /// Marks an order as paid, with a payment, in a transaction.
    ///
    /// # Errors
    /// bb8's and the driver's.
    pub async fn pay(&self, id: i32) -> Result<()> {
        let database = self.pool.get().await?;
        let orders = database.collection::<Order>("orders");
        let payments: Collection<mongodb::bson::Document> = database.collection("payments");
        let mut session = database.client().start_session().await.map_err(failed)?;
        let run = session.start_transaction().and_run2(async move |session| {
            let paid = doc! { "$set": { "paid": true } };
            let update = orders.update_one(doc! { "_id": id }, paid);
            update.session(&mut *session).await?;
            let insert = payments.insert_one(doc! { "_id": id });
            insert.session(session).await.map(drop)
        });
        run.await.map_err(failed)
    }
}

fn failed(error: mongodb::error::Error) -> RunError<Error> {
    RunError::User(error.into())
}
