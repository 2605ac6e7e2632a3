//! The live topology, against deployments of scripted members.

mod bad_input;
mod cluster_time;
mod discovery;
mod load_balanced;
mod monitoring;
mod on_demand;
mod prose;
mod srv;
mod support;
