//! Counts the allocations of this process.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// All allocations since the start of the process.
pub(crate) fn stats() -> Stats {
    ALLOCATOR.stats()
}
