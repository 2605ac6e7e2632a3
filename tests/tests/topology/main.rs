//! The live topology, against deployments of scripted members.

mod discovery;
mod load_balanced;
mod monitoring;
mod on_demand;
mod prose;
mod srv;
mod support;
