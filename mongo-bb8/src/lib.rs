//! # MongoDB connections in a bb8 pool
//!
//! A [`Pool`] hands out [`Connection`]s to one MongoDB server: handshaken, authenticated, and made
//! for raw commands. The pooling is [bb8](https://docs.rs/bb8)'s own. This crate adds a
//! [`MongoConnectionManager`], a front with bounded waits and errors that name the cause, and a
//! configuration.
//!
//! ```no_run
//! use bson::doc;
//! use mongo_bb8::{Config, Runtime};
//! # use mongo_bb8::mongo_core::bson;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::from_url("mongodb://app:secret@localhost/?maxPoolSize=16");
//! let pool = config.create_pool(Some(Runtime::Tokio1))?;
//!
//! let mut connection = pool.get().await?;
//! let reply = connection.run_command("admin", &doc! { "ping": 1 }).await?;
//! println!("{:?}", reply.raw());
//! # Ok(())
//! # }
//! ```
//!
//! For a whole deployment, with failover and any number of credentials, use [`Pools`] or
//! [`Config::create_pools`]: one bb8 pool for each server and credential, over one topology. With
//! features `dns` and `tls` they accept a connection string of MongoDB Atlas:
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let url = "mongodb+srv://app:secret@cluster0.example.net/?retryWrites=true&w=majority";
//! let pools = mongo_bb8::Pools::new(url)?;
//! let connection = pools.get().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Commands with retries, cursors, sessions and transactions
//! `run_command` sends a command unchanged. [`Pools::command`](mongo_core::pools::Pools::command)
//! selects the server, applies the concerns and the read preference of the connection string, and
//! retries; so does `command` of a connection, without selecting and with retries only for an
//! overloaded server. The caller says what a command does, because that decides what applies: see
//! [`mongo_core::operation`].
//!
//! ```no_run
//! use bson::doc;
//! use mongo_bb8::{OperationKind, Pools};
//! # use mongo_bb8::mongo_core::{Result, bson};
//!
//! # async fn count(pools: &Pools) -> Result<u64> {
//! let find = doc! { "find": "orders", "filter": { "open": true } };
//! let find = pools.command("shop", &find).kind(OperationKind::Read);
//! let mut orders = find.cursor().await?;
//! let mut count = 0;
//! while let Some(order) = orders.next_document().await? {
//!     println!("{order:?}");
//!     count += 1;
//! }
//! # Ok(count)
//! # }
//! ```
//!
//! # What this adds to a bare bb8
//! - **Errors at once.** A bare bb8 connects in a task of its own, reports a failed connect to its
//!   error sink, and lets the caller wait for its whole time-out. Here the caller's own task waits
//!   for the connection, and gets the failure itself.
//! - **Every wait has one deadline** (`timeouts.wait`, default the URI's `timeoutMS`, else its
//!   `waitQueueTimeoutMS`, else 30 s), and the error names the wait, the server, the user and the
//!   last failure.
//! - **First in, first out.** In a bare bb8 a late caller may overtake an earlier one. Here a
//!   returned connection goes to the caller that has waited longest for one to be made.
//! - **Cancellation is safe.** A connection whose command was dropped half-way is closed when its
//!   guard is dropped; one with only an outstanding reply is drained at its next check-out. An
//!   attempt to make a connection outlives its caller, and serves the next one.
//! - [`Pool::close`], which bb8 lacks.
//!
//! The manager also works with a bare `bb8::Pool`. For bb8 settings that [`Config`] lacks, use
//! [`Pool::build`]. The names are those of `mongo_deadpool`, so that your own feature flag can swap
//! the two crates with one `use`.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod config;
mod connection;
mod idle;
mod manager;
mod pool;
mod shared;
mod upkeep;

pub use backend::BackendConfig;
pub use bb8;
pub use config::{Config, CreatePoolError, PoolConfig, Runtime};
pub use connection::PooledConnection;
pub use manager::MongoConnectionManager;
pub use mongo_core::handshake::{ServerApi, ServerApiVersion};
pub use mongo_core::operation::{OperationKind, SessionOptions, TransactionOptions};
pub use mongo_core::pools::{ManagerConfig, PoolsConfig, QueueMode, RecyclingMethod, Timeouts};
pub use mongo_core::select::{ReadPreference, ReadPreferenceMode};
pub use mongo_core::{self, Error, ErrorKind, OwnedReply, ReadConcern, WriteConcern};
pub use pool::{Pool, Status};

/// A connection checked out of a [`Pool`]: `mongo_deadpool`'s name for it.
pub type Connection = PooledConnection;

/// Pools of connections to all servers of a deployment, by credential, over bb8.
///
/// See [`mongo_core::pools::Pools`].
pub type Pools = mongo_core::pools::Pools<Pool>;

/// The pool of one server and one credential, as [`Pools`] keeps it.
pub type ServerPool = mongo_core::pools::ServerPool<Pool>;

/// A connection checked out of [`Pools`].
pub type PoolsConnection = mongo_core::pools::PooledConnection<Pool>;

/// A session of [`Pools`], for causal consistency, snapshot reads and transactions.
///
/// See [`mongo_core::pools::Session`].
pub type Session = mongo_core::pools::Session<Pool>;

/// A cursor over [`Pools`]; `'s` is the borrow of its session, `'static` without one.
///
/// See [`mongo_core::net::BatchCursor`].
pub type Cursor<'s> = mongo_core::pools::Cursor<'s, Pool>;

/// The manager, by `mongo_deadpool`'s name.
pub type Manager = MongoConnectionManager;

/// Why a [`Config`] can't be used.
pub type ConfigError = Error;
