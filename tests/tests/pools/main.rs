//! What holds on either backend: every test here is a function over a [`Backend`], run once for
//! deadpool and once for bb8.

mod backend;
mod commands;
mod errors;
mod held_up;
mod hostile_bb8;
mod hostile_core;
mod lifecycle;
mod of_bb8;
mod of_deadpool;
mod outlived;
mod panics;
mod refusals;
mod replaced;
mod replica_sets;
mod runtimes;
mod upkeep;

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
