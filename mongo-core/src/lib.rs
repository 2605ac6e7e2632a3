//! MongoDB connections for generic pools.

pub mod address;
pub mod auth;
pub mod error;
pub mod handshake;
#[cfg(feature = "net")]
pub mod net;
pub mod uri;
pub mod wire;

pub use address::ServerAddress;
pub use bson;
pub use error::{Error, ErrorKind, Result};
