//! MongoDB connections for generic pools.

pub mod address;
pub mod auth;
pub mod concern;
pub mod error;
pub mod handshake;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "net")]
pub mod pools;
pub mod select;
pub mod uri;
pub mod wire;

pub use address::ServerAddress;
pub use bson;
pub use concern::{ReadConcern, WriteConcern};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "net")]
pub use net::{Connection, Deadline, Reply};
pub use uri::ClientOptions;
