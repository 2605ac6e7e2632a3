//! The kit's deployments: by a bare client, step by step, and by clients that nobody of this
//! workspace wrote.

#![expect(
    clippy::unwrap_used,
    reason = "a check that is run over both kinds of members is a test, but is not marked as one"
)]

mod faults;
mod foreign;
mod members;
mod proxies;
mod roles;
mod sim;
mod streaming;
mod wire;
