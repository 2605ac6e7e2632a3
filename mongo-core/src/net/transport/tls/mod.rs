//! TLS with rustls, on top of any transport.
//!
//! The only module that depends on rustls. Without feature `tls-rustls`, [`Tls`] is a type that
//! can't be constructed, so that other modules need no conditional code.

#[cfg(not(feature = "tls-rustls"))]
mod absent;
#[cfg(feature = "tls-rustls")]
mod client;
#[cfg(feature = "tls-rustls")]
mod encrypted;
#[cfg(feature = "tls-rustls")]
mod failure;
#[cfg(feature = "tls-rustls")]
mod pem;
#[cfg(feature = "tls-rustls")]
mod roots;
#[cfg(feature = "tls-rustls")]
mod verify;

#[cfg(not(feature = "tls-rustls"))]
pub(crate) use absent::{Tls, explain};
#[cfg(feature = "tls-rustls")]
pub use client::Tls;
#[cfg(feature = "tls-rustls")]
pub(crate) use failure::explain;
