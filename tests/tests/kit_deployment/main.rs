//! The kit's deployments, with a bare client, step by step, and with independent clients.

#![expect(
    clippy::unwrap_used,
    reason = "a check that is run over both kinds of members is a test, but is not marked as one"
)]

mod faults;
mod foreign;
mod foreign_operations;
mod members;
mod operations;
mod proxies;
mod roles;
mod sim;
mod streaming;
mod transactions;
mod wire;
