//! The handshake on every connection: the client's metadata, the server's reply, and
//! authentication, which may begin in the hello.
//!
//! Everything here is pure: [`Handshake`] returns the commands to send and takes the replies. The
//! client sends its [`ClientMetadata`]; the server's reply is read into a
//! [`ConnectionDescription`].
//!
//! Specifications: handshake, authentication, load balancers, stable API.

mod context;
mod description;
mod environment;
mod error;
pub(crate) mod field;
mod hello;
mod machine;
mod metadata;
mod server_api;

pub use context::HandshakeContext;
pub use description::{ConnectionDescription, TopologyVersion};
pub use environment::Environment;
pub use error::{HandshakeError, MetadataError};
pub use machine::{Handshake, Outgoing, RequestOp, Step};
pub use metadata::{ClientMetadata, DriverInfo};
pub use server_api::{ServerApi, ServerApiVersion};

/// The lowest wire version that this crate supports: 8, MongoDB 4.2.
pub const MIN_WIRE_VERSION: i32 = 8;

/// The highest wire version that this crate supports: 27, MongoDB 8.2. Newer servers still support
/// it.
pub const MAX_WIRE_VERSION: i32 = 27;
