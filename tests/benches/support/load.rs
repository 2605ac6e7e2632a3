//! Runs the same number of tasks on each of several subjects, in turns, and compares them.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;

use crate::worker::{Worker, run_all};

/// The cost of one operation, on average over a round.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    /// Seconds of wall-clock time, all tasks together.
    pub(crate) wall: f64,
    /// CPU seconds of this process, including the kernel's work for it.
    pub(crate) cpu: f64,
}

/// One round with a number of operations by each worker.
type Run = dyn FnMut(&Runtime, usize) -> Sample;

/// A subject of a measurement, with a task for each worker.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    run: Box<Run>,
    samples: Vec<Sample>,
}

impl Subject {
    pub(crate) fn new<W: Worker>(name: &'static str, mut workers: Vec<W>) -> Self {
        Self {
            name,
            run: Box::new(move |runtime, operations| {
                let taken = std::mem::take(&mut workers);
                let (returned, sample) = runtime.block_on(round(taken, operations));
                workers = returned;
                sample
            }),
            samples: Vec::new(),
        }
    }

    /// The median over the rounds.
    pub(crate) fn median(&self, part: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(part).collect())
    }

    /// The median of the rounds' ratios to another subject's same round.
    pub(crate) fn ratio(&self, to: &Self, part: impl Fn(&Sample) -> f64) -> f64 {
        let pairs = self.samples.iter().zip(&to.samples);
        median(pairs.map(|(own, other)| part(own) / part(other)).collect())
    }
}

/// Measures the subjects in `rounds` rounds, each beginning with another subject, with `operations`
/// by each worker in a round. A first round is not counted.
pub(crate) fn measure(
    runtime: &Runtime,
    subjects: &mut [Subject],
    rounds: usize,
    operations: usize,
) {
    let count = subjects.len();
    for subject in subjects.iter_mut() {
        (subject.run)(runtime, operations);
    }
    for first in 0..rounds {
        for turn in 0..count {
            let subject = &mut subjects[(first + turn) % count];
            let sample = (subject.run)(runtime, operations);
            subject.samples.push(sample);
        }
    }
}

async fn round<W: Worker>(workers: Vec<W>, operations: usize) -> (Vec<W>, Sample) {
    let in_all = (workers.len() * operations) as f64;
    let (wall, cpu) = (Instant::now(), cpu_time());
    let returned = run_all(workers, operations).await;
    let sample = Sample {
        wall: wall.elapsed().as_secs_f64() / in_all,
        cpu: (cpu_time() - cpu).as_secs_f64() / in_all,
    };
    (returned, sample)
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
