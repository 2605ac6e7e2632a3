//! One contract for `Pools` over either backend: each test is instanced for deadpool and for bb8.

#[macro_use]
mod support;

mod attempts;
mod basics;
mod credentials;
mod demoted;
mod end;
mod errors;
mod floating;
mod frozen;
mod generations;
mod idle_checks;
mod impatience;
mod left_over;
mod lifecycle;
mod pacing;
mod prose;
mod runtimes;
mod sizing;
mod slots;
mod spawned;
mod storms;
mod tenants;
mod waiting;
