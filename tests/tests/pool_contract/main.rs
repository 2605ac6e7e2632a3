//! The contract of a plain pool, for either backend: every test is a function over a [`Backend`],
//! run for deadpool and for bb8.

mod abandoned_attempts;
mod backend;
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
mod unpolled_callers;

use backend::{Backend, Bb8, Deadpool, Setup};

/// Makes a test of each function for each backend.
macro_rules! on_both_backends {
    ($($test:ident),+ $(,)?) => {
        mod deadpool {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<crate::Deadpool>().await;
            })+
        }
        mod bb8 {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<crate::Bb8>().await;
            })+
        }
    };
}
pub(crate) use on_both_backends;
