//! The contract of a plain pool, for either backend: every test is a function over a [`Backend`],
//! run for deadpool and for bb8.

#[macro_use(on_both)]
extern crate mongo_testkit;

mod abandoned_attempts;
mod bb8_maintenance;
mod bb8_specific;
mod commands;
mod deadpool_specific;
mod errors;
mod hostile_bb8;
mod hostile_core;
mod lifecycle;
mod panics;
mod refusals;
mod replaced_connections;
mod replica_sets;
mod runtimes;
mod setup;
mod unpolled_callers;

use setup::{Backend, Setup, eventually};
