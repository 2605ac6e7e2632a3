//! # MongoDB connections in a deadpool
//!
//! A [`Pool`] hands out [`Connection`]s to one MongoDB server: handshaken, authenticated, and made
//! for raw commands. The pooling is [deadpool](https://docs.rs/deadpool)'s own. This crate adds a
//! [`Manager`], a guard, and a configuration like those of the other deadpool crates.
//!
//! ```no_run
//! use bson::doc;
//! use mongo_deadpool::{Config, Runtime};
//! # use mongo_deadpool::mongo_core::bson;
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
//! [`Config::create_pools`]: one deadpool for each server and credential, over one topology. With
//! features `dns` and `tls` they accept a connection string of MongoDB Atlas:
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let url = "mongodb+srv://app:secret@cluster0.example.net/?retryWrites=true&w=majority";
//! let pools = mongo_deadpool::Pools::new(url)?;
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
//! use mongo_deadpool::{OperationKind, Pools};
//! # use mongo_deadpool::mongo_core::{Result, bson};
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
//! # What this adds to a bare deadpool
//! - **No wait is unbounded.** [`Pool::get`] ends within one deadline (`timeouts.wait`, default the
//!   URI's `timeoutMS`, else its `waitQueueTimeoutMS`, else 30 s) over waiting, checking and
//!   connecting.
//! - **Errors name the cause.** [`Error`] names the wait that timed out, the server, the user and
//!   the last failure. deadpool's own `Timeout(Wait)` names none of these.
//! - **Cancellation is safe.** A connection whose command was dropped half-way leaves the pool when
//!   its guard is dropped, and its slot is free at once; one with only an outstanding reply is
//!   drained at its next check-out.
//! - Idle connections are taken last in, first out, so that a quiet pool can shrink; a
//!   [`PoolConfig`] made in code has deadpool's default, `Fifo`.
//!
//! # Differences from the other deadpool crates
//! [`Pool`] is a newtype around `deadpool::managed::Pool<Manager, Connection>`, to which it
//! dereferences, because deadpool's errors can't hold the details listed above. [`Config::builder`]
//! builds a bare pool, and `Pool::from` wraps one.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod at_once;
mod backend;
mod config;
mod connection;
mod manager;
mod pool;

/// deadpool's types with this crate's manager, guard and errors, as the other deadpool crates
/// reexport them. `Pool` is the bare one here.
pub mod managed {
    use crate::{ConfigError, Connection, Error, Manager};

    pub use deadpool::managed::reexports::*;
    deadpool::managed_reexports!("mongo", Manager, Connection, Error, ConfigError);
}

pub use backend::BackendConfig;
pub use config::{Config, CreatePoolError};
pub use connection::Connection;
pub use deadpool;
// `managed` has it from deadpool 0.13.1 on.
pub use deadpool::managed::QueueMode;
pub use managed::{
    BuildError, Hook, HookError, Metrics, Object, ObjectId, PoolBuilder, PoolConfig, PoolError,
    Runtime, Status, TimeoutType, Timeouts, WeakPool,
};
pub use manager::Manager;
pub use mongo_core::handshake::{ServerApi, ServerApiVersion};
pub use mongo_core::operation::{OperationKind, SessionOptions, TransactionOptions};
pub use mongo_core::pools::{ManagerConfig, PoolsConfig, RecyclingMethod};
pub use mongo_core::select::{ReadPreference, ReadPreferenceMode};
pub use mongo_core::{self, Error, ErrorKind, OwnedReply, ReadConcern, WriteConcern};
pub use pool::Pool;

/// Pools of connections to all servers of a deployment, by credential, over deadpool.
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

/// Why a [`Config`] can't be used.
pub type ConfigError = Error;
