//! A session store of [`tower_sessions`] in a collection of MongoDB, and a login page that uses it.

// In your code: `use mongo_deadpool::…` or `use mongo_bb8::…`.
#[cfg(feature = "bb8")]
pub use mongo_bb8 as backend;
#[cfg(not(feature = "bb8"))]
pub use mongo_deadpool as backend;

mod page;
mod store;

pub use page::routes;
pub use store::MongoStore;
