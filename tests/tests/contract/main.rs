//! One contract for `Pools` over either backend: each test is instanced for deadpool and for bb8.

#[macro_use]
mod support;

mod attempts;
mod basics;
mod credentials;
mod demoted;
mod disconnected;
mod drivers;
mod end;
mod ended_runtimes;
mod errors;
mod floating;
mod found;
mod frozen;
mod generations;
mod handshakes;
mod held_up;
mod hellos;
mod hostile;
mod identity;
mod idle_checks;
mod impatience;
mod left_over;
mod lifecycle;
mod pacing;
mod panics;
mod prose;
mod providers;
mod refusals;
mod released;
mod runtimes;
mod silent_dns;
mod sizing;
mod slots;
mod spawned;
mod srv;
mod srv_records;
mod storms;
mod tenants;
mod told;
mod undriven;
mod waiting;
