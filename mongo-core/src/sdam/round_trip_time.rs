//! How long a server takes to answer.

use std::collections::VecDeque;
use std::time::Duration;

/// How many samples the minimum covers.
const WINDOW: usize = 10;

/// The inverse of a new sample's weight in the average, which is 0.2.
const INVERSE_ALPHA: u32 = 5;

/// The round trip times of one server's hellos: their exponentially weighted moving average and the
/// minimum of the last ten.
///
/// Specifications: server selection (the average), server monitoring (the minimum).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundTripTime {
    average: Option<Duration>,
    recent: VecDeque<Duration>,
}

impl RoundTripTime {
    /// Round trip times without a sample.
    pub const fn new() -> Self {
        Self {
            average: None,
            recent: VecDeque::new(),
        }
    }

    /// Takes a sample into account. The average becomes 0.2 times the sample plus 0.8 times the
    /// previous average. The first sample is the first average.
    pub fn record(&mut self, sample: Duration) {
        self.average = Some(match self.average {
            None => sample,
            // Dividing first avoids an overflow; the rounding error is under 10 ns.
            Some(average) if sample >= average => average + (sample - average) / INVERSE_ALPHA,
            Some(average) => average - (average - sample) / INVERSE_ALPHA,
        });
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(sample);
    }

    /// Removes all samples, because the server could not be checked.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// The average; `None` without a sample.
    pub fn average(&self) -> Option<Duration> {
        self.average
    }

    /// The minimum of the last ten samples; zero while there are fewer than two.
    pub fn minimum(&self) -> Duration {
        match self.recent.len() {
            0 | 1 => Duration::ZERO,
            _ => self.recent.iter().min().copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn weighs_new_samples_more() {
        let mut time = RoundTripTime::new();
        assert_eq!(time.average(), None);
        time.record(ms(10));
        assert_eq!(time.average(), Some(ms(10)));
        time.record(ms(20));
        assert_eq!(time.average(), Some(ms(12)));
        time.record(ms(2));
        assert_eq!(time.average(), Some(ms(10)));
        time.record(Duration::MAX);
        assert!(time.average() > Some(ms(10)));
    }

    #[test]
    fn minimum_needs_two_samples_and_forgets_after_ten() {
        let mut time = RoundTripTime::new();
        assert_eq!(time.minimum(), Duration::ZERO);
        time.record(ms(1));
        assert_eq!(time.minimum(), Duration::ZERO);
        for _ in 0..9 {
            time.record(ms(7));
            assert_eq!(time.minimum(), ms(1));
        }
        time.record(ms(8));
        assert_eq!(time.minimum(), ms(7));
        time.reset();
        assert_eq!((time.average(), time.minimum()), (None, Duration::ZERO));
    }
}
