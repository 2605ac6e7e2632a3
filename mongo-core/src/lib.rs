//! # MongoDB connections for generic pools
//!
//! The layer below `mongo-deadpool` and `mongo-bb8`: connections to a MongoDB server that are
//! handshaken, authenticated and ready for raw commands. Use one of those two crates for a pool.
//! Use this one to adapt another generic pool, or to speak the protocol without I/O.
//!
//! # Modules
//! Pure code takes bytes, the time and randomness as arguments and returns values; it does not need
//! tokio (`--no-default-features`):
//! - [`uri`]: connection strings and [`ClientOptions`].
//! - [`wire`]: messages, and [`wire::Exchange`], which tracks whether a connection can be used
//!   after a command was cancelled. [`reply`]: the errors that replies report.
//! - [`auth`]: credentials and authentication conversations. [`handshake`]: from the first hello to
//!   an authenticated connection.
//! - [`sdam`]: the description of a deployment and its transitions; monitors as state machines.
//!   [`select`]: server selection. [`event`]: events. [`concern`]: read and write concerns.
//!   [`socks5`]: the SOCKS5 handshake. [`settings`]: deserialization of configurations.
//! - [`operation`]: commands with sessions, transactions, retries, cursors and a time limit.
//!
//! The shell, behind the default feature `net`, owns the sockets, timers and tasks:
//! - `net`: `Connection`, `Topology`, `OnDemandTopology` and `SingleClient`, and the `Connector` and
//!   `DnsResolver` traits for transports and resolvers of your own.
//! - `pools`: `Pools`, one pool for each server and credential of a deployment, over any generic
//!   pool that implements `Backend`; and the factory that makes and checks connections.
//! - `guide`: how to embed the pools, survive a failover, rotate credentials, observe, migrate and
//!   test.
//!
//! # A connection without a pool
//! ```no_run
//! use mongo_core::bson::doc;
//! use mongo_core::pools::ConnectionFactory;
//! use mongo_core::{ClientOptions, Deadline};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> mongo_core::Result<()> {
//! let options = ClientOptions::parse("mongodb://app:secret@localhost")?;
//! let factory = ConnectionFactory::builder(options).build()?;
//! let mut connection = factory.establish(Deadline::never()).await?;
//! let reply = connection.run_command("admin", &doc! { "ping": 1 }).await?;
//! println!("{:?}", reply.raw());
//! # Ok(())
//! # }
//! ```
//!
//! # Runtimes
//! The shell needs a Tokio runtime with a timer (`enable_time`) and, for sockets, an I/O driver
//! (`enable_io`). If the polling thread lacks a runtime or driver that an operation needs, the
//! operation fails at once with [`ErrorKind::Configuration`], whose text names what is missing. It
//! does not panic, and the error has no effect on the server's description. This also holds outside
//! of any runtime, on any executor. An operation that does not wait needs no runtime: a snapshot of
//! the topology, the check-out of an idle connection.
//!
//! tokio has no query for drivers. A missing driver is detected by a panic in tokio, which is
//! caught; the process's panic hook reports it, once for each runtime.
//!
//! # Callbacks
//! The application's own code (event handlers, connectors and their streams, resolvers, credential
//! providers, OIDC and AWS callbacks, executors, server selectors, callbacks in a TLS
//! configuration) is called without a lock. A panic in a callback is caught, and logged by
//! `tracing` at level ERROR with the name of the callback and the message. It fails that call
//! alone: one handler misses an event, or an attempt to connect or a selection fails with an error
//! that names the panic. With `panic = "abort"` no panic can be caught.
//!
//! # Features
//! - `net`, the default: the shell.
//! - `dns`: a resolver for `mongodb+srv`, by the system's name servers.
//! - `tls`: TLS by rustls, with `tls-ring` and `tls-native-roots`. The single features:
//!   `tls-rustls` is TLS with a `rustls::ClientConfig` of your own, and is enabled by all others.
//!   `tls-ring` and `tls-aws-lc-rs` are cryptography providers; the latter is used if both are on.
//!   `tls-native-roots` and `tls-webpki-roots` are the trust anchors without `tlsCAFile`.
//!   `tls-encrypted-keys` is for `tlsCertificateKeyFilePassword`. See `net::Tls`. No process-wide
//!   provider is used or set.
//! - `snappy`, `zlib`, `zstd`: compressors for `compressors=`, all off by default.
//!   `zstd` builds the C library; the other two are Rust. A compressor whose feature is off is
//!   ignored with a warning, like an unknown one.
//! - `cloud-credentials`: the credentials that cloud platforms supply to workloads, for MONGODB-AWS
//!   and MONGODB-OIDC.
//! - `metrics`: events as metrics of the `metrics` facade (`event::EventHandlers::with_metrics`).
//!
//! # Fuzzing
//! Each parser of external input has a cargo-fuzz target: framing, OP_MSG, OP_COMPRESSED, the
//! hello, a server's part of SCRAM and of MONGODB-AWS, connection strings, SRV records, PEM files,
//! a proxy's replies, HTTP responses of credential endpoints and the JSON in them.
//! `mongo-core/fuzz/run 1800` runs them all for half an hour and prints for each the number of
//! inputs, the peak memory and the slowest input. A crash, more than 64 MB, or more than 100 ms for
//! one input is a failure.
//!
//! # Design notes
//! - The one MongoDB type that a generic pool needs is `pools::ConnectionFactory`, not a trait of
//!   callbacks. It admits check-outs (`maxConnecting`, connections that were made in advance or
//!   checked in while a caller waits), and follows each connection until it is dropped. Counting,
//!   clearing and events are therefore the same on every backend, whatever hooks it has.
//! - A refused credential neither marks the server unknown nor clears its pools, as the
//!   specification requires of a client with one credential. The error is reported to the users of
//!   that credential.
//! - A plain pool follows a failover by a factory that floats over a topology, not by a manager of
//!   another type.

#![cfg_attr(docsrs, feature(doc_cfg))]

// `.ci/rooms.py` checks that no room imports a higher one, and that no modules import each other in
// a circle.
// Rooms, lowest first: text, sync, settings, address, concern, read_preference, server_api, auth,
// wire, socks5, uri, error, callback, reply, handshake, sdam, select, event, operation, net, pools

pub mod address;
pub mod auth;
mod callback;
pub mod concern;
pub mod error;
pub mod event;
#[cfg(feature = "net")]
pub mod guide;
pub mod handshake;
#[cfg(feature = "net")]
pub mod net;
pub mod operation;
#[cfg(feature = "net")]
pub mod pools;
mod read_preference;
pub mod reply;
pub mod sdam;
pub mod select;
mod server_api;
pub mod settings;
pub mod socks5;
mod sync;
mod text;
pub mod uri;
pub mod wire;

pub use address::ServerAddress;
pub use bson;
pub use concern::{ReadConcern, WriteConcern};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "net")]
pub use net::{Connection, Deadline, OwnedReply, Reply};
#[cfg(feature = "tls-rustls")]
pub use rustls;
pub use uri::ClientOptions;
