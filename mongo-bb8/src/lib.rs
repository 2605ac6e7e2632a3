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
pub use mongo_core::pools::{ManagerConfig, PoolsConfig, QueueMode, RecyclingMethod, Timeouts};
pub use mongo_core::{self, Error, ErrorKind};
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

/// The manager, by `mongo_deadpool`'s name.
pub type Manager = MongoConnectionManager;

/// Why a [`Config`] can't be used.
pub type ConfigError = Error;
