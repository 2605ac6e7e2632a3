//! Counts what the heap of this process is asked for.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Everything since the process began.
pub(crate) fn stats() -> Stats {
    ALLOCATOR.stats()
}
