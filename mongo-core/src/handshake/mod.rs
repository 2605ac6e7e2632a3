//! The first exchange on every connection: what the client says about itself, what the server
//! answers, and authentication, part of which travels along.
//!
//! Everything here is pure: [`Handshake`] says what to send and takes the replies. The client's
//! part is [`ClientMetadata`], the server's is read into a [`ConnectionDescription`].
//!
//! Specifications: handshake, authentication, load balancers, stable API.

mod description;
mod environment;
mod error;
pub(crate) mod field;
mod hello;
mod machine;
mod metadata;
mod server_api;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod scripted;

pub use description::{ConnectionDescription, TopologyVersion};
pub use environment::Environment;
pub use error::{HandshakeError, MetadataError};
pub use machine::{Handshake, HandshakeContext, Outgoing, RequestOp, Step};
pub use metadata::{ClientMetadata, DriverInfo};
pub use server_api::{ServerApi, ServerApiVersion};

/// The lowest wire version that this crate speaks: 8, MongoDB 4.2.
pub const MIN_WIRE_VERSION: i32 = 8;

/// The highest wire version that this crate speaks: 27, MongoDB 8.2. Newer servers still speak it.
pub const MAX_WIRE_VERSION: i32 = 27;
