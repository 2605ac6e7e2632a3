//! TLS, by rustls: on top of whatever opened the transport.
//!
//! The one place that knows rustls. Without feature `tls-rustls` there is a [`Tls`] that can't be
//! made, so that nobody else has to ask.

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
