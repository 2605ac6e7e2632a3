//! The specifications' prose tests about pools, under their original names.

mod connections_survive_step_down;
mod handshake;
mod load_balancers;
mod pooling;
mod retryable;
mod sdam;
