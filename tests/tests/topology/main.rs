//! The live topology, with deployments of scripted members, and of proxies in front of a real
//! server.

mod bad_input;
mod cluster_time;
mod discovery;
#[path = "../common/eventually.rs"]
mod eventually;
mod heartbeats;
mod load_balanced;
mod missing_drivers;
mod monitoring;
mod on_demand;
mod panics;
mod prose;
mod proxies;
mod runtimes;
mod srv;
mod srv_on_demand;
mod support;

use eventually::eventually;
