//! Invariant I1: a command that is cancelled at any moment never lets a later one read its reply.
//!
//! Each operation is dropped, or times out, after exactly `k` polls, for every `k` up to its end,
//! over an in-memory stream that moves one byte at a time. There are no sockets, threads or sleeps,
//! so that a sweep is deterministic.

#[macro_use(on_both)]
extern crate mongo_testkit;

#[path = "../common/plain_pool.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod plain_pool;

mod core;
mod cut;
mod deployment;
mod memory;
mod peer;
mod pools;
mod queue;
mod replies;
mod scram;
mod tally;
