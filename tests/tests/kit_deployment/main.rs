//! The kit's deployments: by a bare client, step by step, and by clients that nobody of this
//! workspace wrote.

mod faults;
mod foreign;
mod roles;
mod sim;
mod streaming;
mod wire;
