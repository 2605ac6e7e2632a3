//! # MongoDB connections for generic pools
//!
//! What `mongo-deadpool` and `mongo-bb8` are made of: connections to a MongoDB server that are
//! handshaken, authenticated and made for raw commands. Use one of those two crates for a pool; use
//! this one for a pool of another make, or to speak the protocol without I/O.
//!
//! # Rooms
//! Pure code takes bytes, the time and randomness as arguments and returns values; it needs no
//! tokio (`--no-default-features`):
//! - [`uri`]: connection strings and [`ClientOptions`].
//! - [`wire`]: messages, and [`wire::Exchange`], which knows what may be done with a connection
//!   whose command was cancelled.
//! - [`auth`]: credentials, and the conversations that prove them. [`handshake`]: from the first hello to an authenticated
//!   connection.
//! - [`sdam`]: what is known of a deployment and how it changes; monitors as state machines.
//!   [`select`]: which server an operation may use. [`event`]: what happened. [`concern`]: read and
//!   write concerns. [`socks5`]: what a proxy is asked. [`settings`]: how types are read from a
//!   configuration.
//!
//! The shell, behind the default feature `net`, has the sockets, timers and tasks:
//! - `net`: `Connection`, `Topology`, `OnDemandTopology` and `SingleClient`, and the `Connector` and
//!   `DnsResolver` seams for transports and resolvers of your own.
//! - `pools`: `Pools`, one for each server and credential of a deployment, over any generic pool that is
//!   a `Backend`; and what such a pool is made of, a factory that makes and checks connections.
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
//! (`enable_io`). An operation that needs what the thread that polls it does not have fails at once
//! with [`ErrorKind::Configuration`], whose text names what is missing; it does not panic, nor does it
//! tell anything of the server. That holds within no runtime at all, too, whichever executor polls.
//! What does not have to wait needs no runtime: a snapshot of the topology, an idle connection.
//!
//! tokio has no query for drivers. That a runtime lacks one is found out by a panic of tokio's, which
//! is caught; the panic hook of the process reports it, once for each runtime.
//!
//! # Callbacks
//! The application's own code (event handlers, connectors and their streams, resolvers, credential
//! providers, OIDC and AWS callbacks, executors, server selectors, callbacks in a TLS configuration) is
//! called without a lock. A panic in it is caught, logged by `tracing` at level ERROR with the name of the
//! callback and the message, and fails that call alone: an event is lost for one handler, an attempt to
//! connect or a selection fails with an error that says so. With `panic = "abort"` nothing can be caught.
//!
//! # Features
//! - `net`, the default: the shell.
//! - `dns`: a resolver for `mongodb+srv`, by the system's name servers.
//! - `tls`: TLS by rustls, with `tls-ring` and `tls-native-roots`. One by one: `tls-rustls` is TLS
//!   for a `rustls::ClientConfig` of one's own, and is turned on by all others; `tls-ring` and
//!   `tls-aws-lc-rs` are providers of cryptography, of which the latter is used where both are on;
//!   `tls-native-roots` and `tls-webpki-roots` say whom to trust without `tlsCAFile`;
//!   `tls-encrypted-keys` is for `tlsCertificateKeyFilePassword`. See `net::Tls`. No process-wide
//!   provider is used or set.
//! - `snappy`, `zlib`, `zstd`: compressors that `compressors=` may name, none of them by default.
//!   `zstd` builds the C library; the other two are Rust. A compressor that is named and not built
//!   in is left out, with a warning, as one that nobody knows.
//! - `cloud-credentials`: the credentials that a cloud gives its machines, for MONGODB-AWS and
//!   MONGODB-OIDC.
//! - `metrics`: events as metrics of the `metrics` facade (`event::EventHandlers::with_metrics`).
//!
//! # Fuzzing
//! Whatever comes from outside has a target of cargo-fuzz: framing, OP_MSG, OP_COMPRESSED, the hello,
//! a server's part of SCRAM and of MONGODB-AWS, connection strings, SRV records, PEM files, a proxy's
//! answers, HTTP answers of endpoints for credentials and the JSON in them.
//! `mongo-core/fuzz/run 1800` runs them all for half an hour and prints how many inputs each has
//! seen, the most memory, and the slowest input; a crash, more than 64 MB, or more than 100 ms for
//! one input is a failure.
//!
//! # Where it departs from its design
//! - The handshake is a folder, not a file: metadata, environment, description and machine are four
//!   things.
//! - The one thing that a generic pool needs of MongoDB is `pools::ConnectionFactory`, not a trait of
//!   callbacks: it admits who asks (`maxConnecting`, connections made in advance or given back
//!   meanwhile), and follows each connection until it is dropped, so that counting, clearing and
//!   events are the same on every backend, whatever hooks that has.
//! - A credential that a server refuses neither marks the server unknown nor clears its pools, as the
//!   specification has it for a client of one credential: it is told to who uses it.
//! - A plain pool follows a failover by a factory that floats over a topology, not by a manager of
//!   another type.

pub mod address;
pub mod auth;
mod callback;
pub mod concern;
pub mod error;
pub mod event;
pub mod handshake;
#[cfg(feature = "net")]
mod logs;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "net")]
pub mod pools;
pub mod sdam;
pub mod select;
pub mod settings;
pub mod socks5;
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
