//! A queue of jobs in a collection, as a backend of [`apalis`](apalis_core): many workers, in any
//! number of processes, claim jobs with `findAndModify`.
//!
//! A job is a document. Its field `due` says from when on a worker may claim it: a claim moves `due`
//! to the end of a lease, heartbeats move it on, and a finished job has none. If a worker dies, its
//! lease ends, and another worker claims the job.
//!
//! So a job can run twice, and must be idempotent. Leases are times of the workers' clocks, which
//! must not differ by more than a small part of a lease.

// In your code: `use mongo_deadpool::…` or `use mongo_bb8::…`.
#[cfg(feature = "bb8")]
pub use mongo_bb8 as backend;
#[cfg(not(feature = "bb8"))]
pub use mongo_deadpool as backend;

mod queue;
mod source;

pub use queue::{Counts, Queue, QueueConfig};
pub use source::{BsonCodec, Source};
