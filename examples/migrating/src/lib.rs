//! The same small application three times, to move from one to the other by the line:
//!
//! - [`before_bb8_mongodb`]: on `bb8-mongodb`, a pool of whole clients.
//! - [`before_driver`]: on the official driver's `Client`.
//! - [`after`]: on `Pools` of `mongo-bb8` or `mongo-deadpool`.
//!
//! The tests run all three on one replica set, and compare what they leave there. What the official
//! driver does beyond this (collections, query builders, change streams) stays with it: both can be
//! used in one application, on the same data.
//!
//! `cargo bench -p mongo-example-migrating --all-features` compares them.

pub mod after;
pub mod before_bb8_mongodb;
pub mod before_driver;

/// The backend, which the feature flags choose. If both are on, it is bb8.
#[cfg(feature = "bb8")]
pub use mongo_bb8 as backend;
#[cfg(all(feature = "deadpool", not(feature = "bb8")))]
pub use mongo_deadpool as backend;

#[cfg(not(any(feature = "deadpool", feature = "bb8")))]
compile_error!("choose a backend: the feature `deadpool` or the feature `bb8`");

use serde::{Deserialize, Serialize};

/// A document of the collection `orders`. It is the same for bson 2 and bson 3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The key.
    #[serde(rename = "_id")]
    pub id: i32,
    /// Cents.
    pub total: i64,
    /// Whether there is a payment.
    pub paid: bool,
}

impl Order {
    /// An open order.
    pub fn new(id: i32, total: i64) -> Self {
        Self {
            id,
            total,
            paid: false,
        }
    }
}
