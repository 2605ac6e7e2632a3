//! What the targets have in common: the time that an input may take, and messages round bytes.

pub mod endpoint;

use std::cell::Cell;
use std::time::Duration;

use bson::RawDocument;
use mongo_core::wire::{HEADER_LEN, Limits};
use rustix::time::{ClockId, clock_gettime};

/// An input that takes longer is a finding.
const SLOWEST: Duration = Duration::from_millis(100);
/// What is quicker is not worth a word.
const QUICK: Duration = Duration::from_millis(1);

/// Small, so that what is unpacked, or asked for, shows in the memory.
pub const LIMITS: Limits = Limits::new(1024 * 1024, 256);

thread_local! {
    static SLOWEST_YET: Cell<Duration> = const { Cell::new(QUICK) };
}

/// Runs an input, and tells on standard error of each that is slower than all before.
///
/// # Panics
/// If it takes more than 100 ms of the thread's CPU time. Only the quickest of several runs counts:
/// the first one warms caches.
pub fn timed(run: impl Fn()) {
    let cpu_time = || {
        let begun = thread_time();
        run();
        thread_time().saturating_sub(begun)
    };
    let mut took = cpu_time();
    if took <= SLOWEST_YET.get() {
        return;
    }
    for _ in 0..4 {
        took = took.min(cpu_time());
    }
    if took > SLOWEST_YET.get() {
        SLOWEST_YET.set(took);
        eprintln!("slowest: {} us", took.as_micros());
    }
    assert!(took <= SLOWEST, "an input took {took:?}");
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Writes a message: what a server sends in answer to request 1, with the right length.
pub fn message(buffer: &mut Vec<u8>, op_code: i32, contents: &[u8]) {
    buffer.clear();
    let length = (HEADER_LEN + contents.len()) as i32;
    for number in [length, 1, 1, op_code] {
        buffer.extend_from_slice(&number.to_le_bytes());
    }
    buffer.extend_from_slice(contents);
}

/// A document with these elements, or what is meant to be such: its length and its end are right.
pub fn document<'a>(buffer: &'a mut Vec<u8>, elements: &[u8]) -> Option<&'a RawDocument> {
    buffer.clear();
    buffer.extend_from_slice(&(elements.len() as i32 + 5).to_le_bytes());
    buffer.extend_from_slice(elements);
    buffer.push(0);
    RawDocument::from_bytes(buffer).ok()
}
