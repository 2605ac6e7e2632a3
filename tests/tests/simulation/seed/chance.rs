//! Random numbers from a seed.

use std::time::Duration;

/// A generator for one actor (SplitMix64), so that the order in which actors draw does not matter.
pub(super) struct Chance(u64);

impl Chance {
    /// The generator of one actor of a seed.
    pub(super) fn new(seed: u64, actor: u64) -> Self {
        let mut chance = Self(seed ^ actor.rotate_left(32));
        chance.next();
        chance
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `times`.
    pub(super) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(super) fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least + 1))
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let place = usize::try_from(self.below(of.len() as u64)).unwrap_or(0);
        of[place]
    }
}
