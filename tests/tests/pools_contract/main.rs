//! The contract of `Pools`, for either backend: each test runs for deadpool and for bb8.

#[macro_use(on_both)]
extern crate mongo_testkit;

mod attempts;
mod basics;
mod closing;
mod connection_storms;
mod credential_providers;
mod credentials;
mod disconnected_topology;
mod discovered_servers;
mod ended_runtimes;
mod error_messages;
mod errors;
mod fairness;
mod floating_managers;
mod former_primaries;
mod frozen_process;
mod generations;
mod handshakes;
mod hellos;
mod idle_checks;
mod last_handle;
mod lifecycle;
mod missing_drivers;
mod native_hooks;
mod on_connect;
mod pacing;
mod panics;
mod prose;
mod refusals;
mod runtimes;
mod short_deadlines;
mod silent_dns;
mod sizing;
mod slots;
mod spare_connections;
mod spawned_check_outs;
mod srv;
mod srv_records;
mod support;
mod tenants;
mod token_callbacks;
mod undriven_runtimes;
mod unpolled_callers;
mod wait_queue;
