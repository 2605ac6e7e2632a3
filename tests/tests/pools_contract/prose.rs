//! The prose tests of the specifications that are about pools, under their names.

mod connections_survive_step_down;
mod load_balancers;
mod pooling;
mod retryable;
mod sdam;
