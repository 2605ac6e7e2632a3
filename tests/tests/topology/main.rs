//! The live topology, against deployments of scripted members.

mod discovery;
mod monitoring;
mod prose;
mod support;
