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
pub(crate) mod field;
mod hello;
mod machine;
mod metadata;

pub use crate::error::handshake::{HandshakeError, MetadataError};
pub use crate::server_api::{ServerApi, ServerApiVersion};
pub use crate::wire::{MAX_WIRE_VERSION, MIN_WIRE_VERSION};
pub use context::HandshakeContext;
pub use description::ConnectionDescription;
pub use environment::Environment;
pub use field::TopologyVersion;
pub use machine::{Handshake, Outgoing, RequestOp, Step};
pub use metadata::{ClientMetadata, DriverInfo};
