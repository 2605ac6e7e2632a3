//! The test kit of this workspace: servers for tests. It contains no code under test.
//!
//! - [`ScriptedServer`]: a tiny MongoDB server on loopback inside the test process. It keeps
//!   documents in memory, authenticates users, records the commands it receives, and fails exactly
//!   as its [`Script`] says.
//! - [`Deployment`]: several of them as a replica set, as mongos, or behind a load balancer. A test
//!   controls their roles, deaths and partitions. They run on loopback or on a [`SimNetwork`] in
//!   memory.
//! - [`NameServer`]: SRV, TXT and CNAME records for `mongodb+srv`. A test can change them.
//! - [`RealServer`]: a real server in its own process, or a deployment of the user's.
//! - Both together, with [`DeploymentBuilder::backed_by`]: the deployment's servers are proxies in
//!   front of one real server, with the same controls, scripts, fail points and records. Real
//!   commands, users, sessions, transactions and cursors run through the roles that the test plays.
//!
//! The kit has its own wire codec and SCRAM implementation, so that it does not share mistakes with
//! the code under test. Its own tests drive it with the official `mongodb` crate and PyMongo.
//!
//! ```
//! use mongo_testkit::{Action, ErrorReply, Matcher, ScriptedServer, User};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let server = ScriptedServer::builder().user(User::new("app", "pencil")).start().await;
//! let uri = server.uri_for("app", "pencil");
//! # assert!(uri.starts_with("mongodb://app:pencil@127.0.0.1:"));
//! // The second find on the server gets an error, and each hello reply arrives byte by byte.
//! let error = ErrorReply::new(91, "ShutdownInProgress", "going down").label("RetryableReadError");
//! server.script().add(Matcher::command("find").after(1).once().then(Action::Error(error)));
//! server.script().add(Matcher::hello().then(Action::byte_per_second()));
//! // … run the code under test against `uri`, then look at what the server received:
//! server.wait_for("no open connection", |seen| seen.open == 0).await;
//! assert_eq!(server.look(|seen| seen.count("find")), 0);
//! server.shutdown().await;
//! # });
//! ```

mod acceptor;
mod action;
mod aws;
mod backend;
mod client;
pub mod codec;
mod commands;
mod compression;
mod connection;
mod deployment;
mod dns;
mod external;
mod fail_point;
mod hello;
mod link;
mod listener;
mod observe;
mod on_both;
mod outgoing;
pub mod payload;
mod pipe;
mod pipeline;
mod place;
mod proxy;
mod query;
mod real;
mod relay;
mod scram;
mod script;
mod server;
mod sim;
mod socket;
mod statement;
mod store;
mod temp;
mod tls;
pub mod tools;
mod transactions;
mod user;

pub use action::{Action, Cut, ErrorReply, Gate};
pub use codec::Checksum;
pub use compression::{Compressed, Compressor};
pub use connection::ExhaustReplies;
pub use deployment::{
    ConfigEntry, Deployment, DeploymentBuilder, MemberKind, MemberSpec, Process, ReplicaSetState,
    SetConfig, Standing,
};
pub use dns::{NameServer, NameServerConduct};
pub use observe::{KEPT_ENTRIES, Seen, SeenCommand, SeenConnection, WAIT_LIMIT};
pub use pipe::SimStream;
pub use place::{Place, block_on, driven_runtime};
pub use proxy::{Socks5Proxy, Socks5Request};
pub use real::{RealServer, RealServerBuilder};
pub use scram::ScramAttack;
pub use script::{Matcher, Rule, RuleId, Script};
pub use server::{ScriptedServer, ScriptedServerBuilder};
pub use sim::SimNetwork;
pub use socket::ByteStream;
pub use tls::{Authority, Identity, ServerTls};
pub use user::{Mechanism, User};

/// The programs in the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The programs in the guides of `mongo_core` compile, and those in memory run.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../mongo-core/src/guide/credentials.md")]
    pub struct Credentials;
    #[doc = include_str!("../../mongo-core/src/guide/embedding.md")]
    pub struct Embedding;
    #[doc = include_str!("../../mongo-core/src/guide/failover.md")]
    pub struct Failover;
    #[doc = include_str!("../../mongo-core/src/guide/migrating.md")]
    pub struct Migrating;
    #[doc = include_str!("../../mongo-core/src/guide/observability.md")]
    pub struct Observability;
    #[doc = include_str!("../../mongo-core/src/guide/operations.md")]
    pub struct Operations;
    #[doc = include_str!("../../mongo-core/src/guide/testing.md")]
    pub struct Testing;
}

/// The programs in the READMEs of the packages compile.
#[cfg(doctest)]
#[doc = include_str!("../../mongo-core/README.md")]
#[doc = include_str!("../../mongo-deadpool/README.md")]
#[doc = include_str!("../../mongo-bb8/README.md")]
pub struct Packages;
