//! The live topology, against deployments of scripted members.

mod discovery;
mod monitoring;
mod on_demand;
mod prose;
mod srv;
mod support;
