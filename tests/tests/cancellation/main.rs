//! Invariant I1: a command that is cancelled at any moment never lets a later one read its reply.
//!
//! Each operation is dropped, or times out, after exactly `k` polls, for every `k` up to its end,
//! over an in-memory stream that moves one byte at a time. There are no sockets, threads or sleeps,
//! so that a sweep is deterministic.

mod backend;
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

use backend::{Bb8, Deadpool};

/// Makes a test of each function for each backend.
macro_rules! on_both_backends {
    ($($test:ident),+ $(,)?) => {
        mod deadpool {
            $(#[test]
            fn $test() {
                crate::cut::block_on(super::$test::<crate::Deadpool>());
            })+
        }
        mod bb8 {
            $(#[test]
            fn $test() {
                crate::cut::block_on(super::$test::<crate::Bb8>());
            })+
        }
    };
}
pub(crate) use on_both_backends;
